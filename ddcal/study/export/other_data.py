"""Where the data of a run lies here, and whether the other data that it was measured with is the same here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from ddcal.config import TrialConfig
from ddcal.config.checks.shift import KEY
from ddcal.config.datasets import is_data_place
from ddcal.data import DataError
from ddcal.pipeline.stages.evaluate import EVALUATE, other_fingerprints
from ddcal.untrusted import read_json


def places(recorded: str | None, given: Path | str | None) -> Iterator[str | None]:
    """Yield where a run's data may lie, first choice first.

    Args:
        recorded: Where it lay.
        given: Where it is said to lie here, or the folder that holds what is called like it.
    """
    name = None if recorded is None else Path(recorded).name
    roots = [str(given)] if given is not None else [os.environ.get("DDCAL_DATA")]
    if given is None:
        yield recorded
    for root in roots if recorded is not None or given is not None else ():
        if root:
            if name:
                yield str(Path(root).expanduser() / name)
            yield str(Path(root).expanduser())


def with_other_data_here(config: TrialConfig, given: Path | str | None) -> TrialConfig:
    """Return a run's config with the paths of ``evaluate.shift.datasets`` that are here; others stay as they were.

    Args:
        config: The run's.
        given: As `places` has it.
    """

    def here(entry: str) -> str:
        if not is_data_place(entry):
            return entry
        found = [place for place in places(entry, given) if place and Path(place).name == Path(entry).name]
        return next((place for place in found if Path(place).exists()), entry)

    shift = config.evaluate.shift
    shift = shift.model_copy(update={"datasets": [here(entry) for entry in shift.datasets]})
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"shift": shift})})


def other_data_problem(folder: Path, config: TrialConfig) -> str:
    """Return which of ``evaluate.shift.datasets`` is another here than when the run was made; "" if none is.

    Args:
        folder: The export.
        config: The run's, with its data as it lies here.

    Raises:
        ddcal.data.DataError: if one is missing, naming where it was looked for.
    """
    if not config.evaluate.shift.datasets:
        return ""
    try:
        here = other_fingerprints(config)
    except DataError as error:
        command = f"ddcal replay {shlex.quote(str(folder))} --data-root PLACE"
        raise DataError(f"{error}. If it lies elsewhere here, beside the run's data: `{command}`") from error
    try:
        recorded = read_json(folder / str(EVALUATE.values_file))["other_data"]
        changed = [label for label, fingerprint in here.items() if recorded[label] != fingerprint]
    except (OSError, ValueError, LookupError, TypeError):
        return f"{EVALUATE.values_file} does not say which data {KEY} had: export the trial again"
    if not changed:
        return ""
    return f"{KEY}: {', '.join(changed)} is another here than when the run was made: other data gives other numbers"
