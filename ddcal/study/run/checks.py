"""Whether the trials of a study can use the data and the files that they ask for, before any of them runs."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.config import StudyConfig, TrialConfig, resolve
from ddcal.config.checks.shift import KEY as OTHER_DATA
from ddcal.config.datasets import other_data
from ddcal.config.problems import ConfigError, Problem, problem_at
from ddcal.config.space import combinations, trial_of

if TYPE_CHECKING:
    from ddcal.data import DataError, DatasetShape

DECIDING = (
    "data.",
    "distill.backbone",
    "distill.ipc",
    "distill.rtp.bases",
    "distill.formation.",
    "distill.coreset.factor",
    OTHER_DATA,
)
"""Names, or beginnings of names, that decide which data a trial reads and what it must have."""


@dataclass
class DataReport:
    """What was found.

    Attributes:
        errors: Data sets that no trial can use.
        problems: Settings that ask more of a data set than it has, at the keys of the study, where every trial does.
        warnings: What a person should know of data sets that can be used, in sentences.
    """

    errors: list[DataError] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_data(study: StudyConfig, thorough: bool = True) -> DataReport:
    """Look at every data set that a study can ask for: headers and labels, and whether each class has ``ipc`` images.

    Args:
        study: The study.
        thorough: As `ddcal.data.shapes.check_dataset` has it.
    """
    from ddcal.data import DataError
    from ddcal.data.shapes import check_dataset

    report, others = DataReport(), dict[tuple[str, str], Problem | None]()
    shapes: dict[str, DatasetShape | None] = {}
    possible = False
    for point in combinations(study, of=DECIDING):
        trial = trial_of(study, point)
        asked = trial.data.model_dump_json()
        if asked not in shapes:
            shapes[asked] = None
            try:
                shapes[asked], remarks = check_dataset(trial.data, thorough)
                report.warnings += remarks
            except DataError as error:
                report.errors.append(error)
        shape = shapes[asked]
        said = "" if shape is None else _too_few(trial, shape)
        possible |= shape is not None and not said
        if said:
            place = "space" if "distill.ipc" in study.space else "base"
            report.problems.append(problem_at((place, "distill.ipc"), said, trial.distill.ipc))
        if shape is not None and study.trial == "ddnn":
            others |= _other_data_problems(study, trial, shape, thorough, others.keys())
    if possible:  # such trials fail, and the others of the study do not
        report.warnings += [f"{problem}; trials with it will fail" for problem in report.problems]
        report.problems = []
    report.problems += [problem for problem in others.values() if problem is not None]
    report.problems = list(dict.fromkeys(report.problems))
    report.warnings = list(dict.fromkeys(report.warnings))
    return report


def _other_data_problems(
    study: StudyConfig,
    trial: TrialConfig,
    shape: DatasetShape,
    thorough: bool,
    known: Container[tuple[str, str]],
) -> dict[tuple[str, str], Problem | None]:
    """Return (entry, the trial's data) → why an entry of ``evaluate.shift.datasets`` cannot be measured with, or None.

    Args:
        study: The study.
        trial: One of its trials.
        shape: Of the trial's own data.
        thorough: As `check_data`.
        known: What was looked at.
    """
    from ddcal.data import DataError
    from ddcal.data.other import LEAST_RESOLUTION, channel_problem
    from ddcal.data.shapes import check_dataset

    found: dict[tuple[str, str], Problem | None] = {}
    place = "space" if OTHER_DATA in study.space else "base"
    for entry in trial.evaluate.shift.datasets:
        looked_at = (entry, trial.data.model_dump_json())
        if looked_at in known:
            continue
        other = other_data(entry, trial.data)
        if other.spec.image_files:
            other = other.model_copy(update={"resolution": max(LEAST_RESOLUTION, shape.size)})
        try:
            said = channel_problem(check_dataset(other, thorough)[0].channels, shape.channels)
        except DataError as error:
            said = " ".join(str(error).split())  # a problem is a line
        found[looked_at] = problem_at((place, OTHER_DATA), said, entry) if said else None
    return found


def refuse_data(study: StudyConfig) -> list[str]:
    """Raise now rather than once in every trial, for every data set that a study can ask for; return the warnings.

    Raises:
        DataError: if a data set is missing, damaged or not what trials can use.
        ConfigError: if no trial can take the images of a class that it asks for.
    """
    report = check_data(study)
    if report.errors:
        raise report.errors[0]
    if report.problems:
        raise ConfigError(report.problems)
    return report.warnings


def refuse_files(study: StudyConfig) -> list[str]:
    """Raise now for files that no trial could import, and where there is no compiler; return the warnings.

    Raises:
        ConfigError: if there are such.
    """
    from ddcal.pipeline.environment import compile_problems
    from ddcal.pipeline.imported import check_imports

    report = check_imports(study)
    if problems := report.problems + compile_problems(study):
        raise ConfigError(problems)
    return report.warnings


def _too_few(trial: TrialConfig, shape: DatasetShape) -> str:
    """Return why a trial cannot take the images of every class that it begins with or chooses, or an empty string."""
    needed, fewest = trial.distill.spec.real_images(resolve(trial).distill), min(shape.class_sizes)
    if needed <= fewest:
        return ""
    each = needed // trial.distill.ipc
    label = shape.class_sizes.index(fewest)
    name = shape.class_names[label]
    shown = f"class {label}" + (f" ({name})" if name != str(label) else "")
    more = sum(size < needed for size in shape.class_sizes) - 1
    setting = "formation" if trial.distill.formation.factor > 1 else "coreset"
    also = f", and {more} more have too few" if more else ""
    formed = f" (each stored image begins as {each} of them, distill.{setting}.factor)" if each > 1 else ""
    return (
        f"must be at most {fewest // each}: of {trial.data.root or trial.data.name}, {shown} has {fewest} training "
        f"images without val{also}{formed}; lower it, or add images"
    )


def with_data_problems(
    file: Path, study: StudyConfig | None, problems: Sequence[Problem], warnings: list[str]
) -> tuple[StudyConfig | None, list[Problem]]:
    """Return the study (None if it cannot run on its data) and its problems, with one more for each of its data.

    Headers and labels are looked at; nothing is decoded.

    Args:
        file: The study file, for the messages.
        study: None if it has problems.
        problems: Those that it has.
        warnings: What a person should know is appended here.
    """
    found = list(problems)
    if study is None:
        return None, found
    report = check_data(study, thorough=False)
    for error in report.errors:
        said = " ".join(str(error).split())  # a problem is a line
        found.append(replace(problem_at(("base", "data"), said), file=str(file)))
    found += [replace(problem, file=str(file)) for problem in report.problems]
    warnings += report.warnings
    return (study if len(found) == len(problems) else None), found
