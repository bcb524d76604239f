"""What computes a backbone: images that change by iterations, with a state between any two of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class Distiller(ABC):
    """The base of every backbone's own class: ``iterations`` calls of `step`.

    Same dataset, config and seed give the same bits on the CPU: every random number derives from the seed
    (`ddcal.seeding`), and `restore` of a `state` goes on as if nothing had happened.

    Attributes:
        images: The synthetic images as they are now, in network-input space, float32 (M, C, H, W), ordered by class.
        labels: int64 (M,), or probabilities float32 (M, K), on the CPU.
        iterations: How many there are.
        iteration: How many are done.
        learning_rate: The rate that was learned for training on the set, None where none is.
        compiled: Whether what needs first derivatives alone is to be compiled (`ddcal.compiling`); set before `step`.
    """

    images: Tensor
    labels: Tensor
    iterations: int
    iteration: int
    learning_rate: float | None = None
    compiled: bool = False

    @abstractmethod
    def step(self) -> float:
        """Run one iteration and return its loss.

        Raises:
            ddcal.errors.DivergedError: if a loss or an image is not finite or has exploded.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of what `restore` needs to go on bit-exactly."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""

    # What few backbones have

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the description of the set says beyond what it says of any: JSON values."""
        return {}

    def facts(self) -> Mapping[str, float]:
        """Return metrics of the loop so far, as its points report them."""
        return {}

    def final_facts(self) -> Mapping[str, float]:
        """Return metrics of the whole loop."""
        return {}

    def save_more(self, folder: Path) -> None:  # noqa: B027 - few have more
        """Write files into the set's folder beside the images."""

    def iteration_seconds(self, seconds_of: Callable[[Callable[[], object]], float], long: float) -> float:
        """Return how long an iteration takes, which is run a few times.

        Args:
            seconds_of: Returns the seconds of a call.
            long: From how many seconds on an iteration had better be estimated from shorter ones.
        """
        return seconds_of(self.step)
