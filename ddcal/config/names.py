"""The dotted names of a trial's settings, and the way from values under such names to a checked trial."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ddcal.config.problems import KeyPath
from ddcal.config.trial import TrialConfig

_MAX_KEY_PARTS = 8

OWN_SETTINGS = ("distill.settings.",)
"""What the names of settings of a user's own components begin with."""


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the plain types of an annotation: of unions, Annotated and dict values; Literal stays whole."""
    arguments = get_args(annotation)
    if not arguments or get_origin(annotation) is Literal:
        yield annotation
    else:
        for argument in arguments:
            yield from _members(argument)


def submodel(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field of this annotation holds, or None for a plain value."""
    models = (member for member in _members(annotation) if isinstance(member, type) and issubclass(member, BaseModel))
    return next(models, None)


@functools.cache
def trial_names() -> dict[str, frozenset[Any]]:
    """Return every dotted name of a TrialConfig → the types it takes (``int``, ``float``, a ``Literal``…)."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, frozenset[Any]]]:
        for key, field in model.model_fields.items():
            inner = submodel(field.annotation)
            if get_origin(field.annotation) is dict:  # of a user's own components, which alone know them
                continue
            if inner is None:
                yield prefix + key, frozenset(_members(field.annotation))
            else:
                yield from walk(inner, f"{prefix}{key}.")

    return dict(walk(TrialConfig, ""))


def setting_types(name: str) -> frozenset[Any] | None:
    """Return the types that a setting of a trial takes, None where there is none of that name.

    What a user's own component takes, it says itself once the trial is whole.
    """
    if name.startswith(OWN_SETTINGS) and name not in OWN_SETTINGS:
        return frozenset({int, float, str, bool})
    return trial_names().get(name)


def nest(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[KeyPath]]:
    """Return ``values`` as nested mappings, and the names given twice.

    Args:
        values: A mapping whose keys may be nested, dotted or both.

    Returns:
        The nested mappings, with the first value of a name given twice; and the paths of such names.
    """
    nested: dict[str, Any] = {}
    conflicts: list[KeyPath] = []

    def merge(target: dict[str, Any], source: Mapping[str, Any], prefix: KeyPath) -> None:
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
