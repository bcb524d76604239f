"""Pydantic's errors on a study or a trial, said in the words of the study file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ddcal.config.names import submodel, trial_names
from ddcal.config.problems import NOTHING, KeyPath, Problem, problem_at, suggestion
from ddcal.config.reading.cures import domain_cure, mapping_cure, text_cure, unknown_key_cure
from ddcal.config.study import Domain, StudyConfig
from ddcal.config.trial import TrialConfig

_RANGES = ("uniform", "loguniform", "int")
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _model_at(model: type[BaseModel] | None, path: KeyPath) -> type[BaseModel] | None:
    if model is StudyConfig and path[:1] == ("space",):
        return Domain if len(path) == 2 else None
    for part in path:
        if model is None or part not in model.model_fields:
            return None
        model = submodel(model.model_fields[str(part)].annotation)
    return model


def explain(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Return what would be right, for one of pydantic's errors.

    Args:
        error: One item of ``ValidationError.errors()``.
        model: The model that was validated.
    """
    kind, context, path = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "extra_forbidden":
        if cure := unknown_key_cure(str(path[-1]), model is StudyConfig and len(path) == 1):
            return f"unknown key{cure}"
        inside = _model_at(model, path[:-1])
        keys = list(inside.model_fields) if inside else []
        near = suggestion(path[-1], keys) or (suggestion(path[-1], trial_names()) if model is TrialConfig else "")
        return f"unknown key{near}" + (f" (the keys here: {', '.join(keys)})" if keys else "")
    if kind == "literal_error" and path[:2] != ("search", "enqueue"):
        permitted = re.findall(r"'([^']*)'", context["expected"])
        return f"must be one of {', '.join(permitted)}{suggestion(error['input'], permitted)}"
    if path[:2] == ("search", "enqueue") and kind in ("dict_type", "literal_error"):
        return "must be a mapping of names of the space to values, or the word paper"
    if kind in ("dict_type", "model_type"):
        if model is StudyConfig and path[:1] == ("space",) and len(path) == 2:
            return f"must be {domain_cure(str(path[1]), error['input'])}"
        return f"must be a mapping of keys to values{mapping_cure(path, error['input'])}"
    if kind in ("tuple_type", "list_type") and isinstance(error["input"], str | int | float):
        return f"must be a list: [{error['input']}]"
    if kind == "missing" and path == ("objectives",):
        return "missing: name at least one, for example {val/nll: min}"
    if path == ("tracking", "uri") and error["input"] is False:
        return "write none for no tracking, null for the default"
    if kind == "string_type":
        return f"must be text{text_cure(path, error['input'])}"
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
    error: ValidationError, model: type[BaseModel], data: Mapping[str, Any], prefix: KeyPath = ()
) -> list[tuple[KeyPath, Problem]]:
    """Return pydantic's errors as (path in ``data``, `Problem`), the first of each path.

    Args:
        error: What validation raised.
        model: The model that was validated: `StudyConfig` or `TrialConfig`.
        data: The mapping that was validated.
        prefix: Where ``data`` stands in the study; goes before the path in the problems alone.
    """
    found: dict[KeyPath, Problem] = {}
    for details in error.errors(include_url=False):
        path: KeyPath = ()
        place: Any = data
        for part in details["loc"]:  # union branches append parts that the data do not have
            inside = place if isinstance(place, dict) else dict(enumerate(place)) if isinstance(place, list) else {}
            if part not in inside and details["type"] != "missing":
                break
            path, place = (*path, part), inside.get(part)
        message, value = explain(details, model), details["input"]
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
            value = NOTHING
        found.setdefault(path, problem_at((*prefix, *path), message, value))
    return list(found.items())
