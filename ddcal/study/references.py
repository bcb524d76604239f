"""Who refers to what in an artefact store, so that pruning never removes what a study or an export still needs.

A study's folder and an export leave a small file under ``<store>/references/`` with the path where they lie. It counts
for as long as something is there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import yaml

from ddcal.errors import BadInput, StoreError
from ddcal.study.ledger import read_ledger

REFERENCES = "references"
Kind = Literal["study", "export"]


def refer(store: Path, kind: Kind, folder: Path) -> None:
    """Note in ``store`` that the study or export at ``folder`` uses it.

    Raises:
        StoreError: if the store cannot be written.
    """
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    path = store / REFERENCES / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"kind": kind, "folder": str(folder)}))
    except OSError as error:
        raise StoreError(f"the artefact store {store} cannot be written: {error.strerror or error}") from error


def referred_keys(store: Path) -> dict[str, set[str]]:
    """Return key → the folders of the studies and exports that refer to it.

    Raises:
        BadInput: if a study or export is there but cannot be read: pruning would not be safe.
    """
    keys: dict[str, set[str]] = {}
    for path in sorted((store / REFERENCES).glob("*.json")):
        try:
            reference = json.loads(path.read_text())
            folder = Path(reference["folder"])
            found = _study_keys(folder) if reference["kind"] == "study" else _export_keys(folder)
        except FileNotFoundError:  # the study or export is gone
            continue
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise BadInput(f"{path}: what it refers to cannot be read ({error}); nothing was removed") from error
        for key in found:
            keys.setdefault(key, set()).add(str(folder))
    return keys


def _study_keys(folder: Path) -> set[str]:
    keys: set[str] = set()
    for event in read_ledger(folder):
        if event["event"] in ("trial_started", "trial_finished"):
            keys.update((event.get("keys") or {}).values())
    return keys


def _export_keys(folder: Path) -> set[str]:
    run = yaml.safe_load((folder / "run.yaml").read_text())
    return {stage["key"] for stage in run["stages"].values()}
