"""What makes two stages cost the same: their kind, and how much of it each of them computes.

A stage's seconds are its units times (steps times a step, points times a fidelity point, and what is done once). A
kind holds everything that changes one of those: two stages of one kind differ in seeds, rates and counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ddcal.config import TrialConfig
from ddcal.config.networks import NetworkOverride
from ddcal.config.trial import held_out_per_class

PUBLISH_SECONDS = 0.02
"""Writing a stage's files with their sums: an estimate."""


@dataclass(frozen=True)
class Kind:
    """A kind of stage.

    Attributes:
        stage: Its stage.
        what: A few words on it.
        step: What one step is.
        identity: Everything that changes its cost, as JSON.
    """

    stage: str
    what: str
    step: str
    identity: str


@dataclass(frozen=True)
class Amount:
    """How much a stage computes: ``units`` (networks, experts, folds, or 1) times ``steps`` and fidelity ``points``."""

    units: int
    steps: int
    points: int


@dataclass(frozen=True)
class Cost:
    """What a kind costs, for one unit.

    Attributes:
        step: Seconds a step.
        point: Seconds a fidelity point.
        once: Seconds before and after all steps.
        gpu_bytes: Peak of the GPU memory that torch allocated, in bytes; None on the CPU.
    """

    step: float
    point: float = 0.0
    once: float = 0.0
    gpu_bytes: int | None = None

    def seconds(self, amount: Amount) -> float:
        """Return the seconds of a whole stage."""
        unit = amount.steps * self.step + amount.points * self.point + self.once
        return PUBLISH_SECONDS + amount.units * unit


def network_words(network: NetworkOverride) -> str:
    """Return a resolved network in words; the ConvNet, which is the usual one, by its width alone."""
    name = "" if network.name == "convnet" else f"{network.name} "
    return f"{name}width {network.width}" if network.width is not None else name.rstrip()


def image_words(config: TrialConfig) -> str:
    """Return how many images the networks of a *resolved* trial are trained on, in words."""
    if not config.distill.spec.distills:
        return "all images"
    images = config.distill.spec.known_per_class(config.distill)
    if images is None:
        held = f", {100 * config.train.holdout:g} % of them held out" if config.train.holdout else ""
        return f"what {config.distill.ipc} stored images a class hold{held}"
    return f"{images - held_out_per_class(images, config.train.holdout)} images a class"


def image_values(config: TrialConfig) -> dict[str, Any]:
    """Return what decides how many images the networks of a *resolved* trial are trained on, and what they are."""
    values: dict[str, Any] = {"data": config.data.model_dump(mode="json"), "images": image_words(config)}
    return values | config.distill.spec.image_values(config.distill)
