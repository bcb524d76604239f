"""Enqueued points: known-good values, and the entry ``paper``, which stands for the published ones (method.md)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from ddcal.config.backbones import SECTIONS, backbone
from ddcal.config.datasets import dataset_spec
from ddcal.config.names import nest
from ddcal.config.presets import preset
from ddcal.config.problems import Problem, problem_at
from ddcal.config.resolved import resolve
from ddcal.config.space import not_possible, of_the_domain, search_order
from ddcal.config.study import StudyConfig
from ddcal.config.trial import TrialConfig, flatten

PAPER = "paper"

PUBLISHED_IPC = (10, 50, 1)
"""The images per class of the published tables; where ipc is searched, the first that the space has is taken."""

MDT_RATIO = 0.1
PAPER_BINS = 10

UNPUBLISHED = ("seed", "data.", "distill.probe.", "calibrate.solver", "train.holdout")
"""Names, and beginnings of names, that the paper gives no value for (``data.zca`` apart): they are drawn."""

WITHOUT_LOOP = ("distill.iterations", "distill.mask.")
"""Names without effect on the backbones that have no distillation loop: nothing is published for them there."""


def enqueued_points(study: StudyConfig) -> list[dict[str, Any]]:
    """Return the points that a study tries first: its list with ``paper`` spelled out.

    A point that leaves nothing open is there once; one that leaves names open is drawn anew every time it is listed.
    """
    points: list[dict[str, Any]] = []
    seen = set()
    for entry in study.search.enqueue:
        for given in paper_points(study) if isinstance(entry, str) else [entry]:
            point = {name: of_the_domain(study.space[name], value) for name, value in given.items()}
            active, whole = _active(study, point)
            key = json.dumps(active, sort_keys=True)
            if not whole or key not in seen:
                points.append(point)
            seen.add(key)
    return points


def paper_points(study: StudyConfig, broken: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the published values of the names in the space, a point for every backbone that the study tries.

    Args:
        study: The study; its ``base`` tells what is not searched.
        broken: Names of the space to leave out.
    """
    return [
        {name: value for name, value in _published(study, one, broken) if value is not None}
        for one in _backbones(study, broken)
    ]


def check_paper(study: StudyConfig, index: int, broken: Collection[str]) -> list[Problem]:
    """Return which published values the entry ``paper`` at position ``index`` would need and the space has not."""
    points = paper_points(study, broken)
    messages = [
        f"the published {name} of {one} is {value}, which the space has not: {why}"
        for one, point in zip(_backbones(study, broken), points, strict=True)
        for name, value in point.items()
        if (why := not_possible(study.space[name], value))
    ]
    if not any(points):
        messages = ["no name of the space has a published value, so there is nothing to try first; remove it"]
    return [problem_at(("search", "enqueue", index), message, PAPER) for message in dict.fromkeys(messages)]


def _backbones(study: StudyConfig, broken: Collection[str]) -> tuple[Any, ...]:
    name = "distill.backbone"
    if name in study.space and name not in broken:
        return study.space[name].corners
    return (_base(study).get(name, TrialConfig().distill.backbone),)


def _base(study: StudyConfig) -> dict[str, Any]:
    return flatten(nest(study.base)[0])


def _published(study: StudyConfig, name: Any, broken: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of the space's active names that have a published value for a backbone."""
    base, spec = _base(study), backbone(name)
    ipc = base.get("distill.ipc", TrialConfig().distill.ipc)
    if "distill.ipc" in study.space:
        domain = study.space["distill.ipc"]
        ipc = next((ipc for ipc in PUBLISHED_IPC if not not_possible(domain, ipc)), PUBLISHED_IPC[0])
    dataset = base.get("data.name", TrialConfig().data.name)
    values = flatten(resolve(TrialConfig()).model_dump()) | preset("published", name, dataset, ipc).values
    values |= {"distill.backbone": name, "distill.ipc": ipc}
    values |= {"evaluate.bins": PAPER_BINS}
    if spec.learns:
        values |= {"distill.mask.ratio": MDT_RATIO}
    unpublished = [*UNPUBLISHED, *(() if spec.learns else WITHOUT_LOOP), *(() if spec.distills else ("distill.ipc",))]
    unpublished += [f"distill.{section}." for section in SECTIONS if section != spec.section]
    values = {key: value for key, value in values.items() if not key.startswith(tuple(unpublished))}
    if dataset_spec(base.get("data.name", "")).whitened and "data.name" not in study.space:
        values |= {"data.zca": True}
    found: dict[str, Any] = {}
    good = {setting: domain for setting, domain in study.space.items() if setting not in broken}
    for setting in search_order(good):
        if study.active(found, setting) and values.get(setting) is not None:
            found[setting] = values[setting]
            yield setting, values[setting]


def _active(study: StudyConfig, point: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the point's values that have an effect, and whether it leaves none open."""
    values: dict[str, Any] = {}
    whole = True
    for name in search_order(study.space):
        if study.active(values, name):
            if name in point:
                values[name] = point[name]
            else:
                whole = False
    return values, whole
