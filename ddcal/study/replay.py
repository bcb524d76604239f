"""Replay: run an export again from scratch and compare every metric and artefact with what was recorded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ddcal.config import TrialConfig
from ddcal.config.trial import flatten
from ddcal.data import dataset_fingerprint
from ddcal.pipeline import Advance, Environment, TrialRunner, open_store
from ddcal.pipeline.environment import default_device
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.store import file_sha256
from ddcal.study.export import FORMAT_VERSION, LOCK, NOT_COMPARED, RUN, SOURCE, ExportError
from ddcal.study.provenance import NUMERIC_PACKAGES, package_versions

REQUIRED = ("config", "target", "environment", "data_fingerprint", "versions", "tolerance", "metrics", "stages")
"""What run.yaml must hold."""


@dataclass(frozen=True)
class Comparison:
    """One recorded value beside the replayed one; ``tolerance`` is absolute, 0 means equal to the last bit."""

    name: str
    recorded: float | str | None
    replayed: float | str | None
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether the replayed value is the recorded one, within the tolerance."""
        if self.recorded == self.replayed:
            return True
        if isinstance(self.recorded, float | int) and isinstance(self.replayed, float | int):
            return abs(self.recorded - self.replayed) <= self.tolerance
        return self.tolerance > 0 and self.recorded is not None and self.replayed is not None


def read_run(folder: Path | str) -> dict[str, Any]:
    """Return an export's run.yaml after checking that it is whole and unedited.

    Raises:
        ExportError: naming each missing or changed file and each key whose value differs from run.lock.json.
    """
    folder = Path(folder)
    contents: dict[str, Any] = {}
    for name, parse in ((RUN, yaml.safe_load), (LOCK, json.loads)):
        path = folder / name
        try:
            contents[name] = parse(path.read_text())
        except FileNotFoundError as error:
            raise ExportError(f"{folder} is not an export: {name} is missing") from error
        except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
            raise ExportError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(contents[name], dict):
            raise ExportError(f"{path} is not a mapping")
    run, lock = flatten(contents[RUN]), flatten(contents[LOCK])
    absent = object()
    edited = [
        f"{folder / RUN}: {key} is {_shown(run, key)}, but was exported as {_shown(lock, key)}"
        for key in sorted(run.keys() | lock.keys())
        if run.get(key, absent) != lock.get(key, absent) or type(run.get(key)) is not type(lock.get(key))
    ]
    if edited:
        raise ExportError("\n".join([*edited, "restore the exported values, or run a study of your own with these"]))
    if contents[RUN].get("format_version") != FORMAT_VERSION:
        raise ExportError(
            f"{folder / RUN}: format_version is {contents[RUN].get('format_version')}, "
            f"this ddcal reads {FORMAT_VERSION}"
        )
    problems = [f"{folder / RUN}: {key} is missing" for key in REQUIRED if key not in contents[RUN]]
    if not problems:
        problems = _changed_files(folder, contents[RUN])
    if problems:
        raise ExportError("\n".join([*problems, "take the export as it was written, or export the trial again"]))
    return contents[RUN]


def check_replayable(run: dict[str, Any], *, ignore_versions: bool = False) -> None:
    """Refuse, before anything is computed, what cannot give the recorded numbers.

    Raises:
        ExportError: naming every difference in the data, the device and the versions of numeric packages.
    """
    problems = []
    try:
        fingerprint = dataset_fingerprint(TrialConfig.model_validate(run["config"]).data)
        if fingerprint != run["data_fingerprint"]:
            problems.append(
                f"data_fingerprint: this {run['config']['data']['name']} has {fingerprint[:16]}…, "
                f"the run used {str(run['data_fingerprint'])[:16]}…: other data gives other numbers"
            )
    except ValidationError as error:
        problems.append(f"config: not a trial of this ddcal: {error.errors()[0]['loc']} {error.errors()[0]['msg']}")
    device = run["environment"]["device"]
    if device != "cpu" and default_device() == "cpu":
        problems.append(f"environment.device: the run used {device}, and torch sees no GPU here")
    if not ignore_versions:
        here = package_versions()
        for package in NUMERIC_PACKAGES:
            recorded = run["versions"].get(package)
            if recorded is not None and here.get(package) != recorded:
                problems.append(
                    f"versions.{package}: here {here.get(package, 'not installed')}, the run used {recorded}: "
                    f"install {package}=={recorded}, or --ignore-versions to compare all the same"
                )
    if problems:
        raise ExportError("\n".join(problems))


def replay(
    folder: Path | str,
    *,
    store: Path | str | None = None,
    ignore_versions: bool = False,
    on_advance: Callable[[Advance], None] | None = None,
) -> list[Comparison]:
    """Run an export again and compare.

    Args:
        folder: The export.
        store: A store (folder or URL) whose finished stages may be used; None computes everything from scratch.
        ignore_versions: Go on with other versions of numeric packages.
        on_advance: Called after every chunk of work.

    Returns:
        Every metric and every artefact digest, recorded beside replayed.

    Raises:
        ExportError: as `read_run` and `check_replayable`.
    """
    run = read_run(folder)
    check_replayable(run, ignore_versions=ignore_versions)
    device = "cpu" if run["environment"]["device"] == "cpu" else "cuda"
    environment = Environment(device, run["environment"]["threads"], run["environment"]["precision"])
    with tempfile.TemporaryDirectory(prefix="ddcal-replay-") as scratch:
        runner = TrialRunner(
            _config(run, Path(folder)), open_store(store or scratch), environment, target=run["target"]
        )
        runner.run(on_advance)
        tolerance = run["tolerance"]
        comparisons = [
            Comparison(name, run["metrics"].get(name), runner.metrics.get(name), tolerance)
            for name in sorted(run["metrics"].keys() | runner.metrics.keys())
        ]
        for stage, recorded in run["stages"].items():
            files = {n: d for n, d in runner.entries[stage].files.items() if n not in NOT_COMPARED}
            comparisons += [
                Comparison(f"{stage}/{name}", recorded["files"].get(name), files.get(name), tolerance)
                for name in sorted(recorded["files"].keys() | files.keys())
            ]
    return comparisons


def _config(run: dict[str, Any], folder: Path) -> TrialConfig:
    """Return the run's config; an imported set is read from the copy of its tensors in the export."""
    config = TrialConfig.model_validate(run["config"])
    if config.distill.backbone != "file":
        return config
    copied = {"images": str((folder / SOURCE).absolute()), "labels": None, "index": 0}
    distill = config.distill.model_copy(update={"file": config.distill.file.model_copy(update=copied)})
    return config.model_copy(update={"distill": distill})


def _changed_files(folder: Path, run: dict[str, Any]) -> list[str]:
    """Return what is wrong with the artefacts that lie in the export, which a reader may use without a replay."""
    recorded = {
        folder / place / name: (record["files"][name], f"stages.{stage}.files.{name}")
        for stage, record in run["stages"].items()
        for name, place in STAGES[stage].exported(record["files"]).items()
    }
    for name, digest in run.get("models", {}).get("files", {}).items():
        recorded[folder / name] = (digest, f"models.files.{name}")
    problems = []
    for path, (digest, key) in recorded.items():
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif file_sha256(path) != digest:
            problems.append(f"{path} was changed: its sha256 is not {key} of {RUN}")
    return problems


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "missing"
