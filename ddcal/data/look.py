"""What the headers of a data set's picture files say, before any of them is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ddcal.data.pictures import Header

LOOK_VERSION = 1
"""Raised whenever the same files give another `Look`."""
KINDS, UNREAD = 50, 20
"""So many different sizes, and so many pictures that cannot be used, are told apart."""


@dataclass
class Look:
    """What pictures are like.

    Attributes:
        count: How many were looked at.
        sizes: (width, height, how many, the first of them), the most frequent first, of at most `KINDS` sizes.
        unread: Those that cannot be used, a line each, up to `UNREAD`.
        unread_count: How many those are.
        transparent: How many may be transparent.
        animated: How many files have several pictures.
        changed: Whether the first version of the decoder made other pixels of any.
        version: `LOOK_VERSION`.
    """

    count: int = 0
    sizes: list[tuple[int, int, int, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    unread_count: int = 0
    transparent: int = 0
    animated: int = 0
    changed: bool = False
    version: int = LOOK_VERSION

    @classmethod
    def of(cls, pictures: Iterable[tuple[str, Header | str]]) -> Look:
        """Look at pictures: the path of each, and its header or what is wrong with it."""
        look, counts, first = cls(), Counter[tuple[int, int]](), dict[tuple[int, int], str]()
        for path, header in pictures:
            look.count += 1
            if isinstance(header, str):
                look.unread_count += 1
                if len(look.unread) < UNREAD:
                    look.unread.append(f"{path}: {header}")
                continue
            size = (header.width, header.height)
            if size in counts or len(counts) < KINDS:
                counts[size] += 1
                first.setdefault(size, path)
            look.transparent += header.transparent
            look.animated += header.animated
            look.changed |= header.changed
        look.sizes = [(*size, count, first[size]) for size, count in counts.most_common()]
        return look

    def kept(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_kept(cls, kept: object) -> Look | None:
        """Return what `kept` returned; None if it is no such thing, or of another version."""
        if not isinstance(kept, Mapping) or kept.get("version") != LOOK_VERSION or not _numbers(kept):
            return None
        try:
            return cls(**{**kept, "sizes": [(int(w), int(h), int(n), str(path)) for w, h, n, path in kept["sizes"]]})
        except (TypeError, ValueError, KeyError):
            return None

    def problems(self, side: int | None) -> list[str]:
        """Return what no trial can use, a line each.

        Args:
            side: The side that every picture must have; None where they are resized.
        """
        found = list(self.unread)
        if self.unread_count > len(self.unread):
            found.append(f"… and {self.unread_count - len(self.unread)} more that cannot be used")
        if side is not None:
            found += [
                f"{path}: {width} × {height} px where others have {side} × {side}"
                + (f", and {count - 1} more" if count > 1 else "")
                + ": set data.resolution"
                for width, height, count, path in self.sizes
                if (width, height) != (side, side)
            ]
        return found

    def remarks(self, ground: str) -> list[str]:
        """Return what a person should know of pictures that are used, in sentences."""
        found = []
        if self.transparent:
            found.append(
                f"{self.transparent} of {self.count} images may be transparent; they are laid on {ground} "
                "(data.background)"
            )
        if self.animated:
            found.append(f"{self.animated} of {self.count} image files hold several pictures; the first is read")
        return found


def _numbers(kept: Mapping[Any, Any]) -> bool:
    counts = (kept.get(name) for name in ("count", "unread_count", "transparent", "animated"))
    lines = kept.get("unread")
    return (
        all(isinstance(count, int) for count in counts)
        and isinstance(kept.get("changed"), bool)
        and isinstance(lines, list)
        and all(isinstance(line, str) for line in lines)
    )
