"""The corners of a search space, tried against the rules between fields, so that no trial fails on them later."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from ddcal.config.names import trial_from
from ddcal.config.problems import KeyPath, Problem
from ddcal.config.space import same, search_order
from ddcal.config.study import Domain, StudyConfig
from ddcal.config.trial import flatten

MAX_COMBINATIONS = 4096
"""Corner combinations of a space that are tried; a larger space is tried in pairs and at random."""


def combinations(study: StudyConfig, space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Yield active values of the space's corners: all combinations, or pairs and random ones of a large space."""
    order = search_order(space)
    candidates: dict[str, list[Any]] = {name: list(space[name].corners) for name in order}
    for domain in space.values():
        for other, allowed in domain.when.items():
            if other in candidates:
                candidates[other] += [v for v in allowed if not any(same(v, seen) for seen in candidates[other])]

    def active(values: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name in order:
            if study.active(kept, name):
                kept[name] = values[name]
        return kept

    def enabling(names: Iterable[str], values: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            for other, allowed in space[name].when.items():
                if other in candidates and not any(same(values[other], value) for value in allowed):
                    values[other] = allowed[0]
                enabling([other] if other in candidates else [], values)
        return values

    if math.prod(map(len, candidates.values())) <= MAX_COMBINATIONS:
        for combination in itertools.product(*candidates.values()):
            yield active(dict(zip(order, combination, strict=True)))
        return
    first = {name: values[0] for name, values in candidates.items()}
    pairs = itertools.combinations(order, 2)
    settings = ({a: x, b: y} for a, b in pairs for x, y in itertools.product(candidates[a], candidates[b]))
    for setting in itertools.islice(settings, 2 * MAX_COMBINATIONS):
        yield active(enabling(setting, first | setting))
    draw = random.Random(0)
    for _ in range(MAX_COMBINATIONS // 4):
        yield active(enabling(order, {name: draw.choice(values) for name, values in candidates.items()}))


def _violations(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[tuple[KeyPath, str], str]:
    """Return the rules that a trial breaks: (section, sentence without its values) → sentence."""
    try:
        trial_from(base, values)
    except ValidationError as error:
        found = {}
        for details in error.errors(include_url=False):
            text = str(details["ctx"]["error"]) if details["type"] == "value_error" else details["msg"]
            for sentence in [text] if details["loc"] else text.split("; "):
                found[details["loc"], re.sub(r"'[^']*'|-?[0-9][0-9.e+-]*", "#", sentence)] = sentence
        return found
    return {}


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text) is not None


def check_corners(study: StudyConfig, base: dict[str, Any], broken: set[str]) -> list[Problem]:
    """Return each rule between fields that some combination of the space's corners breaks, once.

    Args:
        study: The study whose space and conditions are tried.
        base: The study's base, nested, without its bad fields.
        broken: Dotted names whose problems are known: they are left out, and so are rules that speak of them.
    """
    space = {name: domain for name, domain in study.space.items() if name not in broken}
    problems: dict[tuple[KeyPath, str], Problem] = {}
    for values in combinations(study, space):
        for rule, text in _violations(base, values).items():
            section, tails = rule[0], {name: name.rpartition(".")[2] for name in (*broken, *values, *flatten(base))}
            if rule in problems or any(_mentions(text, name) or _mentions(text, tails[name]) for name in broken):
                continue
            inside = ".".join(map(str, section))

            def named(name: str, text: str = text, inside: str = inside) -> bool:
                return _mentions(text, name) or (bool(inside) and _mentions(text, name.removeprefix(f"{inside}.")))

            def decides(name: str, rule: tuple[KeyPath, str] = rule, values: dict[str, Any] = values) -> bool:
                return any(rule not in _violations(base, values | {name: corner}) for corner in space[name].corners)

            involved = [name for name in values if named(name) or decides(name)]
            message = f"{inside}: {text}" if inside else text
            if involved:
                shown = ", ".join(f"{name}={values[name]!r}" for name in involved)
                hint = "; narrow the space, or give one of them a when" if len(involved) > 1 else ""
                problems[rule] = Problem(f"space.{involved[0]}", shown, message + hint)
            else:
                key = next((name for name in flatten(base) if named(name)), inside)
                problems[rule] = Problem(f"base.{key}".rstrip("."), "", message)
    return list(problems.values())
