"""The studies that come with ddcal: in the wheel beside the package's modules, in a checkout in ``studies/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddcal.config.problems import suggestion
from ddcal.errors import BadInput

_PACKAGE = Path(__file__).absolute().parents[1]

NO_STUDIES = ("cluster", "scales", "sets")
"""What lies beside the studies and is none: cluster files, what studies become at other scales, a scoreboard's sets."""


@dataclass(frozen=True)
class ShippedStudy:
    """A study that comes with ddcal.

    Attributes:
        name: What it is called on the command line: ``quickstart``, ``paper/losses``.
        path: Its file.
        about: The first sentence of the comment at its head.
    """

    name: str
    path: Path
    about: str


def shipped_folder() -> Path:
    """Return the folder of the studies that come with ddcal.

    Raises:
        BadInput: if this installation has none.
    """
    places = (_PACKAGE / "studies", _PACKAGE.parent / "studies")
    found = next((place for place in places if (place / "quickstart.yaml").is_file()), None)
    if found is None:
        raise BadInput(f"this installation of ddcal has no studies beside it ({' or '.join(map(str, places))})")
    return found


def shipped_studies() -> list[ShippedStudy]:
    """Return the studies that come with ddcal, those of the paper last.

    Raises:
        BadInput: as `shipped_folder`.
    """
    folder = shipped_folder()
    found = []
    for path in sorted(folder.rglob("*.yaml"), key=lambda path: (path.parent != folder, path)):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not any(part in NO_STUDIES for part in name.split("/")):
            found.append(ShippedStudy(name, path, _about(path.read_text(encoding="utf-8"))))
    return found


def shipped_study(name: str) -> ShippedStudy:
    """Return the study of that name.

    Raises:
        BadInput: if none has it, or as `shipped_folder`.
    """
    studies = {study.name: study for study in shipped_studies()}
    if name not in studies:
        raise BadInput(
            f"{name}: no such file, and no study of that name comes with ddcal (`ddcal studies` lists those that do)"
            f"{suggestion(name, studies)}"
        )
    return studies[name]


def study_file(given: Path) -> Path:
    """Return the study file that the user means: a file, or else a shipped study of that name.

    Raises:
        BadInput: if there is neither, as `shipped_study`; what looks like a file's name is left to whoever reads it.
    """
    looks_like_a_file = given.suffix in (".yaml", ".yml") or given.is_absolute()
    return given if given.exists() or looks_like_a_file else shipped_study(given.as_posix()).path


def _about(text: str) -> str:
    """Return the first sentence of the comment at a study's head, which may take several lines."""
    lines = []
    for line in text.splitlines():
        said = line.removeprefix("#").strip()
        if not line.startswith("#") or not said:
            break
        lines.append(said)
    first = " ".join(lines).partition(". ")[0]
    return first if first.endswith((".", "?")) else f"{first}."
