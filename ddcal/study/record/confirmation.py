"""What `ddcal confirm` has measured, as the study's folder keeps it in ``confirmation.json``, and what that says."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddcal.config.metrics import better, possible
from ddcal.statistics import MARKED_SEEDS, half_width, runs_enough
from ddcal.study.record.folder_files import replace_text
from ddcal.untrusted import read_json

logger = logging.getLogger(__name__)

CONFIRMATION = "confirmation.json"

MOST_SEEDS = 1000
"""Nobody runs more: where more are needed, only that is said."""


class _Leader(BaseModel):
    """One metric of one leader; other versions of ddcal may say more of it."""

    model_config = ConfigDict(extra="allow", strict=True)

    trial_key: str
    metric: str
    searched: float
    mean: float
    low: float
    high: float
    seeds: Annotated[int, Field(ge=1)]
    std: float | None = None  # an earlier version did not say


class _Confirmation(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    seeds: Annotated[int, Field(ge=1)]
    study: str
    leaders: list[_Leader]


def confirm_command(confirmation: Path, study: str) -> str:
    """Return the command that runs a study's leaders on fresh seeds.

    Args:
        confirmation: The folder of one of the study's confirmations, which lies beside the study's own.
        study: The study's name.
    """
    return f"ddcal confirm {shlex.quote(str(confirmation.parent / study))}"


def write_confirmation(directory: Path, seeds: int, study: str, leaders: Sequence[Mapping[str, Any]]) -> None:
    """Write the file, with a sum of its own, by which an edit is noticed.

    Args:
        directory: The study's folder.
        seeds: How many fresh seeds were asked for.
        study: The name of the study that ran them.
        leaders: Records, one a leader and metric.
    """
    content = {"seeds": seeds, "study": study, "leaders": list(leaders)}
    replace_text(directory / CONFIRMATION, json.dumps(content | {"sha256": _sha256(content)}, indent=2) + "\n")


def read_confirmation(directory: Path) -> list[dict[str, Any]]:
    """Return the file's records, one a leader and metric; one of an earlier version has no sum.

    Raises:
        FileNotFoundError: if the study was not confirmed.
        OSError: if the file cannot be read.
        ValueError: if it is not as it was written, in a few words.
    """
    content = read_json(directory / CONFIRMATION, links=True, nan=True)
    if isinstance(content, dict) and content.get("sha256", _sha256(content)) != _sha256(content):
        raise ValueError("it does not match its own sha256")
    try:
        return [leader.model_dump() for leader in _Confirmation.model_validate(content).leaders]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None


def _sha256(content: Mapping[str, Any]) -> str:
    """Return the sum of what the file says, whatever its layout."""
    said = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def usable_confirmation(directory: Path) -> list[dict[str, Any]]:
    """Return `read_confirmation` as this version would say it; empty where there is none, or, warned of, damage.

    Intervals are cut to what can be, and a verdict that an earlier version gave on few seeds is today's.
    """
    try:
        leaders = read_confirmation(directory)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.warning(
            "%s cannot be used (%s), so nothing counts as confirmed: `ddcal verify %s`",
            directory / CONFIRMATION, error, shlex.quote(str(directory)),
        )  # fmt: skip
        return []
    for one in leaders:  # an earlier version wrote intervals with values that cannot be
        one["low"], one["high"] = possible(one["metric"], one["low"], one["high"])
        if "verdict" in one and few_seeds(one):  # it marked from two seeds on
            one["verdict"] = verdict(one)
    return leaders


def few_seeds(one: Mapping[str, Any]) -> bool:
    """Return whether a record has so few seeds that they settle nothing (method.md, Variance)."""
    return int(one["seeds"]) < MARKED_SEEDS


def confirmed_word(found: Sequence[Mapping[str, Any]] | Literal[False]) -> str:
    """Return whether a trial was confirmed: ``yes``, ``no`` or ``too few seeds``.

    Args:
        found: Its records of `read_confirmation`; False or empty where it has none.
    """
    if not found:
        return "no"
    return "too few seeds" if any(map(few_seeds, found)) else "yes"


def confirmed_words(found: Sequence[Mapping[str, Any]] | Literal[False]) -> str:
    """Return `confirmed_word` as a part of a sentence."""
    if found and confirmed_word(found) != "yes":
        return f"{min(one['seeds'] for one in found)} fresh seeds settle nothing"
    return "confirmed on fresh seeds" if found else "not confirmed on fresh seeds"


def optimism(one: Mapping[str, Any]) -> float:
    """Return by how much the search's number is better than the mean over fresh seeds; negative where it is worse.

    Args:
        one: A record of `read_confirmation`.
    """
    sign = 1.0 if better(one["metric"]) == "min" else -1.0
    return sign * float(one["mean"] - one["searched"])


def told_apart(one: Mapping[str, Any]) -> bool:
    """Return whether the search's number lies outside the 95 % interval of the mean over fresh seeds, and these are
    `MARKED_SEEDS` or more.
    """
    return not few_seeds(one) and not one["low"] <= one["searched"] <= one["high"]


def seeds_enough(one: Mapping[str, Any]) -> int | None:
    """Return how many fresh seeds would tell the mean from the search's number, as `told_apart` does.

    So many, at least `MARKED_SEEDS`, give a 95 % interval that ends before the search's number, if mean and standard
    deviation stay what they are. None if that takes more than `MOST_SEEDS`.
    """
    count, deviation = one["seeds"], one.get("std")
    if deviation is None:  # of an earlier version: from the end of the interval that was not cut
        deviation = max(one["high"] - one["mean"], one["mean"] - one["low"]) / half_width(1.0, count)
    enough = runs_enough(deviation, optimism(one), MOST_SEEDS)
    return None if enough is None else max(enough, MARKED_SEEDS)


def verdict(one: Mapping[str, Any]) -> str:
    """Return in a few words what fresh seeds say of the search's number."""
    by = optimism(one)
    seen = f"{'optimistic' if by > 0 else 'pessimistic'} by {abs(by):.4f}"
    if told_apart(one):
        return seen
    count = seeds_enough(one)
    more = f"about {count} would" if count else f"nor would {MOST_SEEDS}"
    if few_seeds(one):
        return f"looks {seen if by else 'right'}; {one['seeds']} seeds settle nothing, {more}"
    return f"{one['seeds']} seeds cannot tell them apart, {more}"


def standing(leaders: Sequence[Mapping[str, Any]], winner: str, metric: str) -> str | None:
    """Return whether the winner is still first by a metric; None where fewer than two leaders have it.

    Args:
        leaders: Records of `read_confirmation`.
        winner: The winner's trial key.
        metric: That winners are chosen by.
    """
    sign = 1.0 if better(metric) == "min" else -1.0
    of_metric = [one for one in leaders if one["metric"] == metric]
    means = {one["trial_key"]: one["mean"] for one in of_metric}
    if winner not in means or len(means) < 2:
        return None
    fewest = min(one["seeds"] for one in of_metric)
    few = f"; {fewest} seeds settle nothing" if fewest < MARKED_SEEDS else ""
    first = min(means, key=lambda key: sign * means[key])
    if sign * means[first] >= sign * means[winner]:
        return f"the winner stays first of {len(means)} by mean {metric}{few}"
    shown = f"{means[first]:.4f}, the winner {means[winner]:.4f}"
    return f"by mean {metric} {first} comes first of {len(means)}: {shown}{few}"
