"""Files of tensors that anybody may have made: nothing in them is run, and what they declare is checked beforehand.

A ``.pt`` is a pickle. Before torch reads it (with ``weights_only``), its instructions are gone through: the names that
it asks for must be among those that saved tensors need, or numpy's scalars, for which stand-ins are called instead of
numpy (result files of DC, DSA and DM have accuracies beside their tensors); and what it builds must not be larger than
what is in the file, nor lie deeper than Python can go.
"""

from __future__ import annotations

import codecs
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file

from ddcal.data.npz import check_memory, check_ratio, open_npz
from ddcal.errors import one_line
from ddcal.pickled import instructions
from ddcal.untrusted import Untrusted, open_regular

MAX_PICKLE = 2**24
"""Bytes of the pickle in a ``.pt``, whose numbers lie elsewhere."""
MAX_INSTRUCTIONS = 500_000
LEGACY_PICKLES = 5
"""So many pickles a ``.pt`` begins with that was saved before torch 1.6."""
SCALARS = ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8")
"""The dtypes of numpy's scalars that are read."""
ENCODE = "_codecs.encode"
SLOW_ENCODINGS = ("punycode", "idna")
"""Encodings whose time grows with the square of the text's length."""
TENSOR_NAMES = frozenset(
    (
        *("collections.OrderedDict", ENCODE, "torch.Size", "torch.nn.parameter.Parameter"),
        *(f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter")),
        *(f"torch.{kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char")),
        *("torch.ByteStorage", "torch.BoolStorage", "torch.storage.UntypedStorage", "torch.storage.TypedStorage"),
    )
)
"""What a saved tensor, parameter, list or mapping of them asks for."""


def load_foreign(path: Path, wanted: tuple[str, ...]) -> Any:
    """Return what a file holds: a tensor, or a mapping, list or tuple of them, with plain values beside.

    Args:
        path: A ``.pt``, ``.pth``, ``.npz`` or ``.safetensors``.
        wanted: Of an ``.npz``, the arrays that are read; the others are None.

    Raises:
        Untrusted: saying what is wrong in words that go on from the file's name.
        OSError: if it cannot be opened.
    """
    if path.suffix == ".npz":
        try:
            with open_npz(path, wanted) as npz:
                return {name: npz.read(name) if name in wanted else None for name in npz.names}
        except Untrusted as error:
            raise Untrusted(f"cannot be read as an .npz of plain arrays: it {error}") from error
    with open_regular(path, links=True) as file:
        check_memory(os.fstat(file.fileno()).st_size)
        if path.suffix == ".safetensors":
            return _parsed("safetensors", lambda: load_file(path))
        return _read_pickled(path, file)


def _read_pickled(path: Path, file: BinaryIO) -> Any:
    names = _parsed("tensors alone", lambda: _names_in(file))
    foreign = sorted(names - TENSOR_NAMES - _STAND_INS.keys())
    if foreign:
        shown = ", ".join(one_line(name)[:80] for name in foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise Untrusted(
            f"holds {shown} beside tensors, and only tensors, plain values and numpy scalars are read (nothing else in "
            f"a {path.suffix} is ever run): where you trust it, save the rest anew, with "
            f"d = torch.load({path.name!r}, weights_only=False); torch.save({{'data': d['data']}}, 'clean.pt')"
        )
    file.seek(0)
    allowed = [(stand_in, name) for name, stand_in in _STAND_INS.items()]

    def load() -> Any:
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            return torch.load(file, map_location="cpu", weights_only=True)

    return _parsed("tensors alone", load)


def _parsed(what: str, read: Any) -> Any:
    """Return what ``read`` returns; whatever the parsers make of foreign bytes becomes `Untrusted`, in one line."""
    try:
        return read()
    except (Untrusted, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        said = (one_line(str(error)).split("\\n") or [""])[0].strip()[:160] or type(error).__name__
        raise Untrusted(f"cannot be read as {what}: {said}") from error


def _names_in(file: BinaryIO) -> set[str]:
    """Return the names that the pickles of a ``.pt`` ask for, after a look at what they build."""
    if file.read(4) != b"PK\x03\x04":
        file.seek(0)
        return set().union(*(_check_pickle(file) for _ in range(LEGACY_PICKLES)))
    names: set[str] = set()
    with zipfile.ZipFile(file) as archive:
        check_memory(sum(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            check_ratio(one_line(info.filename)[:80], info)
            if info.filename.endswith(".pkl"):
                if info.file_size > MAX_PICKLE:
                    raise Untrusted(f"holds a pickle of {info.file_size:,} bytes, more than {MAX_PICKLE:,}")
                with archive.open(info) as stream:
                    names |= _check_pickle(stream)
    return names


def _check_pickle(stream: IO[bytes]) -> set[str]:
    """Return the names that a pickle asks for.

    Raises:
        Untrusted: as `instructions`, if there are too many, or if it takes an encoding that could take forever.
        ValueError, LookupError: if it is no pickle.
    """
    names, texts = set[str](), set[str]()
    for number, (name, argument) in enumerate(instructions(stream)):
        if number > MAX_INSTRUCTIONS:
            raise Untrusted(f"holds a pickle of more than {MAX_INSTRUCTIONS:,} instructions")
        if name == "GLOBAL":
            names.add(str(argument).replace(" ", ".", 1))
        elif isinstance(argument, str) and len(argument) <= 32:
            texts.add(argument)
    if ENCODE in names and any(_encoding(text) in SLOW_ENCODINGS for text in texts):
        raise Untrusted("holds text in an encoding that can take forever")
    return names


def _encoding(text: str) -> str | None:
    try:
        return codecs.lookup(text).name
    except (LookupError, ValueError):
        return None


class _Dtype:
    """Stands in for numpy.dtype: one of `SCALARS`, and its byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if name not in SCALARS:
            raise ValueError(f"a numpy dtype {str(name)[:40]!r} is not read")
        self.name, self.order = str(name), "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


def _scalar(dtype: object, content: object = b"") -> Any:
    """Stands in for numpy's reader of scalars: a plain Python number."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise ValueError("a numpy scalar without dtype or bytes")
    (value,) = np.frombuffer(content, np.dtype(dtype.order + dtype.name))
    return value.item()


_STAND_INS: Mapping[str, Any] = {
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
"""What numpy's scalars are pickled with, by any version of it."""
