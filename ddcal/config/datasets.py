"""The datasets: what ddcal knows of each by its name, and the section ``data`` of a trial."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ddcal.config.base import Config, PositiveInt, checked_name
from ddcal.config.components import ComponentError, source_of
from ddcal.config.problems import suggestion

DIGITS = tuple(str(digit) for digit in range(10))
IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True)
class Official:
    """The official files of a dataset that torchvision reads.

    Attributes:
        torchvision: Its class in ``torchvision.datasets``.
        folder: Where the files lie below the data root.
        files: Their names.
        plain_names: Whether classes are called as in the table, and not as by torchvision (a 0 "0 - zero").
    """

    torchvision: str
    folder: str
    files: tuple[str, ...]
    plain_names: bool = False


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset's name says; the defaults are those of arrays of which nothing is known.

    Attributes:
        channels: Channels of its images; 0 where the files say it.
        side: Their height and width, in pixels; 0 where the files say it.
        class_names: One name a class, of files that have none.
        official: Its official files; None of those that come otherwise.
        image_files: Whether it lies as one file an image; they are decoded once, at ``data.resolution``.
        one_side: Whether these are always brought to ``side``, as they have many sizes.
        variants: Whether it can be downloaded in several sizes.
        classes: How many classes the official one has; 0 where that is not looked at.
        flips: Whether a mirrored image is of the same class; DSA draws no flip otherwise (method.md, DSA operations).
        test_fraction: The share of its images that becomes ``test``, of one that has no test images.
        validation_fraction: ``data.validation_fraction`` where it is left out.
        least_validation: The least that makes a ``val``.
        root: What ``data.root`` must be; "" where it may be left out.
        whitened: Whether published results with it are with ZCA.
    """

    channels: int = 0
    side: int = 0
    class_names: tuple[str, ...] = ()
    official: Official | None = None
    image_files: bool = False
    one_side: bool = False
    variants: bool = False
    classes: int = 0
    flips: bool = True
    test_fraction: float = 0.0
    validation_fraction: float = 0.1
    least_validation: float = 0.0
    root: str = ""
    whitened: bool = False


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(1, 8, DIGITS, flips=False, test_fraction=0.3, validation_fraction=0.3, least_validation=0.3),
    "mnist": DatasetSpec(1, 28, DIGITS, Official("MNIST", "MNIST/raw", IDX_FILES, plain_names=True), flips=False),
    "fashion-mnist": DatasetSpec(1, 28, _CLOTHES, Official("FashionMNIST", "FashionMNIST/raw", IDX_FILES)),
    "cifar10": DatasetSpec(3, 32, _CIFAR10, Official("CIFAR10", "cifar-10-batches-py", _BATCHES), whitened=True),
    "cifar100": DatasetSpec(
        3, 32, official=Official("CIFAR100", "cifar-100-python", ("train", "test", "meta")), whitened=True
    ),
    "tiny-imagenet": DatasetSpec(3, 64, image_files=True, classes=200),
    "imagenette": DatasetSpec(3, 128, image_files=True, one_side=True, variants=True),
    "image-folder": DatasetSpec(
        image_files=True,
        root="the path of a folder that holds train/ and test/, each with one folder of images a class",
    ),
    "npz": DatasetSpec(root="the path of a .npz file that holds x_train, y_train, x_test, y_test"),
}
"""Every ``data.name`` of ddcal; one that torchvision reads is a row here, and nothing else."""

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def dataset_spec(name: str) -> DatasetSpec:
    """Return what a dataset's name says; of a user's own function, nothing."""
    return DATASETS.get(name, DatasetSpec())


def _image_files() -> str:
    return ", ".join(name for name, spec in DATASETS.items() if spec.image_files)


def _find_function(value: str) -> None:
    """Look for a user's function; it is imported where data is read alone."""
    if not _FUNCTION.fullmatch(value):
        raise ComponentError(
            f"{value!r} is no dataset: it must be one of {', '.join(DATASETS)}, or the import path of a function of "
            f"your own (package.module:function){suggestion(value, DATASETS)}"
        )
    source_of("dataset", value)


if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Annotated[Literal[tuple(DATASETS)] | str, checked_name(DATASETS, _find_function)]


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

    ``name`` may be a function of your own, ``package.module:function``, which gives arrays (own-components.md).
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
    def spec(self) -> DatasetSpec:
        """What its name says."""
        return dataset_spec(self.name)

    @property
    def resolved_validation_fraction(self) -> float:
        """The fraction in force, with the dataset's default filled in."""
        if self.validation_fraction is not None:
            return self.validation_fraction
        return self.spec.validation_fraction

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        spec = self.spec
        if 0.0 < self.resolved_validation_fraction < spec.least_validation:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; {self.name} is so small that val needs at least "
                f"{spec.least_validation:g} of its training images (or 0 where nothing is selected)"
            )
        if spec.root and self.root is None:
            raise ValueError(f"root is missing; with name: {self.name} it must be {spec.root}")
        if self.resize != "crop" and not spec.image_files:
            raise ValueError(
                f"resize is {self.resize!r}, which means something for {_image_files()} alone, "
                f"not for {self.name}: leave it out"
            )
        if not re.fullmatch(r"white|black|#[0-9a-f]{6}", self.background):
            raise ValueError(
                f"background is {self.background!r}; it must be white, black, or a colour as '#rrggbb', in quotes and "
                "small letters"
            )
        if self.background != "white" and not spec.image_files:
            raise ValueError(
                f"background is {self.background!r}, which means something for {_image_files()} alone, "
                f"not for {self.name}: leave it out"
            )
        if self.variant != "full" and not spec.variants:
            raise ValueError(f"variant is {self.variant!r}, which imagenette alone has, not {self.name}: leave it out")
        return self


def is_data_place(entry: str) -> bool:
    """Return whether an entry of ``evaluate.shift.datasets`` is a path, and no dataset's name."""
    return "/" in entry or entry.endswith(".npz")


def other_label(entry: str) -> str:
    """Return what metrics call the dataset of an entry of ``evaluate.shift.datasets``: its name, or its file's."""
    return entry.rstrip("/").rpartition("/")[2].removesuffix(".npz") if is_data_place(entry) else entry


def other_data(entry: str, data: DataConfig) -> DataConfig:
    """Return the dataset of an entry of ``evaluate.shift.datasets``, of which the test images alone are asked for.

    Args:
        entry: A dataset's name, looked for where the trial's own lies, or the path of an ``.npz`` or of a folder of
            images.
        data: The trial's own.

    Raises:
        pydantic.ValidationError: (a ValueError) if there is no such dataset.
    """
    if is_data_place(entry):
        name = "npz" if entry.endswith(".npz") else "image-folder"
        return DataConfig(name=name, root=entry, validation_fraction=0.0)
    own_place = data.name not in DATASETS or bool(data.spec.root)  # which holds no other data
    return DataConfig(name=entry, root=None if own_place else data.root, validation_fraction=0.0)
