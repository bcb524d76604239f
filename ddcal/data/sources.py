"""Where each dataset lies on disk, and how its files become checked arrays. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import importlib.util
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddcal.config import DataConfig
from ddcal.config.trial import IMAGE_FILE_DATASETS
from ddcal.data.errors import DataError
from ddcal.data.image_folders import ImageFolder, image_layout

CACHE_FOLDER = ".ddcal"
"""Folder beside the source files that keeps what is derived from them; it can be deleted at any time."""

DIGITS = tuple(str(digit) for digit in range(10))
CLASS_NAMES = {
    "digits": DIGITS,
    "mnist": DIGITS,
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
OFFICIAL = {
    "cifar10": (
        "CIFAR10",
        "cifar-10-batches-py",
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": ("CIFAR100", "cifar-100-python", ("train", "test", "meta")),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw", IDX_FILES),
    "mnist": ("MNIST", "MNIST/raw", IDX_FILES),
}
"""Dataset → torchvision's class, the folder of the official files below the data root, and the files."""
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Source:
    """The files behind a dataset.

    Attributes:
        kind: How they are read.
        files: What they are called in a fingerprint → where they lie.
        root: The folder whose ``.ddcal`` may keep what is derived from them; None keeps nothing (digits).
        derived: The folder that keeps it instead, where nothing is to be written, or believed, beside the files.
        images: Of kind ``images``: the folder with one file an image, beside what ``files`` has.
    """

    kind: Literal["digits", "npz", "official", "images"]
    files: Mapping[str, Path]
    root: Path | None
    images: ImageFolder | None = None
    derived: Path | None = None

    @property
    def keeps(self) -> Path | None:
        """The folder for what is derived from the files; None where nothing is kept."""
        return None if self.root is None else self.derived or self.root / CACHE_FOLDER

    @property
    def place(self) -> str:
        """Where the data set lies, for messages."""
        return str(self.images.path) if self.images else ", ".join(map(str, self.files.values()))


@dataclass(frozen=True, eq=False)
class RawData:
    """Checked arrays: images (N, H, W, C), uint8 or float32 in [0, 1]; labels int64 (N,) in 0 … K−1.

    digits has no test split of its own: its test arrays are empty.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def data_root(config: DataConfig) -> Path:
    """Return the data root: ``config.root``, else ``$DDCAL_DATA``, else ``~/.cache/ddcal/data``."""
    return Path(config.root or os.environ.get("DDCAL_DATA") or "~/.cache/ddcal/data").expanduser()


def locate_source(config: DataConfig) -> Source:
    """Find the files of a dataset without opening them.

    Raises:
        DataError: if they are in none of the expected places; the message names the places and how to fill them.
    """
    if config.name == "digits":
        spec = importlib.util.find_spec("sklearn")  # finds the package without importing it
        if spec is None or spec.origin is None:
            raise DataError("data.name is 'digits', which scikit-learn brings along, but it is not installed")
        return Source("digits", {"digits": Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"}, None)
    root = data_root(config)
    if config.name == "npz":
        if not root.is_file():
            raise DataError(
                f"data.root is {root}, where there is no file; with data.name 'npz' it must be the path of an .npz "
                f"file that holds {', '.join(NPZ_KEYS)}"
            )
        return Source("npz", {"npz": root}, root.parent)
    archive = root / f"{config.name}.npz"
    if archive.is_file() and config.name != "image-folder":
        return Source("npz", {"npz": archive}, root)
    if config.name in IMAGE_FILE_DATASETS:
        return _locate_images(config, root, archive)
    class_name, folder, names = OFFICIAL[config.name]
    files = {name: root / folder / name for name in names}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise DataError(
            f"data.name is {config.name!r}, but there is neither {archive} (holding {', '.join(NPZ_KEYS)}) nor the "
            f"official files in {root / folder} (missing: {', '.join(missing)}). On a machine with internet run "
            f"torchvision.datasets.{class_name}(ROOT, download=True) and copy ROOT here, or put the .npz there, or set "
            "data.root or $DDCAL_DATA to the folder that has them"
        )
    return Source("official", files, root)


def _locate_images(config: DataConfig, root: Path, archive: Path) -> Source:
    layout = image_layout(config.name, config.variant)
    folder = root / layout.folder
    missing = [f"{name}/" for name in layout.folders if not (folder / name).is_dir()]
    missing += [name for name in layout.files if not (folder / name).is_file()]
    if missing:
        without = f"neither {archive} (holding {', '.join(NPZ_KEYS)}) nor" if layout.folder else "not"
        hint = (
            " (it has val/: rename it to test/ or link it)" if "test/" in missing and (folder / "val").is_dir() else ""
        )
        raise DataError(
            f"data.name is {config.name!r}, but there is {without} the layout {layout.shape} in {folder} "
            f"(missing: {', '.join(missing)}){hint}. {layout.help}"
        )
    return Source("images", {name: folder / name for name in layout.files}, root, ImageFolder(config.name, folder))


def read_source(config: DataConfig, source: Source) -> RawData:
    """Read and check the arrays of a located dataset; image files are read by `ddcal.data.decoded.open_decoded`.

    Raises:
        DataError: if a file is damaged or an array is not what `RawData` says; the message names file and array.
    """
    if source.kind == "digits":
        return _read_digits(source.files["digits"])
    if source.kind == "npz":
        return check_arrays(source.files["npz"], _read_npz(source.files["npz"]), CLASS_NAMES.get(config.name))
    assert source.root is not None
    return _read_official(config.name, source.root)


def check_arrays(path: Path, arrays: Mapping[str, Any], class_names: tuple[str, ...] | None = None) -> RawData:
    """Check the four arrays of `NPZ_KEYS` and bring them into `RawData`'s form.

    Args:
        path: Named in messages.
        arrays: Images (N, H, W) or (N, H, W, C), square, uint8 or float in [0, 1]; labels integer (N,), 0 … K−1.
        class_names: Used if there are as many as classes; else the classes are called "0" … "K−1".

    Raises:
        DataError: naming the file, the array, what it has and what would be right.
    """
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} missing; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    images = {part: _check_images(path, f"x_{part}", arrays[f"x_{part}"]) for part in ("train", "test")}
    labels = {part: _check_labels(path, f"y_{part}", arrays[f"y_{part}"]) for part in ("train", "test")}
    for part in ("train", "test"):
        if len(images[part]) != len(labels[part]):
            raise DataError(
                f"{path}: x_{part} has {len(images[part])} images, y_{part} {len(labels[part])} labels; they must agree"
            )
    if images["train"].shape[1:] != images["test"].shape[1:]:
        shapes = [images[part].shape[1:] for part in ("train", "test")]
        raise DataError(f"{path}: x_train has images of {shapes[0]}, x_test of {shapes[1]}; they must agree (H, W, C)")
    present = np.unique(labels["train"])
    count = len(present)
    if count < 2 or present[-1] != count - 1:
        absent = next(label for label in range(count + 1) if label >= count or present[label] != label)
        raise DataError(
            f"{path}: y_train has {count} classes, the largest label is {present[-1]} and no image has label {absent}; "
            "labels must be 0 … K−1 with K at least 2, and every class must be in y_train"
        )
    if labels["test"].max() >= count:
        raise DataError(f"{path}: y_test has label {labels['test'].max()}; y_train has only 0 … {count - 1}")
    names = class_names if class_names and len(class_names) == count else tuple(map(str, range(count)))
    return RawData(images["train"], labels["train"], images["test"], labels["test"], names)


def _check_images(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(f"{path}: {key} has shape {array.shape}; it must be (N, H, W) or (N, H, W, C), none of them 0")
    if array.shape[1] != array.shape[2]:
        hint = "; this looks like (N, C, H, W): move the channels last" if array.shape[2] == array.shape[-1] else ""
        raise DataError(f"{path}: {key} has shape {array.shape}; images must be square, (N, H, W, C) with H = W{hint}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
            raise DataError(
                f"{path}: {key} is {array.dtype} from {array.min()} to {array.max()}; floats must be in [0, 1]"
            )
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        raise DataError(f"{path}: {key} is {array.dtype}; images must be uint8, or float in [0, 1]")
    return array if array.ndim == 4 else array[..., None]


def _check_labels(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{path}: {key} is {array.dtype} of shape {array.shape}; labels must be integer of shape (N,)")
    if len(array) and array.min() < 0:
        raise DataError(f"{path}: {key} has label {array.min()}; labels must be 0 … K−1")
    return array.astype(np.int64)


def _read_digits(path: Path) -> RawData:
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
        images, labels = table[:, :64].reshape(-1, 8, 8, 1) / 16.0, table[:, 64].astype(np.int64)
    except (*DAMAGED, IndexError) as error:
        raise DataError(f"{path}: scikit-learn's digits cannot be read ({error}); reinstall scikit-learn") from error
    return RawData(images, labels, images[:0], labels[:0], DIGITS)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds a single array; it must be an .npz with {', '.join(NPZ_KEYS)}")
        with archive:
            return {key: archive[key] for key in NPZ_KEYS if key in archive}
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(
            f"{path}: cannot be read as an .npz of plain arrays ({error}); write it with numpy.savez"
        ) from error


def _read_official(name: str, root: Path) -> RawData:
    import torchvision.datasets

    class_name, folder, _ = OFFICIAL[name]
    dataset_class = getattr(torchvision.datasets, class_name)
    try:
        parts = {part: dataset_class(str(root), train=part == "train", download=False) for part in ("train", "test")}
    except DAMAGED as error:
        raise DataError(
            f"{root / folder}: torchvision.datasets.{class_name} cannot read it ({error}); download the files anew"
        ) from error
    arrays = {f"x_{part}": np.asarray(dataset.data) for part, dataset in parts.items()}
    arrays |= {f"y_{part}": np.asarray(dataset.targets) for part, dataset in parts.items()}
    names = DIGITS if name == "mnist" else tuple(parts["train"].classes)  # torchvision calls a 0 "0 - zero"
    return check_arrays(root / folder, arrays, names)
