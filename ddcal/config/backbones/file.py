"""A distilled set that others made, read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ddcal.config.backbones.base import REFERENCE, Backbone
from ddcal.config.base import Config, PositiveFloat

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig, TrialConfig


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Means = Annotated[tuple[FiniteFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=16)]
Stds = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=16)]


class FileConfig(Config):
    """A distilled set that others made, read from a file (``.pt``, ``.npz`` or ``.safetensors``).

    Attributes:
        images: Path of the images (M, C, S, S), alone or with their labels.
        labels: Path of the labels, where they lie in a file of their own.
        labels_are: What the labels are: ``classes`` (M,); or soft ones (M, K): ``logits`` (DATM's ``labels_best.pt``),
            or ``probabilities``.
        preprocessing: What was done to the images before they were stored: ``normalized`` (a mean and a std per
            channel), ``zca``, or nothing (``pixels``: uint8, or floats in [0, 1]).
        mean: The mean of each channel that they were normalized with; left out, it is that of the dataset here.
        std: The std of each channel, with ``mean``.
        lr: The learning rate that was learned with the images (MTT); the default of ``train.lr``.
        index: Which set, where the file holds several (those of DC, DSA and DM do).
    """

    images: str | None = None
    labels: str | None = None
    labels_are: Literal["classes", "logits", "probabilities"] = "classes"
    preprocessing: Literal["normalized", "zca", "pixels"] | None = None
    mean: Means | None = None
    std: Stds | None = None
    lr: PositiveFloat | None = None
    index: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> FileConfig:
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{given} is given without {missing}: give both, one number a channel, or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}: give one a channel in each")
        if self.mean is not None and self.preprocessing not in (None, "normalized"):
            raise ValueError(f"preprocessing is {self.preprocessing!r}, which has no mean and std: leave them out")
        return self

    @model_serializer(mode="wrap")
    def _without_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.labels_are == "classes":  # as configs were before there were others
            values.pop("labels_are", None)
        return values


class File(Backbone):
    """``file``."""

    name = "file"
    distiller = "ddcal.distill.importing.imported:ImportedImages"
    section = "file"
    settings = FileConfig
    no_formation = "its images are those of the file"
    learns = False
    imports = True
    presets = {  # noqa: RUF012 - never changed
        "published": {
            "source": "ddcal's own, for imported sets; the evaluation is that of DSA, DM and MTT",
            "any": {"all": {"distill.iterations": 1, "train.epochs": 1000, "train.augment": "dsa"}},
        },
        "reference": REFERENCE,
    }

    def draws_real_images(self, distill: DistillConfig) -> bool:
        """Return False: the file has the images."""
        return False

    def soft_labels(self, distill: DistillConfig) -> bool:
        """Return whether the file's labels are said to be logits or probabilities."""
        return distill.file.labels_are != "classes"

    def rate(self, distill: DistillConfig) -> float | None:
        """Return the rate that is stated for the set."""
        return distill.file.lr

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return what is not said of the file, or is said of it and cannot be."""
        file, problems = trial.distill.file, []
        if file.images is None:
            problems.append(
                "distill.file.images is missing: with distill.backbone 'file' it is the path of the distilled images "
                "(.pt, .npz or .safetensors)"
            )
        if file.preprocessing is None:
            problems.append(
                "distill.file.preprocessing is missing: say what was done to the images before they were stored, "
                "'normalized', 'zca' or 'pixels' (nothing)"
            )
        if file.preprocessing == "zca" and not trial.data.zca:
            problems.append(
                "distill.file.preprocessing is 'zca' but data.zca is false: networks would be tested without"
            )
        if file.preprocessing == "normalized" and file.mean is None and trial.data.zca:
            problems.append(
                "distill.file.preprocessing is 'normalized' but data.zca is true: set data.zca to false, or give "
                "distill.file.mean and distill.file.std, so that the images can be whitened"
            )
        return problems


SPECS = (File(),)
