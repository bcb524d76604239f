"""Pictures with their numbers, kept beside the page: drawn again only where what they show has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal import __version__
from ddcal.analysis.labels import save_frame
from ddcal.analysis.report.artefacts import Lost
from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.page import Page
from ddcal.pictures import save_figure
from ddcal.untrusted import read_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

DRAWING_VERSION = 6
"""Raised where a figure shows something else for the same trials."""


@dataclass(frozen=True)
class Drawn:
    """What a function that draws returns.

    Attributes:
        figure: The picture.
        frame: Its numbers.
        caption: What is seen.
        more: Further numbers: a name for the file, and the frame.
    """

    figure: Figure
    frame: pandas.DataFrame
    caption: str
    more: tuple[tuple[str, pandas.DataFrame], ...] = ()


class Drawings:
    """Draws into one folder, and puts pictures on a page."""

    def __init__(self, folder: Path, page: Page) -> None:
        """Draw into ``folder`` for ``page``."""
        self.folder, self.page = folder, page

    def put(
        self,
        name: str,
        alt: str,
        runs: Sequence[Run],
        draw: Callable[[], Drawn],
        *,
        gaps: Iterable[str] = (),
        words: Sequence[str] = (),
    ) -> None:
        """Put a picture on the page; drawn now unless it is there for the same trials and words.

        Args:
            name: Of its files, without suffix.
            alt: What it shows, for those who do not see it.
            runs: The trials that decide over it.
            draw: Draws it; may raise `Lost`.
            gaps: Why something is missing in it.
            words: What it shows beside what follows from trials, such as titles that a user chose.
        """
        reasons = list(gaps)
        png, stamp = self.folder / f"{name}.png", self.folder / f"{name}.json"
        digest = _digest(runs, words)
        known = _stamped(stamp, digest)
        if known is None:
            if not runs:
                self.page.gaps([*reasons, "nothing was run that this figure could show"][: max(1, len(reasons))])
                return
            try:
                drawn = draw()
            except Lost as lost:
                self.page.gaps([*reasons, str(lost)])
                return
            files = self._write(name, drawn)
            known = {"digest": digest, "caption": drawn.caption, "files": [path.name for path in files]}
            stamp.write_text(json.dumps(known, indent=1))
        files = [self.folder / file for file in known["files"]]
        self.page.picture(png, alt, known["caption"], runs=runs, files=files)
        self.page.gaps(reasons)

    def _write(self, name: str, drawn: Drawn) -> list[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_figure(drawn.figure, self.folder / f"{name}.png")
        files = []
        for suffix, frame in (("", drawn.frame), *((f"-{more}", frame) for more, frame in drawn.more)):
            files.append(save_frame(frame, self.folder / f"{name}{suffix}.csv"))
        return files


def _digest(runs: Sequence[Run], words: Sequence[str]) -> str:
    identity = [[*sorted((run.trial.keys or {}).items()), ("trial", run.trial.trial_key)] for run in runs]
    return hashlib.sha256(json.dumps([__version__, DRAWING_VERSION, identity, list(words)]).encode()).hexdigest()


def _stamped(stamp: Path, digest: str) -> dict[str, Any] | None:
    """Return what was noted of a picture, if it is there in full and for these trials."""
    try:
        known: dict[str, Any] = read_json(stamp)
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or not isinstance(known.get("files", []), list):
        return None
    there = all(
        (stamp.parent / name).is_file() for name in (stamp.with_suffix(".png").name, *known.get("files", ["?"]))
    )
    return known if known.get("digest") == digest and there else None
