"""Where each dataset lies on disk, and how its files become checked arrays. Nothing is ever downloaded."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import math
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ddcal.config import DataConfig
from ddcal.config.components import ComponentError, imported_object
from ddcal.config.datasets import DATASETS, DIGITS, Official
from ddcal.data.arrays import (
    NPZ_KEYS,
    RawData,
    Survey,
    check_arrays,
    check_floats,
    check_image_header,
    check_names,
    check_together,
    read_labels,
    refuse_same,
    repeats,
)
from ddcal.data.errors import DataError
from ddcal.data.image_folders import ImageFolder, image_layout
from ddcal.data.npz import NpzFile, open_npz
from ddcal.errors import one_line
from ddcal.untrusted import Untrusted

CACHE_FOLDER = ".ddcal"
"""Folder beside the source files that keeps what is derived from them; it can be deleted at any time."""

DAMAGED = (OSError, EOFError, ValueError, IndexError, zlib.error)


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

    kind: Literal["digits", "npz", "official", "images", "function"]
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
        if self.kind == "function":
            return "data.name"
        return str(self.images.path) if self.images else ", ".join(map(str, self.files.values()))

    def states(self) -> list[tuple[int, int]]:
        """Return the sizes (bytes) and times of change (ns) of `files`; (-1, 0) where one cannot be looked at."""
        found = []
        for path in self.files.values():
            try:
                status = path.stat()
            except OSError:
                found.append((-1, 0))
            else:
                found.append((status.st_size, status.st_mtime_ns))
        return found


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
            found = "is a folder" if root.is_dir() else "is no regular file" if root.exists() else "does not exist"
            raise DataError(
                f"data.root is {root}, which {found}; with data.name 'npz' it must be the path of an .npz "
                f"file that holds {', '.join(NPZ_KEYS)}"
            )
        return Source("npz", {"npz": root}, root.parent)
    if config.name not in DATASETS:
        return Source("function", {}, None)
    archive = root / f"{config.name}.npz"
    if archive.is_file() and config.name != "image-folder":
        return Source("npz", {"npz": archive}, root)
    if config.spec.image_files:
        return _locate_images(config, root, archive)
    official = config.spec.official
    assert official is not None, "what is neither arrays nor image files has official files"
    folder = official.folder
    files = {name: root / folder / name for name in official.files}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise DataError(
            f"data.name is {config.name!r}, but there is neither {archive} (holding {', '.join(NPZ_KEYS)}) nor the "
            f"official files in {root / folder} (missing: {', '.join(missing)}). On a machine with internet run "
            f"torchvision.datasets.{official.torchvision}(ROOT, download=True) and copy ROOT here, or put the .npz "
            "there, or set data.root or $DDCAL_DATA to the folder that has them"
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
        return check_arrays(source.files["npz"], _read_npz(source.files["npz"]), config.spec.class_names or None)
    if source.kind == "function":
        return arrays_of_function(config.name, config.root)
    assert source.root is not None
    return _read_official(config.spec.official, config.spec.class_names, source.root)


def arrays_of_function(name: str, root: str | None) -> RawData:
    """Return what a user's function gives, checked like an ``.npz``.

    Args:
        name: Its import path, as ``data.name``: called with ``root``, it returns a mapping of `NPZ_KEYS` to arrays, and
            may name the classes under ``class_names``. It must return the same arrays each time.
        root: As ``data.root``.

    Raises:
        DataError: if it cannot be imported or called, is of Python's own library, or does not return that.
    """
    if name.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise DataError(f"data.name {name!r} is of Python itself; it must be a function that returns a dataset")
    try:
        given = imported_object("dataset", name, name)(root)
    except ComponentError as error:
        raise DataError(f"data.name: {error}") from error
    except Exception as error:  # whatever a function of a user's raises
        raise DataError(f"data.name {name!r}: the function raised {type(error).__name__}: {error}") from error
    if not isinstance(given, Mapping):
        raise DataError(
            f"data.name {name!r}: the function returned a {type(given).__name__}; it must return a mapping of "
            f"{', '.join(NPZ_KEYS)} to arrays"
        )
    check_names(Path(name), given)
    names, arrays = given.get("class_names"), dict[str, np.ndarray]()
    for key in NPZ_KEYS:
        try:
            arrays[key] = np.asarray(given[key], order="C")  # torch takes no reversed axis
        except Exception as error:  # whatever numpy makes of a user's object
            raise DataError(f"data.name {name!r}: {key} is no array ({type(error).__name__}: {error})") from error
    if names is not None and not isinstance(names, Iterable):
        raise DataError(f"data.name {name!r}: class_names is {names!r}; it must be a list of names, or left out")
    return check_arrays(Path(name), arrays, tuple(map(str, names or ())) or None)


def _read_digits(path: Path) -> RawData:
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
        images, labels = table[:, :64].reshape(-1, 8, 8, 1) / 16.0, table[:, 64].astype(np.int64)
    except DAMAGED as error:
        raise DataError(f"{path}: scikit-learn's digits cannot be read ({error}); reinstall scikit-learn") from error
    return RawData(images, labels, images[:0], labels[:0], DIGITS)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _npz(path) as npz:
        check_names(path, npz.names)
        return {key: npz.read(key) for key in NPZ_KEYS}


def survey_npz(path: Path, class_names: tuple[str, ...] | None = None) -> Survey:
    """Check an ``.npz`` without keeping its images: headers, labels, and the range of floats.

    Raises:
        DataError: as `ddcal.data.arrays.check_arrays`.
    """
    with _npz(path) as npz:
        check_names(path, npz.names)
        labels = {part: read_labels(path, f"y_{part}", npz.read(f"y_{part}")) for part in ("train", "test")}
        headers = {part: npz.header(f"x_{part}") for part in ("train", "test")}
        for part, header in headers.items():
            check_image_header(path, f"x_{part}", header.shape, header.dtype)
        names = check_together(path, {part: header.shape for part, header in headers.items()}, labels, class_names)
        for part, header in headers.items():
            if header.dtype.kind == "f":
                check_floats(path, f"x_{part}", npz.blocks(f"x_{part}"))
        train = headers["train"]
        if not train.fortran and len(labels["train"]) > 1:
            refuse_same(path, len(labels["train"]), repeats(npz.blocks("x_train"), math.prod(train.shape[1:])))
        shape = (*train.shape, 1)
        more = [name for name in npz.names if name not in NPZ_KEYS]
    remarks = (f"{path}: {', '.join(map(one_line, more[:8]))} in it are not read",) if more else ()
    return Survey(labels["train"], labels["test"], names, shape[1], shape[3], remarks)


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[NpzFile]:
    try:
        with open_npz(path, NPZ_KEYS) as npz:
            yield npz
    except (Untrusted, OSError) as error:
        said = error.strerror or error if isinstance(error, OSError) else error
        raise DataError(
            f"{path}: cannot be read as an .npz of plain arrays: it {said}; write it with numpy.savez(PATH, "
            f"{', '.join(f'{key}=…' for key in NPZ_KEYS)})"
        ) from error


def survey_source(config: DataConfig, source: Source) -> Survey:
    """Return what a located source of arrays holds, but for its images; of kind ``images`` see `ImageFolder.listing`.

    Raises:
        DataError: as `read_source`.
    """
    if source.kind == "npz":
        return survey_npz(source.files["npz"], config.spec.class_names or None)
    raw = read_source(config, source)
    _, side, _, channels = raw.train_images.shape
    return Survey(raw.train_labels, raw.test_labels, raw.class_names, side, channels)


def _read_official(official: Official | None, class_names: tuple[str, ...], root: Path) -> RawData:
    import torchvision.datasets

    assert official is not None
    class_name, folder = official.torchvision, official.folder
    dataset_class = getattr(torchvision.datasets, class_name)
    try:
        parts = {part: dataset_class(str(root), train=part == "train", download=False) for part in ("train", "test")}
    except Exception as error:  # whatever torchvision makes of foreign bytes: assertions too
        raise DataError(
            f"{root / folder}: torchvision.datasets.{class_name} cannot read it ({error}); download the files anew"
        ) from error
    arrays = {f"x_{part}": np.asarray(dataset.data) for part, dataset in parts.items()}
    arrays |= {f"y_{part}": np.asarray(dataset.targets) for part, dataset in parts.items()}
    names = class_names if official.plain_names else tuple(parts["train"].classes)
    return check_arrays(root / folder, arrays, names)
