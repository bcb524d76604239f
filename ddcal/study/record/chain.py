"""Lines of JSON that are chained: each ends with the checksum of the line before it and with its own.

So a line that was changed, lost, doubled or moved is noticed when the file is read. Only a file's last lines can be
lost without a trace, which is what a killed program leaves, too. Lines of earlier versions have no checksum; they are
part of the chain as soon as a line with one follows.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_DIGITS = 16
_END = re.compile(rb',"after":"([0-9a-f]{0,%d})","check":"([0-9a-f]{%d})"}\n?\Z' % (_DIGITS, _DIGITS))
_END_BYTES = len(b',"after":"","check":""}\n') + 2 * _DIGITS


@dataclass(frozen=True)
class Link:
    """A line's place in the chain.

    Attributes:
        content: Its JSON, without the checksums.
        after: The checksum of the line before it; None if it has no checksums, as lines of earlier versions.
        check: Its own checksum, as it says, or as it would be behind the line ``before`` if it says none.
        whole: Whether its own checksum fits it; always, if it has none.
    """

    content: bytes
    after: str | None
    check: str
    whole: bool


def seal(before: str, content: bytes) -> tuple[bytes, str]:
    """Return the line with this content (a JSON object with a name in it) behind one with checksum ``before``."""
    body = content[:-1] + f',"after":"{before}"'.encode()
    check = _digest(body)
    return body + f',"check":"{check}"}}\n'.encode(), check


def unseal(before: str, line: bytes) -> Link:
    """Take a line apart that stands behind one with checksum ``before``."""
    found = _END.search(line, max(0, len(line) - _END_BYTES))
    if found is None:
        return Link(line.removesuffix(b"\n"), None, _digest(before.encode() + line), True)
    check = found[2].decode()
    body = line[: found.start(2) - len(b',"check":"')]
    return Link(line[: found.start()] + b"}", found[1].decode(), check, _digest(body) == check)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
