"""The state of an unfinished stage as bytes, and back: tensors and plain values, nothing that runs or swells.

``torch.load(weights_only=True)`` runs no code, but it makes whatever sizes a pickle names, and checks no sum. So the
sum comes first; then the archive may hold nothing compressed, its pickle may name tensors and plain containers alone,
in tuples that Python can hash, and no tensor may be larger than the bytes that came with it.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from typing import Any

from ddcal.pickled import instructions
from ddcal.untrusted import Untrusted

MAX_CHECKPOINT = 2**33
"""How large a checkpoint may be, in bytes."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_MAX_PICKLE = 64_000_000
_NAMES = re.compile(
    r"torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|collections OrderedDict|torch (\w+Storage|Size|device)"
    r"|torch (bool|bfloat16|(float|complex|u?int)\d+)|_codecs encode|(__builtin__|builtins) set"
)


def pack_state(state: dict[str, Any]) -> bytes:
    """Return a state as bytes, the sha256 of the rest in front."""
    import torch

    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getvalue()
    return hashlib.sha256(content).digest() + content


def unpack_state(content: bytes) -> dict[str, Any]:
    """Return what `pack_state` packed, on the CPU.

    Raises:
        Untrusted: if it is not that, saying why.
    """
    import torch

    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise Untrusted("its sha256 does not match")
    try:
        _check_archive(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check_sizes(state, 4 * len(content))
    except Untrusted:
        raise
    except Exception as error:  # whatever a damaged archive or pickle leads to
        raise Untrusted(f"it cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(state, dict):
        raise Untrusted("it holds no state")
    return state


def _check_archive(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(one.compress_type for one in members) or sum(one.file_size for one in members) > len(content):
            raise Untrusted("it is compressed")
        pickles = [member for member in members if member.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE:
            raise Untrusted("it holds no pickle, several or a far too large one")
        for name, argument in instructions(io.BytesIO(archive.read(pickles[0]))):
            if name == "GLOBAL" and not _NAMES.fullmatch(str(argument)):
                raise Untrusted(f"it names {str(argument)[:80]!r}")
            if name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise Untrusted(f"its pickle uses {name}")


def _check_sizes(state: Any, limit: int) -> None:
    """Refuse views that are larger than what was saved: a copy of one would need that much memory."""
    import torch

    total, seen, left = 0, set[int](), [state]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            total += value.nbytes
        elif isinstance(value, torch.storage.UntypedStorage | torch.storage.TypedStorage):
            total += value.nbytes()
        elif isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
        if total > limit:
            raise Untrusted("its tensors are larger than the file")
