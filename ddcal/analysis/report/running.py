"""Running what a report lacks: every study that is not finished yet, in turn, on one Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from ddcal.analysis.report.progress import ReportProgress
from ddcal.analysis.report.studies import ReportStudy
from ddcal.config import StudyConfig
from ddcal.config.trial import flatten
from ddcal.errors import BadInput
from ddcal.study.record.ledger import begun
from ddcal.study.record.results import StudyResults, load_study

State = Literal["missing", "unfinished", "finished"]

DECISIVE = ("trial", "base", "space", "objectives", "constraints")
"""What of a study decides over its numbers; of a grid, not the order in which it is gone through."""

POINTS = "search.enqueue"


def study_state(study: StudyConfig, root: Path) -> State:
    """Return how far a study is in the output root.

    Raises:
        BadInput: as `check_settings`.
    """
    return _state(study, check_settings(study, root))


def _state(study: StudyConfig, found: StudyResults | None) -> State:
    if found is None:
        return "missing"
    ended = all(trial.outcome is not None for trial in found.records)
    return "finished" if ended and len(found.records) >= study.search.trials else "unfinished"


def check_settings(study: StudyConfig, root: Path, *, points: bool = True) -> StudyResults | None:
    """Return what the output root has of a study; None if it was not begun.

    Args:
        study: As it would be run now.
        root: The output root.
        points: Whether its points (``search.enqueue``) are known already.

    Raises:
        BadInput: if a study of that name was run there with other settings.
    """
    directory = root / study.name
    if not begun(directory):
        return None
    results = load_study(directory)
    differing = [name for name in _differing(results.study, study) if points or name != POINTS]
    if differing:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        raise BadInput(
            f"{directory} was run with other settings ({shown}): take another --output, or move that folder away "
            "(finished stages stay in the store either way)"
        )
    return results


def run_missing(
    studies: Sequence[ReportStudy],
    root: Path,
    progress: ReportProgress,
    *,
    debug: bool = False,
    address: str | None = None,
) -> int:
    """Run or resume every study that is not finished, in order, and return how many those were.

    Args:
        studies: From `paper_studies`.
        root: The output root; the studies share the store in it.
        progress: Is told what happens.
        debug: As in `ddcal.study.run_study`.
        address: As in `ddcal.study.run_study`.

    Raises:
        BadInput: as `study_state`, before anything is run.
        KeyboardInterrupt: on Ctrl-C; the same call goes on.
    """
    states, took = dict[str, State](), dict[str, float]()
    for config in (study.config for study in studies):
        found = check_settings(config, root)
        states[config.name] = _state(config, found)
        if states[config.name] == "finished" and found is not None and found.seconds is not None:
            took[config.name] = found.seconds
    todo = [study for study in studies if states[study.config.name] != "finished"]
    progress.begin(studies, todo, took)
    if not todo:
        return 0

    from ddcal.study.run.runner import run_studies

    with _one_ray(debug, address):
        run_studies([(study.config, progress.hooks_of(study)) for study in todo], root, debug=debug, address=address)
    return len(todo)


def load_finished(names: Sequence[str], root: Path) -> list[StudyResults]:
    """Return the results of those studies of ``names`` that were begun in the output root."""
    return [load_study(root / name) for name in names if begun(root / name)]


@contextmanager
def _one_ray(debug: bool, address: str | None) -> Iterator[None]:
    """Keep one Ray for all studies: each would start its own otherwise."""
    if debug:
        context: Any = nullcontext()
    else:
        from ddcal.study.run.ray_executor import ray_runtime

        context = ray_runtime(address)
    with context:
        yield


def _differing(recorded: StudyConfig, wanted: StudyConfig) -> list[str]:
    """Return the dotted keys in which two studies differ, of those that decide over numbers."""
    values = [_decisive(study) for study in (recorded, wanted)]
    names = dict.fromkeys([*values[0], *values[1]])
    missing = object()
    points = [POINTS] if recorded.search.enqueue != wanted.search.enqueue else []
    return points + [name for name in names if values[0].get(name, missing) != values[1].get(name, missing)]


def _decisive(study: StudyConfig) -> dict[str, Any]:
    """Return what decides over the numbers of a study: dotted key → value."""
    values = flatten(study.model_dump(mode="json", include=set(DECISIVE)))
    if study.search.searcher != "grid":
        return values
    choices = {f"space.{name}.choice" for name in study.space}
    return {name: sorted(value, key=repr) if name in choices and value else value for name, value in values.items()}
