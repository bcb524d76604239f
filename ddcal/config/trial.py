"""What one trial computes: frozen models whose dotted names are the names used in studies, MLflow and exports."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
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
    DMConfig,
    FileConfig,
    MatchingConfig,
    MTTConfig,
    RTPConfig,
    backbone,
    is_own_backbone,
    setting_faults,
)
from ddcal.config.base import RECORDED, Config, PositiveFloat, PositiveInt, Ratio
from ddcal.config.calibrations import (
    CALIBRATIONS,
    Calibration,
    CalibrationMethod,
    calibration,
    default_bounds,
    folds_within,
)
from ddcal.config.networks import NetworkConfig, NetworkOverride, network_problems
from ddcal.config.presets import preset_of
from ddcal.config.training import TrainConfig

DATASETS = (
    *("digits", "mnist", "fashion-mnist", "cifar10", "cifar100"),
    *("tiny-imagenet", "imagenette", "image-folder", "npz"),
)
IMAGE_FILE_DATASETS = ("tiny-imagenet", "imagenette", "image-folder")
"""These lie as one file an image; they are decoded once, at ``data.resolution``."""
DATASETS_WITHOUT_FLIP = ("digits", "mnist")
"""Mirrored digits are other digits: DSA draws no flip for these (method.md, DSA operations)."""

DatasetName = Literal[
    "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenette", "image-folder", "npz"
]
Family = Literal["published", "rethinking", "reference"]


class DataConfig(Config):
    """The dataset, its preprocessing and its validation split.

    ``validation_fraction`` of the real training images of every class becomes ``val`` before anything else sees them;
    None means 0.3 for digits and 0.1 elsewhere. 0 is for comparison with published figures only: nothing may be
    searched or selected then. The split does not depend on the trial's seed, so replicates share one ``val``.

    ``resize`` says how image files that are not square become so: ``crop`` resizes the short side and cuts out the
    centre, ``squash`` resizes both sides. ``background`` is what transparent pixels of image files are laid on: white,
    black, or ``#rrggbb``. ``variant`` is which of ImageNette's three downloads to read.

    ``train_images`` keeps about so many of the real training images, drawn once and the same share of every class, for
    studies at reduced scale; None keeps all. ``val`` and ``test`` stay as they are.
    """

    name: DatasetName = "digits"
    root: str | None = None
    zca: bool = False
    resolution: Annotated[int, Field(ge=8, le=1024)] | None = None
    resize: Literal["crop", "squash"] = "crop"
    background: str = "white"
    variant: Literal["full", "320px", "160px"] = "full"
    train_images: PositiveInt | None = None
    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] | None = None

    @property
    def resolved_validation_fraction(self) -> float:
        """The fraction in force, with the dataset's default filled in."""
        if self.validation_fraction is not None:
            return self.validation_fraction
        return 0.3 if self.name == "digits" else 0.1

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.name == "digits" and 0.0 < self.resolved_validation_fraction < 0.3:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; digits is so small that val needs at least 0.3 "
                "of its training images (or 0 where nothing is selected)"
            )
        if self.name == "npz" and self.root is None:
            raise ValueError(
                "root is missing; with name: npz it must be the path of a .npz file that holds "
                "x_train, y_train, x_test, y_test"
            )
        if self.name == "image-folder" and self.root is None:
            raise ValueError(
                "root is missing; with name: image-folder it must be the path of a folder that holds train/ and test/, "
                "each with one folder of images a class"
            )
        if self.resize != "crop" and self.name not in IMAGE_FILE_DATASETS:
            raise ValueError(
                f"resize is {self.resize!r}, which means something for {', '.join(IMAGE_FILE_DATASETS)} alone, "
                f"not for {self.name}: leave it out"
            )
        if not re.fullmatch(r"white|black|#[0-9a-f]{6}", self.background):
            raise ValueError(
                f"background is {self.background!r}; it must be white, black, or a colour as '#rrggbb', in quotes and "
                "small letters"
            )
        if self.background != "white" and self.name not in IMAGE_FILE_DATASETS:
            raise ValueError(
                f"background is {self.background!r}, which means something for {', '.join(IMAGE_FILE_DATASETS)} alone, "
                f"not for {self.name}: leave it out"
            )
        if self.variant != "full" and self.name != "imagenette":
            raise ValueError(f"variant is {self.variant!r}, which imagenette alone has, not {self.name}: leave it out")
        return self


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


def _known(value: Any, info: ValidationInfo) -> Any:
    """Check a backbone's name; what was recorded may name a user's own whose package is not here."""
    if isinstance(value, str) and value not in BACKBONES and not (info.context or {}).get(RECORDED):
        backbone(value)
    return value


def _unchecked(distill: DistillConfig, info: ValidationInfo) -> bool:
    return bool((info.context or {}).get(RECORDED)) and is_own_backbone(distill.backbone)


if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Annotated[Literal[tuple(BACKBONES)] | str, BeforeValidator(_known)]


class DistillConfig(Config):
    """The distilled set: which backbone makes it, how many images per class, with which mask (MDT).

    ``family`` says whose recipe fills in what is left out: that of the backbone's authors (``published``), that of the
    paper on calibration (``rethinking``), which differs for MTT, or the authors' with what their public codes do
    otherwise (``reference``: the schedule, DC on MNIST, MTT's batches). ``clip`` is the largest norm of a gradient of
    all images together (RTP has its own, ``rtp.clip``), ``update_limit`` the most by which any learned number may
    change in one update; left out, nothing is limited. ``backbone`` may be your own, by its import path or entry point,
    and ``settings`` are its settings, which it checks itself (own-backbone.md).
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
    file: FileConfig = FileConfig()
    settings: dict[str, Any] = Field(default_factory=dict)
    probe: ProbeConfig = ProbeConfig()
    network: NetworkOverride = NetworkOverride()

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> DistillConfig:
        if _unchecked(self, info):
            return self
        spec, problems = self.spec, []
        if self.network.norm == "batch" and spec.no_batch_norm:
            problems.append(f"network.norm is 'batch'; {spec.no_batch_norm}: use 'instance' or 'none'")
        if self.mask.where != "both" and spec.learns and not spec.two_passes:
            problems.append(
                f"mask.where is {self.mask.where!r}; {self.backbone} has one kind of pass over synthetic images alone: "
                "leave it out"
            )
        if problems := problems + setting_faults(spec, self.settings) + spec.section_problems(self):
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if not values.get("settings"):  # of ddcal's own backbones, and of older configs
            values.pop("settings", None)
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
    path or entry point (own-components.md). ``solver`` is that of methods with a
    temperature alone. ``folds`` is the most parts into which ts_cv and mts_distilled cut the distilled images of a
    class; where there are fewer images, every image is a part. The ratio of mts_distilled is found, not set.
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
        """The temperature bounds in force."""
        low, high = default_bounds(self.method)
        return (low if self.t_min is None else self.t_min, high if self.t_max is None else self.t_max)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> CalibrateConfig:
        if (info.context or {}).get(RECORDED) and self.method not in CALIBRATIONS:
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"t_min ({low:g}) must be below t_max ({high:g})")
        return self


class EvaluateConfig(Config):
    """The number of bins of ``ece``; 10 and 15 bins are always logged beside it."""

    bins: Annotated[int, Field(ge=1, le=1000)] = 15


class TrialConfig(Config):
    """One trial, from real data to calibrated metrics. ``seed`` is explicit; every random number derives from it."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    distill: DistillConfig = DistillConfig()
    train: TrainConfig = TrainConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> TrialConfig:
        if (info.context or {}).get(RECORDED) and (
            is_own_backbone(self.distill.backbone) or self.calibrate.method not in CALIBRATIONS
        ):
            return self
        problems = cross_field_problems(self)
        if problems:
            raise Contradictions(problems)
        return self


class Contradictions(ValueError):
    """Settings of a trial that cannot be together.

    Attributes:
        sentences: One for each of them.
    """

    def __init__(self, sentences: list[str]):
        self.sentences = tuple(sentences)
        super().__init__("; ".join(sentences))


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
        held = held_out_per_class(trial.distill.ipc, trial.train.holdout)
        if held >= trial.distill.ipc:
            problems.append(
                f"train.holdout {trial.train.holdout:g} leaves no image to train on at distill.ipc "
                f"{trial.distill.ipc}: lower the holdout or take more images per class (at least 2)"
            )
    if fitted.cross_validates:
        problems += _fold_problems(trial)
    fits_on_val = fitted.real_labels or (fitted.masks and not spec.distills)
    if fits_on_val and trial.data.resolved_validation_fraction == 0.0:
        problems.append(f"calibrate.method is {method!r} but data.validation_fraction is 0: there is no val to fit on")
    published = preset_of(trial).values
    if spec.learns and trial.distill.iterations is None and published.get("distill.iterations") is None:
        problems.append(f"distill.iterations is missing: {trial.distill.backbone} brings no published number")
    problems += spec.problems(trial, published)
    if trial.data.name in DATASETS_WITHOUT_FLIP:
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
    fewest = distill.spec.fewest_per_class(distill)
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
