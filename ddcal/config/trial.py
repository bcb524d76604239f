"""What one trial computes: frozen models whose dotted names are the names used in studies, MLflow and exports."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from ddcal.config.augmentations import flip_problem
from ddcal.config.backbones import (
    BACKBONES,
    Backbone,
    CoresetConfig,
    DMConfig,
    FileConfig,
    FormationConfig,
    MatchingConfig,
    MTTConfig,
    RTPConfig,
    backbone,
    is_own_backbone,
    setting_faults,
)
from ddcal.config.base import Config, PositiveFloat, PositiveInt, Ratio, checked_name, recorded
from ddcal.config.calibrations import (
    CALIBRATIONS,
    Calibration,
    CalibrationMethod,
    bounds_problems,
    calibration,
    default_bounds,
    folds_within,
)
from ddcal.config.checks.labels import label_problems, soft_problems
from ddcal.config.checks.shift import shift_problems
from ddcal.config.datasets import DataConfig
from ddcal.config.networks import ARCHITECTURES, NetworkConfig, NetworkOverride, network_problems
from ddcal.config.presets import preset_of
from ddcal.config.training import LabelsConfig, TrainConfig

Family = Literal["published", "rethinking", "reference"]


class MaskConfig(Config):
    """A random mask: an element is kept where u >= ratio (method.md, Mask); 0 keeps everything."""

    ratio: Ratio = 0.0
    unit: Literal["element", "pixel", "patch"] = "element"


class MDTMaskConfig(MaskConfig):
    """The mask of Masked Distillation Training: ``where`` it applies and how often it is drawn anew."""

    where: Literal["both", "matching", "inner"] = "both"
    resample: Literal["step", "iteration", "fixed"] = "step"


class MTSMaskConfig(MaskConfig):
    """The mask of Masked Temperature Scaling; a config that sets ``unit`` alone keeps the published ratio."""

    ratio: Ratio = 0.9


class ProbeConfig(Config):
    """The short networks whose ``val`` score is the metric during distillation, at ``points`` equal steps."""

    points: Annotated[int, Field(ge=0, le=100)] = 4
    epochs: PositiveInt = 30
    images: PositiveInt = 1000


if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Annotated[Literal[tuple(BACKBONES)] | str, checked_name(BACKBONES, backbone)]


class DistillConfig(Config):
    """The distilled set: which backbone makes it, how many images per class, with which mask (MDT).

    ``family`` says whose recipe fills in what is left out: that of the backbone's authors (``published``), that of the
    paper on calibration (``rethinking``), which differs for MTT, or the authors' with what their public codes do
    otherwise (``reference``: the schedule, DC on MNIST, batches of MTT and DATM). ``clip`` is the largest norm of a
    gradient of all images together (RTP has its own, ``rtp.clip``), ``update_limit`` the most by which any learned
    number but the student's rate (MTT, DATM) may change in one update; left out, nothing is limited. ``backbone`` may
    be your own, by its import path or entry point, and ``settings`` are its settings, which it checks itself
    (own-backbone.md). ``formation`` has several smaller images in each stored one (distillation.md).
    """

    backbone: BackboneName = "dsa"
    family: Family = "published"
    ipc: PositiveInt = 10
    mask: MDTMaskConfig = MDTMaskConfig()
    iterations: PositiveInt | None = None
    clip: PositiveFloat | None = None
    update_limit: PositiveFloat | None = None
    matching: MatchingConfig = MatchingConfig()
    dm: DMConfig = DMConfig()
    mtt: MTTConfig = MTTConfig()
    rtp: RTPConfig = RTPConfig()
    coreset: CoresetConfig = CoresetConfig()
    file: FileConfig = FileConfig()
    formation: FormationConfig = FormationConfig()
    settings: dict[str, Any] = Field(default_factory=dict)
    probe: ProbeConfig = ProbeConfig()
    network: NetworkOverride = NetworkOverride()

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> DistillConfig:
        if recorded(info) and is_own_backbone(self.backbone):
            return self
        spec, problems = self.spec, []
        if self.network.norm == "batch" and spec.no_batch_norm:
            problems.append(f"network.norm is 'batch'; {spec.no_batch_norm}: use 'instance' or 'none'")
        if self.mask.where != "both" and spec.learns and not spec.two_passes:
            problems.append(
                f"mask.where is {self.mask.where!r}; {self.backbone} has one kind of pass over synthetic images alone: "
                "leave it out"
            )
        if self.formation.factor > 1 and spec.no_formation:
            problems.append(
                f"formation.factor is {self.formation.factor}, but images of {self.backbone} cannot hold several each: "
                f"{spec.no_formation}; leave it out"
            )
        if problems := problems + setting_faults(spec, self.settings) + spec.section_problems(self):
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if not values.get("settings"):  # of ddcal's own backbones, and of older configs
            values.pop("settings", None)
        if self.formation == FormationConfig():  # as configs were before there was a decoder
            values.pop("formation", None)
        if self.coreset == CoresetConfig():  # as configs were before there were coresets
            values.pop("coreset", None)
        return values

    @property
    def spec(self) -> Backbone:
        """What its backbone is.

        Raises:
            ddcal.config.components.ComponentError: if the package of a user's own is missing.
        """
        return backbone(self.backbone)


class CalibrateConfig(Config):
    """The calibration after training (method.md, Names of the calibrations; `ddcal.config.calibrations`).

    ``t_min`` and ``t_max`` left out are (1, 20) for fits on images the network was trained on (ts_train, mts,
    mts_distilled) and (0.05, 20) for held-out, cross-validated and val fits. ``method`` may be your own, by its import
    path or entry point (own-components.md). ``solver`` is that of methods with a temperature alone. ``folds`` is the
    most parts into which ts_cv and mts_distilled cut the distilled images of a class; where there are fewer images,
    every image is a part. The ratio of mts_distilled is found, not set.
    """

    method: CalibrationMethod = "mts"
    mask: MTSMaskConfig = MTSMaskConfig()
    t_min: PositiveFloat | None = None
    t_max: PositiveFloat | None = None
    solver: Literal["bounded", "paper_lbfgs"] = "bounded"
    draws: Annotated[int, Field(ge=1, le=1000)] = 1
    folds: Annotated[int, Field(ge=2, le=100)] = 5

    @property
    def spec(self) -> Calibration:
        """What its method is.

        Raises:
            ddcal.config.components.ComponentError: if the package of a user's own is missing.
        """
        return calibration(self.method)

    @property
    def bounds(self) -> tuple[float, float]:
        """The temperature bounds in force; where one is left out, the default of networks of distilled images."""
        low, high = default_bounds(self.method)
        return (low if self.t_min is None else self.t_min, high if self.t_max is None else self.t_max)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> CalibrateConfig:
        if recorded(info) and self.method not in CALIBRATIONS:
            return self
        bounds = (self.method, self.t_min, self.t_max)
        if all(bounds_problems(*bounds, full_data=full) for full in (False, True)):  # which it is the backbone tells
            low, high = self.bounds
            raise ValueError(f"t_min ({low:g}) must be below t_max ({high:g})")
        return self


class ShiftConfig(Config):
    """Test images that are changed or of other data, to see whether a calibration holds there (metrics.md).

    ``corruptions`` come at five strengths each; ``datasets`` are names, or paths of an ``.npz`` or of a folder of
    images. ``images`` is how many test images are taken at most.
    """

    corruptions: list[Literal["noise", "blur", "contrast", "pixelate"]] = Field(default_factory=list)
    datasets: list[str] = Field(default_factory=list)
    images: PositiveInt = 2000

    @property
    def asked(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.corruptions or self.datasets)


class EvaluateConfig(Config):
    """The number of bins of ``ece``; 10 and 15 bins are always logged beside it.

    ``also`` asks for more: ``conformal`` sets with a probability of ``coverage`` to hold the right class, the ``signs``
    of calibration errors, and the ``networks`` together; ``shift`` for what happens where images change (metrics.md).
    """

    bins: Annotated[int, Field(ge=1, le=1000)] = 15
    also: list[Literal["conformal", "signs", "networks"]] = Field(default_factory=list)
    coverage: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    shift: ShiftConfig = ShiftConfig()

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.shift == ShiftConfig():  # as configs were before there was more
            values.pop("shift", None)
        if self == EvaluateConfig(bins=self.bins, shift=self.shift):
            values = {name: value for name, value in values.items() if name in ("bins", "shift")}
        return values


class TrialConfig(Config):
    """One trial, from real data to calibrated metrics. ``seed`` is explicit; every random number derives from it."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    distill: DistillConfig = DistillConfig()
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    labels: LabelsConfig = LabelsConfig()

    @property
    def soft_labels(self) -> bool:
        """Whether networks are trained on labels that are probabilities."""
        return self.labels.by_experts or self.distill.spec.soft_labels(self.distill)

    @property
    def experts(self) -> int:
        """How many experts the trial has: as many as its backbone takes, or as label if those are more; mostly 0."""
        taken = self.distill.spec.experts(self.distill) if self.distill.spec.takes_experts else 0
        return max(taken, self.labels.experts if self.labels.by_experts else 0)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> TrialConfig:
        if recorded(info) and _names_own(self):
            return self
        problems = cross_field_problems(self)
        if problems:
            raise Contradictions(problems)
        return self

    @model_serializer(mode="wrap")
    def _without_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.labels == LabelsConfig():  # as configs were before there were others
            values.pop("labels", None)
        return values


class Contradictions(ValueError):
    """Settings of a trial that cannot be together.

    Attributes:
        sentences: One for each of them.
    """

    def __init__(self, sentences: list[str]):
        self.sentences = tuple(sentences)
        super().__init__("; ".join(sentences))


def _names_own(trial: TrialConfig) -> bool:
    """Return whether a trial names a component of a user's own, whose package may not be here."""
    networks = (trial.network.name, trial.distill.network.name, trial.train.network.name)
    own_network = any(name is not None and name not in ARCHITECTURES for name in networks)
    return own_network or trial.distill.backbone not in BACKBONES or trial.calibrate.method not in CALIBRATIONS


def held_out_per_class(ipc: int, holdout: float) -> int:
    """Return how many of ``ipc`` images a class are held out of training: ipc − ⌊(1 − holdout)·ipc⌋."""
    return ipc - math.floor((1.0 - holdout) * ipc + 1e-9) if holdout > 0 else 0


def cross_field_problems(trial: TrialConfig) -> list[str]:
    """Return what is wrong between sections of a trial, each as a sentence that names the keys."""
    problems = []
    method, fitted, spec = trial.calibrate.method, trial.calibrate.spec, trial.distill.spec
    if fitted.sees == "held":
        if trial.train.holdout == 0.0:
            problems.append(
                f"calibrate.method is {method!r} but train.holdout is 0: set train.holdout, for example 0.1"
            )
        elif not spec.distills:
            name = trial.distill.backbone
            problems.append(f"calibrate.method is {method!r} but distill.backbone is {name!r}: use 'ts_val' there")
    if trial.train.holdout > 0.0 and spec.distills:
        images = spec.known_per_class(trial.distill)  # None: the train stage counts them
        if images is not None and held_out_per_class(images, trial.train.holdout) >= images:
            problems.append(
                f"train.holdout {trial.train.holdout:g} leaves no image to train on at distill.ipc "
                f"{trial.distill.ipc}: lower the holdout or take more images per class (at least 2)"
            )
    if fitted.cross_validates:
        problems += _fold_problems(trial)
    problems += bounds_problems(method, trial.calibrate.t_min, trial.calibrate.t_max, full_data=not spec.distills)
    fits_on_val = fitted.real_labels or (fitted.masks and not spec.distills)
    if fits_on_val and trial.data.resolved_validation_fraction == 0.0:
        problems.append(f"calibrate.method is {method!r} but data.validation_fraction is 0: there is no val to fit on")
    if "conformal" in trial.evaluate.also and trial.data.resolved_validation_fraction == 0.0:
        problems.append(
            "evaluate.also has 'conformal' but data.validation_fraction is 0: there is no val to take thresholds from"
        )
    problems += shift_problems(trial)
    published = preset_of(trial).values
    if trial.labels.by_experts:
        problems += label_problems(trial, published)
    if trial.soft_labels:
        problems += soft_problems(trial)
    if spec.learns and trial.distill.iterations is None and published.get("distill.iterations") is None:
        problems.append(f"distill.iterations is missing: {trial.distill.backbone} brings no published number")
    problems += spec.problems(trial, published)
    if not trial.data.spec.flips:
        named = {"train.augment": trial.train.augment, f"distill.{spec.section}.augment": spec.augment(trial.distill)}
        problems += [said for key, name in named.items() if name and (said := flip_problem(key, name, trial.data.name))]
    networks = {"distill": trial.distill.network, "train": trial.train.network}
    if not spec.distills:
        del networks["distill"]
    problems += network_problems(trial.network, networks, trial.data.name, trial.data.resolution)
    inherited = trial.distill.network.norm is None and trial.distill.network.over(trial.network).norm == "batch"
    if spec.no_batch_norm and inherited:
        problems.append(
            f"network.norm is 'batch', which {trial.distill.backbone} cannot use in the distilling network "
            f"({spec.no_batch_norm}): set distill.network.norm to 'instance'"
        )
    return problems


def _fold_problems(trial: TrialConfig) -> list[str]:
    """Return why the distilled images of a trial cannot be cut into folds."""
    method, distill = trial.calibrate.method, trial.distill
    if not distill.spec.distills:
        return [f"calibrate.method is {method!r} but distill.backbone is {distill.backbone!r}: use 'ts_val' there"]
    fewest = distill.spec.known_per_class(distill)
    if fewest is None:  # the stage counts them
        return []
    held = held_out_per_class(fewest, trial.train.holdout)
    if fewest - held < 2:
        left = f" and train.holdout leaves {fewest - held} of them" if held else ""
        return [
            f"calibrate.method is {method!r} but distill.ipc is {distill.ipc}{left}: every image is predicted by a "
            "network that was trained on others of its class, so there must be at least 2; use 'mts' or 'ts_train' "
            "there"
        ]
    return []


def folds_of(trial: TrialConfig) -> int:
    """Return into how many folds a trial cuts its training images; where data alone tells how many there are, at most.

    Raises:
        ddcal.config.components.ComponentError: as `DistillConfig.spec`.
    """
    fewest = trial.distill.spec.fewest_per_class(trial.distill)
    if fewest is None:
        return trial.calibrate.folds
    return folds_within(trial.calibrate.folds, fewest - held_out_per_class(fewest, trial.train.holdout))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level of dotted names: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat
