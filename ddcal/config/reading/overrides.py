"""The ``--set key.path=value`` arguments: parsed as YAML, and set in a study's data before it is checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ddcal.config.names import setting_types, submodel, trial_names
from ddcal.config.problems import Problem, suggestion
from ddcal.config.reading.cures import is_setting, setting_cure
from ddcal.config.reading.yaml_reader import Refused, YamlReader
from ddcal.config.study import StudyConfig


def parse_overrides(overrides: Iterable[str]) -> tuple[list[tuple[str, Any, str]], list[Problem]]:
    """Parse ``--set`` arguments.

    Args:
        overrides: Arguments ``key.path=value``, whose value is YAML: a scalar, ``[a, b]`` or ``{a: b}``.

    Returns:
        The overrides as (key path, value, the argument itself), and the problems of those that are malformed.
    """
    parsed, problems = [], []
    for text in overrides:
        key, equals, written = text.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            problems.append(Problem("", "", "write --set key.path=value, for example search.trials=4", override=text))
            continue
        reader = YamlReader()
        try:
            value = reader.read(written)
        except Refused as refused:
            problems.append(replace(refused.problem, path=key, line=None, override=text))
            continue
        if reader.problems:
            problems += [
                replace(problem, path=f"{key}.{problem.path}".rstrip("."), line=None, override=text)
                for problem in reader.problems
            ]
        else:
            parsed.append((key, value, text))
    return parsed, problems


def setting_keys() -> list[str]:
    """Return the keys that ``--set`` takes, but for names of the space, objectives and constraints."""
    keys = ["name", "description", "trial", *(f"base.{name}" for name in trial_names())]
    for section, field in StudyConfig.model_fields.items():
        inner = submodel(field.annotation)
        if inner is not None and section != "space":
            keys += [f"{section}.{key}" for key in inner.model_fields]
    return keys


def misplaced(key: str) -> str:
    """Return where the key of a ``--set`` belongs, if it is one of a section or a trial; else an empty string."""
    if key.partition(".")[0] in StudyConfig.model_fields:
        return ""
    if is_setting(key):
        return f"unknown key; {setting_cure(key)}"
    near = [one for one in setting_keys() if one.endswith(f".{key}")]
    return f"unknown key{suggestion(key, near)}" if near else ""


def apply_override(place: Any, parts: Sequence[str], value: Any, path: tuple[str, ...] = ()) -> str:
    """Set a value in a study's data, and return why that cannot be, or an empty string.

    Args:
        place: The mapping or list to change.
        parts: The key path below ``place``, split at its dots; a key of ``place`` may span several parts.
        value: The value to set.
        path: Where ``place`` stands in the study.
    """
    if isinstance(place, list):
        if not parts[0].isdigit() or int(parts[0][:9]) >= len(place):
            return f"{'.'.join(path)} is a list of {len(place)}; {parts[0]!r} is no position in it"
        inside = place[int(parts[0])]
        if len(parts) == 1:
            place[int(parts[0])] = value
            return ""
        return apply_override(inside, parts[1:], value, (*path, parts[0]))
    if not isinstance(place, dict):
        return f"{'.'.join(path)} is {place!r:.80}, which has no keys inside"
    sizes = range(len(parts), 0, -1)
    size = next((n for n in sizes if ".".join(parts[:n]) in place), None) or _new_key_size(place, parts, path)
    key = ".".join(parts[:size])
    if size == len(parts):
        place[key] = value
        return ""
    if place.get(key) is None:
        place[key] = {}
    return apply_override(place[key], parts[size:], value, (*path, key))


def _new_key_size(place: dict[str, Any], parts: Sequence[str], path: tuple[str, ...]) -> int:
    """Return how many of ``parts`` make the next key, where dotted names may be keys and none of them exists."""
    if path == ("space",):
        return next((n for n in range(len(parts), 0, -1) if setting_types(".".join(parts[:n]))), max(1, len(parts) - 1))
    if (path[:1] == ("space",) and path[-1] == "when") or path[:2] == ("search", "enqueue"):
        return len(parts)
    return 1
