"""Arrays that are a data set: what they must be, and what mends those that are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddcal.data.errors import DataError

PARTS = ("train", "test")
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
SHOWN = 10
"""How many of the classes that are there a message lists."""
MAX_LABEL = 2**31
COUNT_THEM = (
    "classes = numpy.unique(y_train); y_train, y_test = (numpy.searchsorted(classes, y) for y in (y_train, y_test))"
)


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


@dataclass(frozen=True, eq=False)
class Survey:
    """What a source holds, but for its images.

    Attributes:
        train_labels: int64 (N,), 0 … K−1.
        test_labels: The same of the test images.
        class_names: One name a class.
        side: Height and width of the stored images, in pixels.
        channels: Their channels.
        remarks: What a person should know of them, in sentences.
    """

    train_labels: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    side: int
    channels: int
    remarks: tuple[str, ...] = ()


def check_arrays(path: Path, arrays: Mapping[str, np.ndarray], class_names: tuple[str, ...] | None = None) -> RawData:
    """Check the four arrays of `NPZ_KEYS` and bring them into `RawData`'s form.

    Args:
        path: Named in messages.
        arrays: Images (N, H, W) or (N, H, W, C), square, uint8 or float in [0, 1]; labels (N,) or (N, 1), whole
            numbers of any dtype, 0 … K−1.
        class_names: Used if there are as many as classes; else the classes are called "0" … "K−1".

    Raises:
        DataError: naming the file, the array, what it has and what would be right.
    """
    check_names(path, arrays)
    images, labels = {}, {}
    for part in PARTS:
        key, array = f"x_{part}", arrays[f"x_{part}"]
        check_image_header(path, key, array.shape, array.dtype)
        if array.dtype.kind == "f":
            check_floats(path, key, (array,))
            array = array.astype(np.float32)
        images[part] = array if array.ndim == 4 else array[..., None]
        labels[part] = read_labels(path, f"y_{part}", arrays[f"y_{part}"])
    names = check_together(path, {part: array.shape for part, array in images.items()}, labels, class_names)
    return RawData(images["train"], labels["train"], images["test"], labels["test"], names)


def check_names(path: Path, names: Collection[str]) -> None:
    """Refuse a file that lacks one of `NPZ_KEYS`, naming what it has.

    Raises:
        DataError: if it does.
    """
    missing = [key for key in NPZ_KEYS if key not in names]
    if not missing:
        return
    renamed = [f"{key} is called {name} there" for key in missing for name in names if name.lower() == key]
    shown = ", ".join(repr(name)[1:-1][:40] for name in sorted(names)[:SHOWN]) or "nothing"
    raise DataError(
        f"{path}: {', '.join(missing)} missing; it holds {shown}{', …' if len(names) > SHOWN else ''}"
        f"{' (' + ', '.join(renamed) + ')' if renamed else ''}: save it with numpy.savez(PATH, "
        f"{', '.join(f'{key}=…' for key in NPZ_KEYS)})"
    )


def check_image_header(path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse images of another shape or kind.

    Raises:
        DataError: naming both, and the line of numpy that mends it where there is one.
    """
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{path}: {key} has shape {shape}; it must be (N, H, W) or (N, H, W, C), none of them 0")
    if shape[1] != shape[2]:
        if len(shape) == 4 and shape[2] == shape[3]:
            raise DataError(
                f"{path}: {key} has shape {shape}, which looks like (N, C, H, W): move the channels last, with "
                f"{key} = {key}.transpose(0, 2, 3, 1)"
            )
        raise DataError(
            f"{path}: {key} has shape {shape}, images of {shape[1]} × {shape[2]} px; they must be square: cut or pad "
            "them to (N, S, S) or (N, S, S, C)"
        )
    if dtype.kind == "f" or dtype == np.uint8:
        return
    cures = {
        "b": f"{key} = {key} * numpy.uint8(255)",
        "u": f"{key} = (({key} + 128) // 257).astype(numpy.uint8) of 16 bits"
        if dtype.itemsize == 2
        else f"{key} = {key}.astype(numpy.uint8), if all are 0 … 255",
        "i": f"{key} = {key}.astype(numpy.uint8), if all are 0 … 255",
    }
    cure = f": {cures[dtype.kind]}" if dtype.kind in cures else ""
    raise DataError(f"{path}: {key} is {dtype}; images must be uint8, or float in [0, 1]{cure}")


def check_floats(path: Path, key: str, blocks: Iterable[np.ndarray]) -> None:
    """Refuse images of floats that are not in [0, 1].

    Raises:
        DataError: naming their range.
    """
    low, high, dtype = np.inf, -np.inf, ""
    for block in blocks:
        dtype = str(block.dtype)
        if not np.isfinite(block).all():
            raise DataError(f"{path}: {key} is {dtype} with NaN or infinite values; floats must be in [0, 1]")
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if low >= 0.0 and high <= 1.0:
        return
    cure = "divide them by 255" if low >= 0.0 and high <= 255.0 else "undo what was done to the pixels"
    if low >= -1.0 and high <= 1.0:
        cure = f"{key} = ({key} + 1) / 2, if they were scaled to [-1, 1]"
    raise DataError(f"{path}: {key} is {dtype} from {low} to {high}; floats must be in [0, 1]: {cure}")


def read_labels(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Return labels as int64 (N,).

    Args:
        path: Named in messages.
        key: The array's name, for messages.
        array: (N,) or (N, 1), whole numbers from 0 on, of any dtype of numbers.

    Raises:
        DataError: naming what it holds instead, and the line of numpy that mends it.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    kind = array.dtype.kind
    if array.ndim == 2 and kind in "biuf":
        whole = bool(((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all())
        what = f"one-hot labels of {array.shape[1]} classes" if whole else "soft labels, or several a picture"
        raise DataError(f"{path}: {key} has shape {array.shape}, {what}; labels must be (N,): {key} = {key}.argmax(1)")
    if array.ndim != 1 or kind not in "biufSU":
        raise DataError(
            f"{path}: {key} is {array.dtype} of shape {array.shape}; labels must be whole numbers of shape (N,)"
        )
    if kind in "SU":
        found = ", ".join(repr(str(name)) for name in np.unique(array)[:SHOWN])
        raise DataError(f"{path}: {key} holds text ({found}); labels must be whole numbers: {COUNT_THEM}")
    if kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        odd = array[~np.isfinite(array) | (array != np.floor(array))][0]
        raise DataError(f"{path}: {key} has label {odd}; labels must be whole numbers, 0 … K−1")
    if len(array) and not (array.min() >= 0 and array.max() < MAX_LABEL):
        odd = array.min() if array.min() < 0 else array.max()
        raise DataError(f"{path}: {key} has label {odd}; labels must be 0 … K−1: {COUNT_THEM}")
    return array.astype(np.int64)


def check_together(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    labels: Mapping[str, np.ndarray],
    class_names: tuple[str, ...] | None,
) -> tuple[str, ...]:
    """Check images against labels and the training images against the test images; return the classes' names.

    Args:
        path: Named in messages.
        shapes: Part → shape of its images, (N, H, W) or (N, H, W, C).
        labels: Part → its labels, int64 (N,).
        class_names: As `check_arrays` has them.

    Raises:
        DataError: naming what does not agree.
    """
    for part in PARTS:
        if shapes[part][0] != len(labels[part]):
            raise DataError(
                f"{path}: x_{part} has {shapes[part][0]} images, y_{part} {len(labels[part])} labels; they must agree"
            )
    train, test = ((*shapes[part][1:], 1)[:3] for part in PARTS)
    if train != test:
        raise DataError(f"{path}: x_train has images of {train}, x_test of {test}; they must agree (H, W, C)")
    present = np.unique(labels["train"])
    count = len(present)
    if count < 2 or present[-1] != count - 1:
        absent = next(label for label in range(count + 1) if label >= count or present[label] != label)
        shown = ", ".join(map(str, present[:SHOWN])) + (", …" if count > SHOWN else "")
        raise DataError(
            f"{path}: y_train has {count} classes ({shown}), the largest label is {present[-1]} and no image has label "
            f"{absent}; labels must be 0 … K−1 with K at least 2, and every class must be in y_train"
            + (f": {COUNT_THEM}" if count > 1 else "")
        )
    if labels["test"].max() >= count:
        raise DataError(f"{path}: y_test has label {labels['test'].max()}; y_train has only 0 … {count - 1}")
    return class_names if class_names and len(class_names) == count else tuple(map(str, range(count)))


def repeats(blocks: Iterable[np.ndarray], length: int) -> bool:
    """Return whether a long row of values, given in blocks, repeats its first ``length`` to its end."""
    before = np.empty(0)
    for block in blocks:
        row = np.concatenate([before, block]) if len(before) else block
        if not np.array_equal(row[length:], row[:-length]):
            return False
        before = row[-length:]
    return True


def refuse_same(place: object, count: int, same: bool) -> None:
    """Refuse training images that are all the same picture: a network would be scored on its guesses.

    Raises:
        DataError: if they are.
    """
    if same:
        raise DataError(
            f"{place}: all {count} training images are the same, so that nothing can be learned from them: look at how "
            "they were made"
        )
