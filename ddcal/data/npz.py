"""`.npz` files that anybody may have made: what the file declares is checked against the file before anything is read.

An array's header must declare exactly the bytes that the archive declares for it; a member that is packed more than
`MAX_RATIO` to one must be small; all together must fit into this machine's memory. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ddcal.untrusted import Untrusted, open_regular

MAX_RATIO, SMALL = 200, 2**26
"""A member of more than `SMALL` bytes (67 MB) is packed at most so much. Deflate reaches 1,000 on zeros alone; the
binary images of dSprites, the most regular ones that people publish, have 113."""
MAX_MEMBERS = 10_000
MAX_HEADER = 10_000
"""Bytes of an array's header, as numpy limits them."""
KINDS = "biufcSU"
"""Kinds of arrays whose header is believed: numbers, and text."""
BLOCK = 2**24


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of a stored array declares.

    Attributes:
        shape: Its shape.
        dtype: Its dtype: of one of `KINDS`, or an object dtype, whose array is never read.
        fortran: Whether the first index varies fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An opened ``.npz``: the headers of its arrays at once, their values when they are asked for.

    Attributes:
        names: Names of all arrays, sorted.
    """

    def __init__(self, archive: zipfile.ZipFile, wanted: Collection[str]) -> None:
        self._archive = archive
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise Untrusted(f"holds {len(members)} files, more than {MAX_MEMBERS}")
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        self.names = sorted(self._members)
        check_memory(sum(info.file_size for name, info in self._members.items() if name in wanted))

    def header(self, name: str) -> ArrayHeader:
        """Return what an array declares.

        Raises:
            Untrusted: if the file contradicts it, or it is nothing that numpy writes.
        """
        with self._opened(name) as (_, header):
            return header

    def read(self, name: str) -> np.ndarray:
        """Return an array.

        Raises:
            Untrusted: as `header`, and if it holds Python objects or is damaged.
        """
        with self._opened(name) as (stream, header):
            _refuse_objects(name, header)
            check_memory(header.nbytes)
            with _of_the_archive(name):
                values = np.empty(math.prod(header.shape), header.dtype)
                _fill(stream, values)
                return values.reshape(header.shape, order="F" if header.fortran else "C")

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yield the values of an array in the order in which they lie, some MB at a time, as one long row.

        Raises:
            Untrusted: as `read`.
        """
        with self._opened(name) as (stream, header):
            _refuse_objects(name, header)
            left, step = math.prod(header.shape), max(1, BLOCK // header.dtype.itemsize)
            while left:
                values = np.empty(min(step, left), header.dtype)
                left -= len(values)
                with _of_the_archive(name):
                    _fill(stream, values, last=not left)
                yield values

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], ArrayHeader]]:
        info = self._members[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise Untrusted(f"holds {name} encrypted or packed as numpy never does")
        check_ratio(name, info)
        with _of_the_archive(name):
            stream = self._archive.open(info)
        with stream:
            with _of_the_archive(name):
                header = _read_header(name, stream)
            declared, stored = header.nbytes, info.file_size - stream.tell()
            if not header.dtype.hasobject and declared != stored:
                raise Untrusted(
                    f"holds {name} with a header of {declared:,} bytes ({header.dtype} {header.shape}) and {stored:,} "
                    "bytes behind it"
                )
            yield stream, header


@contextlib.contextmanager
def open_npz(path: Path, names: Collection[str] = ()) -> Iterator[NpzFile]:
    """Open an ``.npz``.

    Args:
        path: The file, or a link to it.
        names: Arrays that will be read; together they must fit into memory.

    Raises:
        Untrusted: if it is no regular file, no archive, or one that lies; also out of the body.
        OSError: if it is missing or cannot be opened.
    """
    with open_regular(path, links=True) as file:
        if file.read(6) == b"\x93NUMPY":
            raise Untrusted("holds a single array")
        file.seek(0)
        with _of_the_archive(None):
            archive = zipfile.ZipFile(file)
        with archive:
            yield NpzFile(archive, names)


def check_ratio(name: str, info: zipfile.ZipInfo) -> None:
    """Refuse a member of an archive that unpacks to much more than data does.

    Raises:
        Untrusted: if it does.
    """
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        raise Untrusted(
            f"declares {info.file_size:,} bytes of {name} in {info.compress_size:,}, which no data is packed to: if "
            "you trust it, save it again uncompressed (numpy.savez)"
        )


def check_memory(needed: int) -> None:
    """Refuse what this machine's memory cannot hold.

    Raises:
        Untrusted: naming both sizes.
    """
    memory = memory_bytes()
    if needed > memory:
        raise Untrusted(f"needs {needed / 1e9:,.1f} GB of memory, and this machine has {memory / 1e9:,.1f} GB")


def memory_bytes() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_header(name: str, stream: IO[bytes]) -> ArrayHeader:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise Untrusted(f"holds {name} in version {version} of numpy's format, which nobody writes")
    size = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if size > MAX_HEADER:
        raise Untrusted(f"holds {name} with a header of {size:,} bytes, more than {MAX_HEADER:,}")
    text = io.BytesIO(size.to_bytes(4, "little") + stream.read(size))
    shape, fortran, dtype = np.lib.format.read_array_header_2_0(text, max_header_size=MAX_HEADER)
    if not (dtype.hasobject or (dtype.kind in KINDS and dtype.itemsize and dtype.names is None)):
        raise Untrusted(f"holds {name} of {str(dtype)[:80]}, and not of plain numbers")
    if len(shape) > 16 or any(isinstance(length, bool) or length < 0 for length in shape):
        raise Untrusted(f"holds {name} of shape {str(shape)[:80]}, which no array has")
    return ArrayHeader(shape, dtype, fortran)


def _refuse_objects(name: str, header: ArrayHeader) -> None:
    if header.dtype.hasobject:
        raise Untrusted(
            f"holds {name} as Python objects, which are never read (they could run code): save it as plain numbers, "
            f"for example {name}={name}.astype(numpy.int64)"
        )


def _fill(stream: IO[bytes], values: np.ndarray, last: bool = True) -> None:
    view, done = memoryview(values.view(np.uint8)), 0  # text has no memoryview of its own
    while done < len(view):
        block = stream.read(min(BLOCK, len(view) - done))
        if not block:
            raise Untrusted("ends too early")
        view[done : done + len(block)] = block
        done += len(block)
    if last and stream.read(1):  # also lets the archive compare its checksum
        raise Untrusted("goes on behind its end")


@contextlib.contextmanager
def _of_the_archive(name: str | None) -> Iterator[None]:
    """Turn whatever the readers of archives and headers make of foreign bytes into `Untrusted`."""
    try:
        yield
    except (Untrusted, OSError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise Untrusted(f"holds {name}, which is damaged ({said})" if name else f"is damaged ({said})") from error
