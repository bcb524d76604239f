"""The published recipes, which every backbone has in its own file; `ddcal.config.resolved` fills them in.

family → dataset → images per class → dotted name: value.

- family: ``published`` is the recipe of the backbone's authors; ``rethinking`` that of the paper on calibration (ICCV
  2023); ``reference`` what the authors' public codes do and their papers do not say. A family holds what differs from
  ``published`` alone. ``source`` says where its numbers are from.
- dataset: a name, or ``any``; a dataset without rows of its own takes those of ``like``, and ddcal says so.
- images per class: ``all``, or a number, whose row wins over ``all``. None stands for the config's own default (for
  batch: all images). Between two rows counts interpolate linearly and rates geometrically, rounded; other values never
  do: those of the row below hold. Beyond the last row its values hold. Names listed under ``exact`` have values at
  their rows alone: elsewhere the user gives them. ``data.zca`` is not filled in: ddcal says where a row has it and the
  study does not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddcal.config.backbones import backbone

if TYPE_CHECKING:
    from ddcal.config.trial import TrialConfig


TRAIN_DEFAULTS = {"schedule": "step", "weight_decay": 5e-4, "batch_size": 256}
"""method.md, Evaluation training; a row of the table wins over them."""

ZCA = "data.zca"
"""The one setting of a row that is not filled in; `ddcal.config.checks.notes` says where a row alone has it."""

NOTHING_PUBLISHED: Mapping[str, Any] = {
    "source": "the evaluation of DSA, DM and MTT",
    "any": {"all": {"train.epochs": 1000, "train.augment": "dsa"}},
}
"""What holds for a user's own backbone that brings no presets."""

DEFAULT_RATE = 0.01
"""``train.lr`` where the distilled set has not learned one."""


@dataclass(frozen=True)
class Preset:
    """What the table says for one (family, backbone, dataset, ipc).

    Attributes:
        values: Dotted name → value.
        notes: Sentences on what is not a published row as it stands: interpolated, held, or another dataset's.
        source: Where the numbers are from.
    """

    values: dict[str, Any]
    notes: tuple[str, ...] = ()
    source: str = ""


@functools.cache
def preset(family: str, name: str, dataset: str, ipc: int) -> Preset:
    """Return the published settings of a backbone.

    Args:
        family: ``published``, or ``rethinking`` or ``reference``, which have rows where they differ.
        name: As ``distill.backbone``.
        dataset: As ``data.name``.
        ipc: Images per class. Between two rows counts interpolate linearly and rates geometrically; settings that are
            not numbers are those of the row below; beyond the last row its values hold.
    """
    spec = backbone(name)
    presets = spec.presets
    published = presets.get("published", NOTHING_PUBLISHED)
    own = presets.get(family, {}) if family != "published" else {}
    notes: list[str] = []
    names = [dataset] if dataset in published or dataset in own else []
    if not names and "like" in published:
        names = [published["like"]]
        notes.append(f"{name} has no published row for {dataset}: the numbers are those of {published['like']}")
    values: dict[str, Any] = {} if spec.learns else {"distill.iterations": 1}
    for place in ("any", *names):
        rows = dict(published.get(place, {}))
        for row, settings in own.get(place, {}).items():
            rows[row] = {**rows.get(row, {}), **settings}
        values |= rows.pop("all", {})
        numbered = {setting for row in rows.values() for setting in row}
        for setting in sorted(numbered):
            points = {row: row_values[setting] for row, row_values in rows.items() if setting in row_values}
            if setting in published.get("exact", ()) and ipc not in points:
                continue
            if setting == ZCA and place != dataset:  # another dataset's images
                continue
            found, note = _at(points, ipc)
            if found is not None:
                values[setting] = found
            if note:
                notes.append(f"{setting} {found:g} {note}" if isinstance(found, int | float) else f"{setting} {note}")
    return Preset(values, tuple(notes), own.get("source", published.get("source", "")))


def _at(points: dict[int, Any], ipc: int) -> tuple[Any, str]:
    """Return a setting's value at ``ipc`` from its rows, and what was done for it ("" for a row as it stands)."""
    rows = sorted(points)
    if ipc in points:
        return points[ipc], ""
    below, above = [row for row in rows if row < ipc], [row for row in rows if row > ipc]
    if not below:
        return points[rows[0]], f"is that of ipc {rows[0]}, the lowest published"
    if not above:
        return points[rows[-1]], f"is that of ipc {rows[-1]}, the highest published"
    low, high = points[below[-1]], points[above[0]]
    if low == high:
        return low, ""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high)):
        return low, f"is that of ipc {below[-1]}"
    share = (ipc - below[-1]) / (above[0] - below[-1])
    if isinstance(low, int) and isinstance(high, int):
        value: float = round(low + share * (high - low))
    else:
        value = float(f"{low * (high / low) ** share:.3g}")
    return value, f"is interpolated between ipc {below[-1]} and {above[0]}"


def preset_of(trial: TrialConfig) -> Preset:
    """Return the preset that `ddcal.config.resolved.resolve` takes for a trial."""
    return preset(trial.distill.family, trial.distill.backbone, trial.data.name, trial.distill.ipc)
