"""What can be said of the files that a study imports before any of its trials runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddcal.config import StudyConfig, TrialConfig
from ddcal.config.problems import Problem, problem_at
from ddcal.config.space import combinations, trial_of

if TYPE_CHECKING:
    from torch import Tensor

DECIDING = ("distill.backbone", "distill.ipc", "distill.file.", "data.")
"""Names, or beginnings of names, that decide which file is read and what it must be like."""

REAL_IMAGES, REAL_PICTURES = 2000, 200
"""How many real images tell what their pixels are like: of arrays, and of files that are decoded for it."""


@dataclass
class FileReport:
    """What was found.

    Attributes:
        problems: What no trial could use, at the keys of the study.
        warnings: Sentences on sets that do not look like what is said of them.
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def imports(study: StudyConfig) -> list[TrialConfig]:
    """Return a trial for every file, and everything said of it, that the study's space has; none without a file."""
    found: dict[str, TrialConfig] = {}
    for point in combinations(study, of=DECIDING):
        trial = trial_of(study, point)
        if trial.distill.spec.imports:
            found.setdefault(repr((trial.distill.file, trial.distill.ipc, trial.data)), trial)
    return list(found.values())


def check_imports(study: StudyConfig) -> FileReport:
    """Read every file that a study imports, and check it against the trial and, where its data is here, the dataset.

    Nothing heavy is imported for a study that imports no file.
    """
    report = FileReport()
    for trial in imports(study):
        _check(study, trial, report)
    report.problems = list(dict.fromkeys(report.problems))
    report.warnings = list(dict.fromkeys(report.warnings))
    return report


def _check(study: StudyConfig, trial: TrialConfig, report: FileReport) -> None:
    from ddcal.data import DataError, dataset_shape
    from ddcal.distill.importing.imported import contradictions
    from ddcal.distill.importing.tensor_file import TensorFileError, check_tensors, read_tensor_file

    file, shape, pixels = trial.distill.file, None, None
    try:
        sizes = dataset_shape(trial.data)
        shape, pixels = (sizes.classes, sizes.channels, sizes.size), real_pixels(trial)
    except DataError:  # no data on the machine that validates: what depends on it is said by the run
        pass
    try:
        tensors = read_tensor_file(file)
        faults = check_tensors(tensors, file, trial.distill.ipc, shape)
    except TensorFileError as error:
        faults = list(error.faults)
    for fault in faults:
        place = "space" if fault.key in study.space else "base"
        report.problems.append(problem_at((place, fault.key), fault.message, fault.value))
    if not faults and pixels is not None:
        report.warnings += [f"{file.images}: {said}" for said in contradictions(tensors.images, file, pixels)]


def real_pixels(trial: TrialConfig) -> Tensor:
    """Return some real training images of a trial's dataset as float32 (N, C, S, S) in [0, 1].

    Raises:
        ddcal.data.DataError: if its files are missing or damaged.
    """
    import torch

    from ddcal.data.decoded import some_decoded
    from ddcal.data.preprocessing import unit_images
    from ddcal.data.sources import locate_source, read_source

    source = locate_source(trial.data)
    if source.images is not None:
        pictures = some_decoded(trial.data, source.images, REAL_PICTURES)
        return unit_images(pictures, torch.arange(len(pictures)), None)
    images = read_source(trial.data, source).train_images
    chosen = torch.linspace(0, len(images) - 1, min(REAL_IMAGES, len(images))).long()
    return unit_images(images, chosen, trial.data.resolution)
