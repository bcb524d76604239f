"""What makes a study's parts fit together: the checks that types alone cannot do, collected and not only the first."""

from __future__ import annotations

import difflib
import functools
import graphlib
import itertools
import math
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ddcal.config.metrics import METRICS, VAL_METRICS
from ddcal.config.study import Domain, StudyConfig, parse_constraint
from ddcal.config.trial import TrialConfig, flatten

Path = tuple[str | int, ...]

MAX_COMBINATIONS = 4096
"""Corner combinations of a space that are tried; a larger space is tried in pairs and at random."""

GIVEN_TWICE = "given twice: once nested, once as a dotted key; keep one"

_MAX_KEY_PARTS = 8
_RANGES = ("uniform", "loguniform", "int")
_NOTHING: Any = object()
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True)
class Problem:
    """One mistake in a study file.

    Attributes:
        path: Where in the file, as dotted keys (``space.calibrate.t_min.uniform``); empty for the whole file.
        value: The offending value, shortened; empty where there is none (a missing key).
        message: What would be right.
        file: The study file.
        line: The line of the nearest key, if the value stands in the file.
        override: The ``--set`` argument that the value came from, if any.
    """

    path: str
    value: str
    message: str
    file: str = ""
    line: int | None = None
    override: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        if self.override is not None:
            place = f"{place} (--set {self.override})".lstrip()
        what = f"{self.value} is not allowed: {self.message}" if self.value else self.message
        text = ": ".join(part for part in (place, self.path, what) if part)
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def problem_at(path: Path, message: str, value: Any = _NOTHING) -> Problem:
    """Return the `Problem` at ``path`` of a study, with ``value`` shown in at most 80 characters."""
    shown = "" if value is _NOTHING else repr(value)
    return Problem(".".join(map(str, path)), shown if len(shown) <= 80 else shown[:77] + "...", message)


def suggestion(word: object, options: Collection[str]) -> str:
    """Return ``"; did you mean …?"`` for the option nearest to ``word``, or an empty string."""
    text = str(word)[:100]
    near = [option for option in options if "." in option and option.rpartition(".")[2] == text]
    near = near or difflib.get_close_matches(text, list(options), n=1)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the plain types of an annotation: of unions, Annotated and dict values; Literal stays whole."""
    arguments = get_args(annotation)
    if not arguments or get_origin(annotation) is Literal:
        yield annotation
    else:
        for argument in arguments:
            yield from _members(argument)


def _submodel(annotation: Any) -> type[BaseModel] | None:
    models = (member for member in _members(annotation) if isinstance(member, type) and issubclass(member, BaseModel))
    return next(models, None)


def _model_at(model: type[BaseModel] | None, path: Path) -> type[BaseModel] | None:
    if model is StudyConfig and path[:1] == ("space",):
        return Domain if len(path) == 2 else None
    for part in path:
        if model is None or part not in model.model_fields:
            return None
        model = _submodel(model.model_fields[str(part)].annotation)
    return model


@functools.cache
def trial_names() -> dict[str, frozenset[Any]]:
    """Return every dotted name of a TrialConfig → the types it takes (``int``, ``float``, a ``Literal``…)."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, frozenset[Any]]]:
        for key, field in model.model_fields.items():
            inner = _submodel(field.annotation)
            if inner is None:
                yield prefix + key, frozenset(_members(field.annotation))
            else:
                yield from walk(inner, f"{prefix}{key}.")

    return dict(walk(TrialConfig, ""))


def nest(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Path]]:
    """Return ``values``, whose keys may be nested, dotted or both, as nested mappings, and the names given twice."""
    nested: dict[str, Any] = {}
    conflicts: list[Path] = []

    def merge(target: dict[str, Any], source: Mapping[str, Any], prefix: Path) -> None:
        for key, value in source.items():
            *sections, last = str(key).split(".", _MAX_KEY_PARTS)
            path, place = (*prefix, *sections, last), target
            for section in sections:
                place = place.setdefault(section, {})
                if not isinstance(place, dict):
                    break
            if not isinstance(place, dict):
                conflicts.append(path)
            elif isinstance(value, Mapping) and isinstance(place.get(last, {}), dict):
                merge(place.setdefault(last, {}), value, path)
            elif last in place:
                conflicts.append(path)
            else:
                place[last] = value

    merge(nested, values, ())
    return nested, conflicts


def trial_from(study_base: Mapping[str, Any], values: Mapping[str, Any]) -> TrialConfig:
    """Return the trial of a study's ``base`` with the searched ``values`` over it.

    Args:
        study_base: A partial TrialConfig; keys may be nested, dotted or both.
        values: Dotted name → value, active names only. A name that is also in the base wins over it.

    Raises:
        pydantic.ValidationError: (a ValueError) if that is not a valid trial.
    """
    merged, _ = nest(study_base)
    for name, value in values.items():
        *sections, last = name.split(".")
        place = merged
        for section in sections:
            if not isinstance(place.get(section), dict):  # None in the base: the searched name needs the section
                place[section] = {}
            place = place[section]
        place[last] = value
    return TrialConfig.model_validate(merged)


def search_order(space: Mapping[str, Domain]) -> tuple[str, ...]:
    """Return the names of a space such that every name comes after those that its ``when`` looks at.

    Raises:
        graphlib.CycleError: (a ValueError) if names depend on each other in a circle.
    """
    return tuple(
        graphlib.TopologicalSorter({n: [o for o in d.when if o in space] for n, d in space.items()}).static_order()
    )


def _explain(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, context, path = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "extra_forbidden":
        inside = _model_at(model, path[:-1])
        keys = list(inside.model_fields) if inside else []
        near = suggestion(path[-1], keys) or (suggestion(path[-1], trial_names()) if model is TrialConfig else "")
        return f"unknown key{near}" + (f" (the keys here: {', '.join(keys)})" if keys else "")
    if kind == "literal_error":
        permitted = re.findall(r"'([^']*)'", context["expected"])
        return f"must be one of {', '.join(permitted)}{suggestion(error['input'], permitted)}"
    if kind == "missing" and path == ("objectives",):
        return "missing: name at least one, for example {val/nll: min}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return "must begin with a letter or digit, and hold only letters, digits, '_', '.' and '-', 64 at most"
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        limit = context[key]
        return f"must be {word} {format(limit, 'g') if isinstance(limit, float) else limit}"
    plain = {"missing": "missing", "too_short": "must not be empty"}
    return plain.get(kind) or f"must be {_TYPES[kind]}" if kind in plain or kind in _TYPES else str(error["msg"])


def field_problems(
    error: ValidationError, model: type[BaseModel], data: Mapping[str, Any], prefix: Path = ()
) -> list[tuple[Path, Problem]]:
    """Return pydantic's errors on ``data`` as (path in ``data``, `Problem`), one a path."""
    found: dict[Path, Problem] = {}
    for details in error.errors(include_url=False):
        path: Path = ()
        place: Any = data
        for part in details["loc"]:  # union branches append parts that the data do not have
            inside = place if isinstance(place, dict) else dict(enumerate(place)) if isinstance(place, list) else {}
            if part not in inside and details["type"] != "missing":
                break
            path, place = (*path, part), inside.get(part)
        message, value = _explain(details, model), details["input"]
        if model is StudyConfig and path[:1] == ("space",) and len(path) > 2:
            if details["type"] == "extra_forbidden" and any(
                n.startswith(f"{path[1]}.{path[2]}") for n in trial_names()
            ):
                message = f"names of the space are not nested; write the key {path[1]}.{path[2]}"
            elif path[2] == "choice" and len(path) == 4:
                message = "must be text, a number, true, false or null"
            elif path[2] in _RANGES and details["type"] in ("missing", "too_long", "tuple_type"):
                path, message = path[:3], "must be two numbers, [low, high]"
        if details["type"] in ("missing", "value_error"):
            value = _NOTHING
        found.setdefault(path, problem_at((*prefix, *path), message, value))
    return list(found.items())


def _check_base(base: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem], set[str]]:
    """Return the base without its bad fields, their problems, and their dotted names."""
    good, conflicts = nest(base)
    problems = [problem_at(("base", *path), GIVEN_TWICE) for path in conflicts]
    broken = {".".join(map(str, path)) for path in conflicts}
    while True:
        try:
            TrialConfig.model_validate(good)
        except ValidationError as error:
            rules = {details["loc"] for details in error.errors(include_url=False) if details["type"] == "value_error"}
            found = field_problems(error, TrialConfig, good, ("base",))
            fields = [(path, problem) for path, problem in found if path not in rules]
            if not fields:
                return good, problems, broken  # what is left are rules between fields: _check_corners tries those
            for path, problem in fields:
                problems.append(problem)
                broken.add(".".join(map(str, path)))
                place = good
                for part in path[:-1]:
                    place = place[str(part)]
                place.pop(str(path[-1]), None)
        else:
            return good, problems, broken


def _check_domain(name: str, domain: Domain) -> list[Problem]:
    """Return why ``name`` may not take the values of ``domain``."""
    types = trial_names().get(name)
    if types is None:
        inside = [leaf for leaf in trial_names() if leaf.startswith(f"{name}.")]
        hint = f"; it is a section, search one of {', '.join(inside)}" if inside else suggestion(name, trial_names())
        return [problem_at(("space", name), f"no trial has a setting of this name{hint}")]
    path = ("space", name, domain.kind)
    values = list(domain.corners)
    numbers = types & {int, float}
    if name == "seed" and domain.kind != "choice":
        return [problem_at(path, "seeds are replicates and may only be listed: choice: [0, 1, 2]", values)]
    if domain.kind != "choice" and not numbers:
        options = [str(item) for kind in types if get_origin(kind) is Literal for item in get_args(kind)]
        example = ", ".join(options) or ("true, false" if bool in types else "…")
        return [problem_at(path, f"{name} is not a number; use choice: [{example}]", values)]
    if domain.kind in ("uniform", "loguniform") and float not in numbers:
        return [problem_at(path, f"{name} is a whole number; use int: [low, high] or choice: [...]", values)]
    problems = []
    for value in values:
        loc = tuple(name.split("."))
        try:
            trial_from({}, {name: value})
        except ValidationError as error:
            problems += [
                problem_at(path, _explain(details, TrialConfig), value)
                for details in error.errors(include_url=False)
                if details["loc"] == loc
            ]
    return problems


def _same(first: Any, second: Any) -> bool:
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _not_possible(domain: Domain, value: Any) -> str:
    """Return why ``domain`` cannot take ``value``, or an empty string."""
    corners = domain.corners
    if domain.kind == "choice":
        fits = any(_same(value, corner) for corner in corners)
        return "" if fits else f"must be one of {', '.join(map(str, corners))}{suggestion(value, [*map(str, corners)])}"
    number = isinstance(value, int) or (isinstance(value, float) and domain.kind != "int")
    if not number or isinstance(value, bool) or not math.isfinite(value) or not corners[0] <= value <= corners[1]:
        kind = "whole number" if domain.kind == "int" else "number"
        return f"must be a {kind} from {corners[0]} to {corners[1]}, as in the space"
    return ""


def _check_when(space: Mapping[str, Domain], broken: set[str]) -> list[Problem]:
    """Return what is wrong with the conditions; names on a circle are added to ``broken``."""
    problems = []
    for name, domain in space.items():
        for other, allowed in domain.when.items():
            path: Path = ("space", name, "when", other)
            if other == name:
                problems.append(problem_at(path, "a name cannot depend on itself"))
                broken.add(name)
            elif other not in space:
                if other not in broken:
                    problems.append(problem_at(path, f"not a name of the space{suggestion(other, space)}"))
            else:
                for value in allowed:
                    if why := _not_possible(space[other], value):
                        problems.append(problem_at(path, why, value))
    while True:
        good = {name: domain for name, domain in space.items() if name not in broken}
        try:
            search_order(good)
            return problems
        except graphlib.CycleError as error:
            circle = error.args[1]
            broken.update(circle)
            problems.append(
                problem_at(("space", circle[0], "when"), f"the conditions form a circle: {' ← '.join(circle)}")
            )


def _combinations(study: StudyConfig, space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Yield active values of the space's corners: all combinations, or pairs and random ones of a large space."""
    order = search_order(space)
    candidates: dict[str, list[Any]] = {name: list(space[name].corners) for name in order}
    for domain in space.values():
        for other, allowed in domain.when.items():
            if other in candidates:
                candidates[other] += [v for v in allowed if not any(_same(v, seen) for seen in candidates[other])]

    def active(values: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name in order:
            if study.active(kept, name):
                kept[name] = values[name]
        return kept

    def enabling(names: Iterable[str], values: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            for other, allowed in space[name].when.items():
                if other in candidates and not any(_same(values[other], value) for value in allowed):
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


def _violations(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[tuple[Path, str], str]:
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


def _check_corners(study: StudyConfig, base: dict[str, Any], broken: set[str]) -> list[Problem]:
    """Return each rule between fields that some combination of the space's corners breaks, once."""
    space = {name: domain for name, domain in study.space.items() if name not in broken}
    problems: dict[tuple[Path, str], Problem] = {}
    for values in _combinations(study, space):
        for rule, text in _violations(base, values).items():
            section, tails = rule[0], {name: name.rpartition(".")[2] for name in (*broken, *values, *flatten(base))}
            if rule in problems or any(_mentions(text, name) or _mentions(text, tails[name]) for name in broken):
                continue
            inside = ".".join(map(str, section))

            def named(name: str, text: str = text, inside: str = inside) -> bool:
                return _mentions(text, name) or (bool(inside) and _mentions(text, name.removeprefix(f"{inside}.")))

            def decides(name: str, rule: tuple[Path, str] = rule, values: dict[str, Any] = values) -> bool:
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


def _metric_problem(path: Path, metric: str, direction: str | None = None) -> list[Problem]:
    if metric.startswith("test/"):
        message = f"selecting on the test set is refused; use {'val/' + metric.removeprefix('test/')!r}"
        return [problem_at(path, message, metric)]
    if metric not in VAL_METRICS:
        return [problem_at(path, f"must be one of {', '.join(VAL_METRICS)}{suggestion(metric, VAL_METRICS)}", metric)]
    better = METRICS[metric.removeprefix("val/")]
    if direction is not None and direction != better:
        return [
            problem_at(
                path, f"{metric} is better when {'lower' if better == 'min' else 'higher'}: use {better}", direction
            )
        ]
    return []


def _check_selection(study: StudyConfig) -> list[Problem]:
    """Return what is wrong with objectives, constraints and the scheduler's metric."""
    problems = []
    for metric, direction in study.objectives.items():
        problems += _metric_problem(("objectives", metric), metric, direction)
    for metric, text in study.constraints.items():
        problems += _metric_problem(("constraints", metric), metric)
        try:
            parse_constraint(metric, text)
        except ValueError as error:
            problems.append(problem_at(("constraints", metric), str(error)))
    if study.scheduler.metric is not None:
        problems += _metric_problem(("scheduler", "metric"), study.scheduler.metric)
    elif study.scheduler.name == "asha" and len(study.objectives) > 1:
        several = ", ".join(metric for metric in study.objectives if metric in VAL_METRICS)
        message = f"missing: asha halves on one metric and there are several objectives; name one of {several}"
        problems.append(problem_at(("scheduler", "metric"), message))
    return problems


def _check_kind(study: StudyConfig, base: dict[str, Any], broken: set[str]) -> list[Problem]:
    """Return settings that do not fit a study that selects, or the study's ``trial`` kind."""

    def given(name: str) -> Iterator[tuple[Path, Any]]:
        domain = study.space.get(name) if name not in broken else None
        if domain is not None:
            yield from ((("space", name, domain.kind), corner) for corner in domain.corners)
        if (domain is None or domain.when) and name in fixed:
            yield ("base", name), fixed[name]

    fixed = flatten(base)
    refused: list[tuple[str, Any, str]] = [
        ("data.validation_fraction", 0.0, "a study selects on val, so this must be above 0")
    ]
    if study.trial == "distill":
        refused.append(
            ("distill.backbone", "full", "nothing is distilled by 'full'; use another backbone, or trial: ddnn")
        )
        refused.append(
            ("distill.probe.points", 0, "trial: distill is scored by its probes, so this must be at least 1")
        )
    problems = [
        problem_at(path, message, value)
        for name, wrong, message in refused
        for path, value in given(name)
        if _same(value, wrong)
    ]
    if study.trial == "distill":
        message = (
            "trial: distill ends before this stage, so searching it changes nothing; remove it, or use trial: ddnn"
        )
        late = [name for name in study.space if name.startswith(("train.", "calibrate."))]
        problems += [problem_at(("space", name), message) for name in late]
    return problems


def _check_enqueue(study: StudyConfig, broken: set[str]) -> list[Problem]:
    problems = []
    for index, config in enumerate(study.search.enqueue):
        for name, value in config.items():
            path: Path = ("search", "enqueue", index, name)
            if name in study.space:
                if name not in broken and (why := _not_possible(study.space[name], value)):
                    problems.append(problem_at(path, why, value))
            elif name not in broken:
                problems.append(problem_at(path, f"not a name of the space{suggestion(name, study.space)}", value))
    return problems


def check_study(study: StudyConfig, reported: Collection[str] = ()) -> list[Problem]:
    """Return everything that is wrong with a study whose types are right, in the file's order of sections.

    Args:
        study: The study.
        reported: Dotted trial names that were left out of its space since their own problems are known; nothing is
            said about what follows from their absence.
    """
    broken = set(reported)
    base, problems, bad_fields = _check_base(study.base)
    broken |= bad_fields - set(study.space)
    for name, domain in study.space.items():
        if found := _check_domain(name, domain):
            problems += found
            broken.add(name)
    problems += _check_when(study.space, broken)
    problems += _check_corners(study, base, broken)
    problems += _check_selection(study)
    problems += _check_kind(study, base, broken)
    problems += _check_enqueue(study, broken)
    return problems
