"""Files that somebody else may have made: an export, a shared store, a folder from the net.

Nothing here trusts a name, a size, a kind of file or a depth. Only regular files are opened, so that a FIFO never
hangs and a device is never read. `Untrusted` says what is wrong in words that go on from the file's name ("… is a
FIFO, not a file"): whoever calls puts the name before it and raises an error of its own. What the file system itself
says (no such file, no permission) comes as the usual `OSError`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import unicodedata
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Protocol

MAX_BYTES, MAX_DEPTH, MAX_VALUES = 16_000_000, 64, 1_000_000
"""How large JSON may be unless the caller says otherwise, how deep it may be nested, and how many values it holds."""

MAX_NAME, MAX_PART = 1024, 255
"""The longest name and the longest part of one, in bytes of UTF-8: what file systems and S3 take."""

PART = 1 << 26
"""How many bytes are asked for at a time."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Readable(Protocol):
    """A stream of bytes, a file's or S3's."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many of the next bytes; none at the end."""


class Untrusted(ValueError):
    """A file or a name is not what it should be; the message goes on from its name."""


def open_regular(path: Path | str, *, max_bytes: int | None = None, links: bool = False) -> BufferedReader:
    """Return a regular file, open to be read.

    Args:
        path: The file.
        max_bytes: How large it may be; None for any size.
        links: Whether the path may be a symbolic link: right for a path that the user typed.

    Raises:
        Untrusted: if it is anything but a regular file (that is then not even opened), or too large.
        OSError: if it is missing or cannot be opened.
    """
    return _open(path, max_bytes, links, None)


def open_below(folder: Path, name: str, *, max_bytes: int | None = None) -> BufferedReader:
    """Return a regular file below a folder, open to be read; nothing below the folder may be a link.

    Args:
        folder: The folder, which may itself be reached through links.
        name: The file's name from there on.
        max_bytes: How large it may be; None for any size.

    Raises:
        Untrusted: as `plain_name` and `open_regular`, and if a folder on the way is a link.
        OSError: if it is missing or cannot be opened.
    """
    *folders, last = plain_name(name).split("/")
    at = os.open(folder, _FOLDER)
    try:
        for part in folders:
            if stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode):
                raise Untrusted(f"lies behind a link ({part})")
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        return _open(last, max_bytes, False, at)
    finally:
        os.close(at)


def open_lock(path: Path) -> FileIO:
    """Return a file of ours that only a lock is taken on, made if it is missing; what is in it stays.

    Raises:
        Untrusted: if a link or anything but a regular file is in its place.
        OSError: if it cannot be made or opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise Untrusted("is a link, a folder or a socket, not a file") from error
        raise
    try:
        _check_kind(os.fstat(descriptor))
        return FileIO(descriptor, "r+b")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str, max_bytes: int, *, links: bool = False) -> bytes:
    """Return the bytes of a regular file; the limit holds before anything is read and while reading.

    Raises:
        Untrusted, OSError: as `open_regular`.
    """
    with open_regular(path, max_bytes=max_bytes, links=links) as stream:
        content = read_at_most(stream, max_bytes + 1)
    if len(content) > max_bytes:
        raise Untrusted(f"is larger than {max_bytes} bytes")
    return content


def read_at_most(stream: Readable, most: int) -> bytes:
    """Return what a stream holds, or its first so many bytes.

    Streams take memory for all that they are asked for before they know how much there is. So no more than `PART` is
    asked for at a time: a limit may be far above what this machine has.
    """
    parts = list[bytes]()
    while most and (part := stream.read(min(PART, most))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def read_json(path: Path | str, *, max_bytes: int = MAX_BYTES, links: bool = False, nan: bool = False) -> Any:
    """Return what a JSON file holds.

    Raises:
        Untrusted: as `read_bytes` and `parse_json`.
        OSError: if it is missing or cannot be opened.
    """
    return parse_json(read_bytes(path, max_bytes, links=links), nan=nan)


def parse_json(content: bytes | str, *, max_bytes: int = MAX_BYTES, nan: bool = False) -> Any:
    """Return the plain data in JSON text.

    Args:
        content: UTF-8 bytes, or text.
        max_bytes: How long it may be (bytes, or characters of text).
        nan: Whether NaN, Infinity and numbers too large for a float may stand in it.

    Raises:
        Untrusted: if it is no JSON, or holds more or deeper values than anything of ours, integers beyond 64 bits, or
            half a surrogate pair, which no file name and no terminal takes.
    """
    if len(content) > max_bytes:
        raise Untrusted(f"is larger than {max_bytes} bytes")
    try:
        text = content.decode() if isinstance(content, bytes) else content
        _check_shape(text)
        value = json.loads(
            text, parse_int=_integer, parse_float=float if nan else _finite, parse_constant=float if nan else _finite
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise Untrusted(f"is not UTF-8 text (byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise Untrusted("holds half a surrogate pair, which is no text") from error
    except json.JSONDecodeError as error:
        raise Untrusted(f"is not JSON ({error})") from error
    return value


def plain_name(name: object) -> str:
    """Return a name of a file inside some folder, after checking that it cannot lead out of it.

    Raises:
        Untrusted: if it is not text, is empty, absolute or too long, or has a part that is empty, ``.`` or ``..``, a
            backslash or a control character.
    """
    if not isinstance(name, str):
        raise Untrusted(f"{_shown(name)} is not a name")
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise Untrusted(f"{_shown(name)} is not a plain name") from None
    odd = any(char == "\\" or unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in name[:MAX_NAME])
    if odd or any(part in ("", ".", "..") for part in parts) or max(sizes) > MAX_PART or len(name.encode()) > MAX_NAME:
        raise Untrusted(f"{_shown(name)} is not a plain name inside its folder")
    return name


def _open(path: Path | str, max_bytes: int | None, links: bool, at: int | None) -> BufferedReader:
    try:
        _check_kind(os.stat(path, dir_fd=at, follow_symlinks=links))
        descriptor = os.open(path, _FLAGS | (0 if links else os.O_NOFOLLOW), dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # became a link or a socket meanwhile, or links in a circle
            raise Untrusted(f"cannot be opened: {error.strerror}") from error
        raise
    except ValueError as error:  # a NUL in the path
        raise error if isinstance(error, Untrusted) else Untrusted(f"is no path ({error})") from error
    try:
        status = os.fstat(descriptor)
        _check_kind(status)
        if max_bytes is not None and status.st_size > max_bytes:
            raise Untrusted(f"is larger than {max_bytes} bytes")
        return BufferedReader(FileIO(descriptor, "rb"))
    except BaseException:
        os.close(descriptor)
        raise


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Untrusted(f"is {_KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")


def _check_shape(text: str) -> None:
    """Refuse text that would make a deep or huge value, before anything is made of it."""
    bare = _STRING.sub("", text)
    if bare.count(",") + bare.count("[") + bare.count("{") >= MAX_VALUES:
        raise Untrusted(f"holds more than {MAX_VALUES} values")
    depth = 0
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise Untrusted(f"is nested deeper than {MAX_DEPTH} levels")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 2**64:
        raise Untrusted(f"holds an integer beyond 64 bits ({text[:20]}…)")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Untrusted(f"holds {text[:20]}, which is no finite number")
    return value


def _shown(name: object) -> str:
    text = repr(name[:200]) if isinstance(name, str) else f"a {type(name).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
