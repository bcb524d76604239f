"""What all pictures share: how they are written, and words that are shown as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 100


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as a PNG at 100 dots per inch and return its path; equal figures give equal bytes.

    The file carries no version and no date. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path


def literal(text: str) -> str:
    """Return text that figures show as it is: matplotlib takes what is between two ``$`` for a formula.

    Names come from folders and files; one like ``$\\frac{$`` is no formula, and would cost the whole picture.
    """
    return text.replace("$", r"\$")
