"""What computes a stage: work that goes on in small steps and can stop between any two, or one go that finds values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class StageWork(Protocol):
    """An unfinished stage.

    Attributes:
        curve: The fidelity points passed so far: ``{"fraction": of the stage, <metric>: value, …}``.
        fraction: The share of the stage's work that is done, in [0, 1].
        waited: Seconds spent waiting for other processes.
    """

    curve: list[dict[str, float]]
    waited: float

    @property
    def fraction(self) -> float:
        """The share of the work that is done."""

    def step(self) -> None:
        """Do the smallest piece of work; appends to ``curve`` where a fidelity point is passed."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on bit-exactly."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""

    def write(self, folder: Path) -> None:
        """Write the finished stage's files."""

    def meta(self) -> dict[str, Any]:
        """Return what the manifest records of the finished stage beside what every one does: ``facts`` are metrics."""

    def close(self) -> None:
        """Give back what other processes may wait for; `step` may be called again."""


@dataclass(frozen=True)
class Found:
    """What a stage that is computed in one go has found.

    Attributes:
        values: Metrics and settings that were found; JSON.
        write: Writes further files of the entry into a folder.
        meta: Further fields of the entry's manifest.
    """

    values: dict[str, Any]
    write: Callable[[Path], None]
    meta: dict[str, Any] = field(default_factory=dict)
