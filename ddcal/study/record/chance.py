"""Whether a network is better than guessing: one that is not can be perfectly calibrated, and be worth nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ddcal.errors import BadInput
from ddcal.statistics import share_interval

if TYPE_CHECKING:
    from ddcal.study.record.results import Trial

ACCURACY, PROBE = "test/accuracy", "val/accuracy"
"""Of a trial's networks; of the probe of a set that was distilled alone, which trains no other network."""


@dataclass(frozen=True)
class Chance:
    """A trial's accuracy against chance: on ``test``, or of a set that was distilled alone its probe's on ``val``.

    Attributes:
        split: ``test`` or ``val``.
        accuracy: The mean over the trial's networks, or the probe's.
        low: Lower end of its 95 % interval (Wilson, over the images; the networks are tested on the same images,
            so more networks do not make it narrower). None where the ledger does not say how many images there were.
        high: Upper end; None as ``low``.
        chance: What it takes no network to reach: the share of the most common class among the images, which is
            1/K where all K classes are equally common, and is taken for 1/K where they were not counted.
        images: How many images; None where the ledger does not say it.
        better: Whether the interval lies above chance; without an interval, whether the accuracy does.
    """

    split: str
    accuracy: float
    low: float | None
    high: float | None
    chance: float
    images: int | None
    better: bool


def against_chance(trial: Trial) -> Chance | None:
    """Return a trial's accuracy against chance; None before its end, or where the classes are not known."""
    metrics = trial.metrics or {}
    name = ACCURACY if ACCURACY in metrics else PROBE
    accuracy, split = metrics.get(name), name.split("/")[0]
    if accuracy is None or trial.outcome not in ("complete", "infeasible"):
        return None
    counted = trial.tested_on
    if counted is None:
        classes = _known_classes(trial)
        if not classes:
            return None
        return Chance(split, accuracy, None, None, 1.0 / classes, None, accuracy > 1.0 / classes)
    chance = counted.largest / counted.images
    low, high = share_interval(accuracy, counted.images)
    return Chance(split, accuracy, low, high, chance, counted.images, low > chance)


def chance_warning(trial: Trial) -> str | None:
    """Return a sentence about a trial whose accuracy cannot be told from chance; None of every other."""
    found = against_chance(trial)
    if found is None or found.better:
        return None
    if found.low is None or found.high is None:
        told = f"not above chance ({found.chance:.4f})"
    else:
        where = "below chance" if found.high < found.chance else "which cannot be told from chance"
        interval = f"95 % interval {found.low:.4f} to {found.high:.4f}, Wilson over {found.images} images"
        told = f"{where} ({found.chance:.4f}; {interval})"
    whose = trial.trial_key if found.split == "test" else f"the probe of {trial.trial_key}"
    return (
        f"the accuracy of {whose} on {found.split} is {found.accuracy:.4f}, {told}: a network that guesses can be "
        "perfectly calibrated, so its ECE says nothing"
    )


def chance_facts(trial: Trial) -> dict[str, Any] | None:
    """Return `against_chance` as summary.json and exports hold it: JSON, with the sentence where there is one."""
    found = against_chance(trial)
    return None if found is None else asdict(found) | {"warning": chance_warning(trial)}


def _known_classes(trial: Trial) -> int:
    """Return the number of classes that the dataset's name says; 0 where it says none."""
    try:
        spec = trial.config.data.spec
    except BadInput:  # a study of another ddcal
        return 0
    return len(spec.class_names) or spec.classes
