"""What `validate`, `plan` and `run` say of a study in which nothing is wrong, but which may not be what was meant."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ddcal.config.backbones import SECTIONS, Backbone
from ddcal.config.metrics import METRICS
from ddcal.config.names import nest
from ddcal.config.presets import ZCA, preset_of
from ddcal.config.reading.overrides import parse_overrides
from ddcal.config.space import combinations, trial_of
from ddcal.config.study import StudyConfig, parse_constraint
from ddcal.config.training import LOSS_SECTIONS
from ddcal.config.trial import TrialConfig, flatten

_CHOOSING = ("distill.backbone", "train.loss", "labels.source", "calibrate.method", "calibrate.solver")
"""Names that decide which sections a trial reads."""

_OF_A_LOOP = ("distill.iterations", "distill.clip", "distill.update_limit", "distill.mask.")
"""Names, or beginnings of names, that mean nothing where no images are learned."""

_EXPERTS, _EPOCH = "distill.mtt.experts.", "labels.epoch"

_COVERAGE, _SHIFTED = "evaluate.coverage", "evaluate.shift.images"
"""Settings of what is evaluated where it is asked for."""

_OF_A_SET = ("train.holdout", "distill.ipc")
"""Settings that mean nothing where networks are trained on all images."""

_BOUNDS = ("calibrate.t_min", "calibrate.t_max")

_BINS, PROBE_BINS = "evaluate.bins", (10, 15)
"""How many bins the scores of probes, and of the points of a trial, can have."""

_DECIDING = ("distill.backbone", "distill.family", "distill.ipc", "data.name")


def zca_notes(study: StudyConfig) -> list[str]:
    """Return a sentence for each published row (of MTT) that is with ZCA while the trials that take it are without.

    Args:
        study: Without mistakes. One that searches over ``data.zca`` has no notes.
    """
    if ZCA in study.space:
        return []
    notes: dict[str, None] = {}
    for point in combinations(study, _DECIDING):
        trial = trial_of(study, point)
        if not trial.data.zca and preset_of(trial).values.get(ZCA):
            distill, name = trial.distill, trial.data.name
            row = f"the row of {name} in family {distill.family} is with ZCA"
            notes[
                f"{distill.backbone}, ipc {distill.ipc}: {row}, and data.zca is false: set it to true to follow the row"
            ] = None
    return list(notes)


def unused_notes(study: StudyConfig) -> list[str]:
    """Return a sentence for each setting of a loss, backbone, loop, experts' labels or evaluation that no trial has.

    Of calibrations, for each that is searched: a base often serves studies with several methods.

    Args:
        study: Without mistakes.
    """
    base = [name for name in flatten(nest(study.base)[0]) if not name.startswith("calibrate.")]
    given = [name for name in dict.fromkeys((*base, *study.space)) if _may_be_unused(name)]
    notes = _probe_notes(study)
    if not given:
        return notes
    trials = [trial_of(study, point) for point in combinations(study, _CHOOSING)]
    for name in given:
        if not any(_reads(trial, name) for trial in trials):
            notes.append(f"{name} has no effect where {_where(trials, name)}, as in every trial: leave it out")
    return notes


def constraint_notes(study: StudyConfig) -> list[str]:
    """Return a sentence for each upper bound that every trial meets, as one in percent would be.

    Args:
        study: Without mistakes.
    """
    notes = []
    for metric, text in study.constraints.items():
        name, bound = metric.removeprefix("val/"), parse_constraint(metric, text)
        if bound.at_least or bound.bound < METRICS[name].most:
            continue
        percent = METRICS[name].most == 1 and 1 < bound.bound <= 100
        cure = f"for {bound.bound:g} % write <= {bound.bound / 100:g}" if percent else "leave it out"
        notes.append(
            f"constraints.{metric} {text!r}: every trial meets it ({name} is {METRICS[name].most:g} at most); {cure}"
        )
    return notes


def probe_bins(bins: int) -> int:
    """Return how many bins ``val/ece`` of a probe has where ``evaluate.bins`` is ``bins``."""
    return bins if bins in PROBE_BINS else max(PROBE_BINS)


def has_effect(trial: TrialConfig, name: str) -> bool:
    """Return whether a trial reads a setting.

    Args:
        trial: The trial.
        name: The setting's dotted name.

    Raises:
        ddcal.config.components.ComponentError: if the package of a user's own component is missing.
    """
    return not _may_be_unused(name) or _reads(trial, name)


def _calibration_reads(trial: TrialConfig, setting: str) -> bool:
    """Return whether a trial's calibration reads a setting of the section ``calibrate``."""
    method = trial.calibrate.spec
    bounded = method.bounds is not None
    if method.temperature_alone and trial.calibrate.solver == "paper_lbfgs":  # its optimiser knows no bounds
        bounded = False
    read = {
        "mask": method.masks and not (setting == "mask.ratio" and method.finds_ratio),
        "draws": method.masks,
        "t_min": bounded,
        "t_max": bounded,
        "solver": method.temperature_alone,
        "folds": method.cross_validates,
    }
    return bool(read.get(setting.split(".")[0], True))


def _probe_notes(study: StudyConfig) -> list[str]:
    """Return what has no effect on the scores of trials that end with the distilled set."""
    if study.trial != "distill":
        return []
    ends = "as trials end with the distilled set (trial: distill)"
    notes = [
        f"{name} has no effect, {ends}: leave it out"
        for name in study.space
        if name.startswith("evaluate.") and name != _BINS
    ]
    bins = {trial_of(study, point).evaluate.bins for point in combinations(study, (_BINS,))} - set(PROBE_BINS)
    if bins:
        notes.append(
            f"{_BINS} {', '.join(map(str, sorted(bins)))} has no effect, {ends}: their probes have 15 bins, or 10"
        )
    return notes


def expert_notes(study: StudyConfig) -> list[str]:
    """Return a sentence where experts are trained anew for each value of ``labels.epoch``, as they end with it.

    Args:
        study: Without mistakes.
    """
    if _EPOCH not in study.space:
        return []
    lengths: dict[str, set[int]] = {}  # of experts of trials that differ in nothing but when they label
    for point in combinations(study, (*_CHOOSING, _EPOCH, f"{_EXPERTS}epochs")):
        trial = trial_of(study, point)
        if trial.labels.by_experts:
            others = repr({name: value for name, value in point.items() if name != _EPOCH})
            lengths.setdefault(others, set()).add(trial.distill.mtt.kept_epochs)
    longest = max((max(found) for found in lengths.values() if len(found) > 1), default=None)
    if longest is None:
        return []
    return [
        f"{_EPOCH} is searched and {_EXPERTS}epochs is left out: experts are trained anew for each value; set that to "
        f"{longest}, the largest, and all trials share them"
    ]


def _where(trials: list[TrialConfig], name: str) -> str:
    """Return why no trial reads a setting."""
    if name == _COVERAGE:
        return "evaluate.also has no 'conformal'"
    if name == _SHIFTED:
        return "evaluate.shift has no corruptions and no datasets"
    if name in _BOUNDS and all(trial.calibrate.spec.bounds is not None for trial in trials):
        return "calibrate.solver is 'paper_lbfgs'"
    keys = {"train": "train.loss", "labels": "labels.source", "calibrate": "calibrate.method"}
    key = "distill.backbone" if name in _OF_A_SET else keys.get(name.split(".")[0], "distill.backbone")
    return f"{key} is {' or '.join(dict.fromkeys(repr(_chosen(trial, key)) for trial in trials))}"


def searched_notes(study: StudyConfig, overrides: Iterable[str]) -> list[str]:
    """Return a sentence for each value of ``--set base.…`` that no trial has, as every trial has a searched one.

    Args:
        study: Without mistakes.
        overrides: The ``--set`` arguments that it was read with.
    """
    notes = []
    for key, given, _ in parse_overrides(overrides)[0]:
        for full, value in flatten({key: given}).items():
            name = full.removeprefix("base.")
            if name != full and name in study.space and not study.space[name].when:
                shown = value if isinstance(value, str) else json.dumps(value)
                notes.append(
                    f"--set {full}={shown} has no effect, as this study searches over space.{name}: "
                    f"give --set space.{name}=[{shown}]"
                )
    return notes


def _chosen(trial: TrialConfig, key: str) -> str:
    return {
        "train.loss": trial.train.loss,
        "labels.source": trial.labels.source,
        "distill.backbone": trial.distill.backbone,
        "calibrate.method": trial.calibrate.method,
    }[key]


def _may_be_unused(name: str) -> bool:
    part, section, *inside = [*name.split("."), ""]
    if part in ("labels", "calibrate"):
        return section not in ("source", "method")
    if name.startswith(_OF_A_LOOP) or name in (_COVERAGE, _SHIFTED, *_OF_A_SET):
        return True
    return bool(inside[:-1]) and section in {"train": LOSS_SECTIONS, "distill": SECTIONS}.get(part, ())


def _reads(trial: TrialConfig, name: str) -> bool:
    part, section, *_ = name.split(".")
    if name in _OF_A_SET:
        return trial.distill.spec.distills
    if part == "train":
        return section == trial.train.loss
    if part == "calibrate":
        return _calibration_reads(trial, name.removeprefix("calibrate."))
    if part == "labels":
        return trial.labels.by_experts
    if part == "evaluate":
        return trial.evaluate.shift.asked if name == _SHIFTED else "conformal" in trial.evaluate.also
    spec = trial.distill.spec
    if name.startswith(_OF_A_LOOP):
        return spec.learns
    if name == f"{_EXPERTS}count":  # a coreset says how many by a setting of its own, and so do labels
        return spec.takes_experts and type(spec).experts is Backbone.experts
    if name.startswith(_EXPERTS) and trial.experts > 0:
        return True
    return section == spec.section and name.removeprefix(f"distill.{section}.") not in spec.unused
