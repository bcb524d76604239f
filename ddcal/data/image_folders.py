"""Data sets that lie as one file an image: which files belong to which split and class. Nothing is decoded here."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ddcal.data.errors import DataError
from ddcal.errors import one_line
from ddcal.untrusted import Untrusted, read_bytes

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Endings of the files that are read, in capitals or not."""
OTHER_PICTURES = (".gif", ".heic", ".heif", ".avif", ".svg", ".jp2", ".jxl", ".tga", ".psd", ".dng", ".npy")
"""Endings of files that somebody may take for pictures that are read."""
MAX_TEXT_BYTES = 2**26
"""The largest of the text files that name images and classes; Tiny-ImageNet's have 3 MB."""
SHOWN = 20
"""How many of the missing or damaged images an error lists."""
IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@dataclass(frozen=True)
class ImageLayout:
    """What a folder of image files must hold.

    Attributes:
        folder: Where it lies below the data root; empty for the data root itself.
        folders: The folders that must be in it.
        files: The text files that must be in it.
        shape: The layout in one line, for messages.
        help: How to come by it, for messages.
    """

    folder: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    shape: str
    help: str


def image_layout(name: str, variant: str) -> ImageLayout:
    """Return the layout of ``data.name`` (and, for ImageNette, ``data.variant``)."""
    if name == "tiny-imagenet":
        return ImageLayout(
            "tiny-imagenet-200",
            ("train", "val/images"),
            ("wnids.txt", "words.txt", "val/val_annotations.txt"),
            "train/<wnid>/images/*.JPEG, val/images/*.JPEG, val/val_annotations.txt, wnids.txt, words.txt",
            "Unpack tiny-imagenet-200.zip in the data root, or set data.root or $DDCAL_DATA to the folder that holds "
            "tiny-imagenet-200/",
        )
    if name == "imagenette":
        return ImageLayout(
            "imagenette2" if variant == "full" else f"imagenette2-{variant.removesuffix('px')}",
            ("train", "val"),
            (),
            "train/<wnid>/*.JPEG, val/<wnid>/*.JPEG",
            f"On a machine with internet run torchvision.datasets.Imagenette(ROOT, size={variant!r}, download=True) "
            "and copy ROOT here, or set data.root or $DDCAL_DATA to the folder that has it, or data.variant to the one "
            "that is there (full, 320px, 160px)",
        )
    return ImageLayout(
        "",
        ("train", "test"),
        (),
        "train/<class>/<image>, test/<class>/<image>",
        "Set data.root to the folder that holds train/ and test/",
    )


@dataclass(frozen=True, eq=False)
class ImageListing:
    """The images of a data set, as they lie at one moment.

    Attributes:
        paths: ``train`` and ``test`` → paths below the folder, in a fixed order.
        labels: ``train`` and ``test`` → int64 (N,), as the paths.
        class_names: One name a class.
        state: 64 hex digits over every image's path, size and modification time.
        passed_over: Ending of files that are pictures too and are not read → how many there are.
    """

    paths: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    state: str
    passed_over: Mapping[str, int]

    def __len__(self) -> int:
        return sum(map(len, self.paths.values()))


@dataclass(frozen=True)
class ImageFolder:
    """A folder of image files.

    Attributes:
        name: The data set, which says how the folder is laid out.
        path: The folder.
    """

    name: str
    path: Path

    @cached_property
    def listing(self) -> ImageListing:
        """The images, as first asked for; see `list_images`."""
        return self.list_images()

    def list_images(self) -> ImageListing:
        """List the images, with a look at every file's size and time.

        Files that are no images and whatever begins with a dot are passed over (``.DS_Store``, ``._n1_0.JPEG``).
        Links are followed, to files and to folders; each folder is gone through once.

        Raises:
            DataError: listing them, if images or class folders are missing or their names are not UTF-8, images are no
                files, or a link leads to a folder that was there before; or if a text file is malformed.
        """
        reader: Callable[[_Reader], tuple[_Splits, tuple[str, ...]]]
        reader = {"tiny-imagenet": _tiny_imagenet, "imagenette": _imagenette, "image-folder": _class_folders}[self.name]
        files = _Reader(self.path)
        try:
            splits, class_names = reader(files)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}: cannot be read ({error})") from error
        raise_problems(self.path, files.problems)
        if len(class_names) < 2:
            raise DataError(f"{self.path}: {len(class_names)} classes in it; there must be at least 2")
        return ImageListing(
            {part: tuple(path for path, _ in images) for part, images in splits.items()},
            {part: np.array([label for _, label in images], dtype=np.int64) for part, images in splits.items()},
            class_names,
            files.state([path for images in splits.values() for path, _ in images]),
            dict(sorted(files.passed_over.items())),
        )


def raise_problems(folder: Path, problems: list[str]) -> None:
    """Raise DataError with the first `SHOWN` problems and their number, if there are any."""
    if not problems:
        return
    shown = "".join(f"\n  {one_line(problem)}" for problem in problems[:SHOWN])
    rest = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    found = "image is" if len(problems) == 1 else "images are"
    raise DataError(
        f"{folder}: {len(problems)} {found} missing or cannot be used, so nothing of this data set is:{shown}{rest}\n"
        "unpack or download the data set anew, or put these files right"
    )


_Splits = dict[str, list[tuple[str, int]]]


class _Reader:
    """Finds image files below a folder, and notes their state and what is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.passed_over = Counter[str]()
        self._states: dict[str, str] = {}

    def images(self, place: str) -> list[str]:
        """Return the images in a folder and the folders in it, sorted; a problem if there are none."""
        if not (self.folder / place).is_dir():
            self.problems.append(f"{place}/: no such folder")
            return []
        found = sorted(self._walk(place, {}))
        if not found:
            self.problems.append(f"{place}/: no image in it ({', '.join(EXTENSIONS)})")
        return found

    def folders(self, place: str) -> list[str]:
        """Return the names of the folders in a folder, sorted; a problem for each that is not UTF-8."""
        with os.scandir(self.folder / place) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        return [name for name in names if self._is_text(name, f"{place}/{name}/")]

    def lines(self, place: str) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, fields between tabs) of the lines of a text file that are not empty."""
        try:
            content = read_bytes(self.folder / place, MAX_TEXT_BYTES, links=True)
        except Untrusted as error:
            raise DataError(f"{self.folder / place}: {error}") from error
        for number, line in enumerate(content.decode().splitlines(), start=1):
            if line.strip():
                yield number, line.strip().split("\t")

    def state(self, paths: list[str]) -> str:
        """Return a digest over path, size and time of the images that belong to the data set."""
        return hashlib.sha256("\n".join(map(self._states.__getitem__, sorted(paths))).encode()).hexdigest()

    def _is_text(self, name: str, path: str) -> bool:
        """Return whether a name is valid Unicode, else note it: nothing that is kept of an image could name it."""
        try:
            name.encode()
        except UnicodeEncodeError:
            self.problems.append(f"{path}: its name is not UTF-8: rename it")
            return False
        return True

    def _walk(self, place: str, seen: dict[tuple[int, int], str]) -> Iterator[str]:
        """Yield the images below a folder; ``seen`` are the folders that were gone through: links can lead back."""
        inner = []
        status = os.stat(self.folder / place)
        known = seen.setdefault((status.st_dev, status.st_ino), place)
        if known != place:
            self.problems.append(f"{place}/: is the same folder as {known}/, through a link: remove the link")
            return
        with os.scandir(self.folder / place) as entries:
            for entry in entries:
                name = entry.name
                path = f"{place}/{name}"
                if name.startswith("."):
                    continue
                if not name.lower().endswith(EXTENSIONS):
                    if entry.is_dir():
                        inner += [path] if self._is_text(name, f"{path}/") else []
                    elif name.lower().endswith(OTHER_PICTURES):
                        self.passed_over[os.path.splitext(name)[1].lower()] += 1
                    continue
                if not self._is_text(name, path):
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    self.problems.append(f"{path}: {error.strerror or error}")
                    continue
                if stat.S_ISDIR(status.st_mode):  # somebody's folder called cats.png
                    inner.append(path)
                    continue
                if not stat.S_ISREG(status.st_mode):
                    self.problems.append(f"{path}: is a FIFO, a socket or a device, not a file")
                    continue
                self._states[path] = f"{path} {status.st_size} {status.st_mtime_ns}"
                yield path
        for path in inner:
            yield from self._walk(path, seen)


def _tiny_imagenet(files: _Reader) -> tuple[_Splits, tuple[str, ...]]:
    wnids = sorted({fields[0].strip() for _, fields in files.lines("wnids.txt")})
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    train = []
    for wnid, label in labels.items():
        found = files.images(f"train/{wnid}/images")
        train += [(path, label) for path in found]
        boxes, present = f"train/{wnid}/{wnid}_boxes.txt", set(found)
        if (files.folder / boxes).is_file():  # it names every image of its class
            named = [f"train/{wnid}/images/{fields[0]}" for _, fields in files.lines(boxes)]
            files.problems += [f"{path}: missing ({boxes} names it)" for path in named if path not in present]
    annotations, test = "val/val_annotations.txt", dict[str, int]()
    present = set(files.images("val/images"))
    for number, fields in files.lines(annotations):
        if len(fields) < 2 or fields[1] not in labels:
            said = f"class {fields[1]!r} is not in wnids.txt" if len(fields) > 1 else "no class after the file's name"
            raise DataError(f"{files.folder / annotations}, line {number}: {said}")
        path, label = f"val/images/{fields[0]}", labels[fields[1]]
        if test.setdefault(path, label) != label:
            raise DataError(f"{files.folder / annotations}, line {number}: {fields[0]} has another class further up")
    files.problems += [f"{path}: missing ({annotations} names it)" for path in test if path not in present]
    files.problems += [f"{path}: {annotations} gives it no class" for path in sorted(present - test.keys())]
    words = {fields[0]: fields[-1] for _, fields in files.lines("words.txt")}
    short = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    # Two classes may share their first word (the bird and the machine called crane): these keep all their words.
    names = [words.get(wnid, wnid) if short.count(name) > 1 else name for wnid, name in zip(wnids, short, strict=True)]
    return {"train": train, "test": list(test.items())}, tuple(names)


def _imagenette(files: _Reader) -> tuple[_Splits, tuple[str, ...]]:
    splits = {
        part: [
            (path, label) for label, wnid in enumerate(IMAGENETTE_CLASSES) for path in files.images(f"{place}/{wnid}")
        ]
        for part, place in (("train", "train"), ("test", "val"))
    }
    return splits, tuple(IMAGENETTE_CLASSES.values())


def _class_folders(files: _Reader) -> tuple[_Splits, tuple[str, ...]]:
    names = files.folders("train")
    unknown = [name for name in files.folders("test") if name not in names]
    files.problems += [f"test/{name}/: there is no train/{name}/" for name in unknown]
    splits = {
        part: [(path, label) for label, name in enumerate(names) for path in files.images(f"{part}/{name}")]
        for part in ("train", "test")
    }
    return splits, tuple(names)
