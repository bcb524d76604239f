"""The page of every setting, made from the models that check them, so that it is never out of step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ddcal.config import StudyConfig, TrialConfig
from ddcal.config.names import submodel

ABOUT = "Every setting of a study and of a trial: its values, its default, and what the section is for."


def settings_page() -> str:
    """Return the page as Markdown."""
    parts = [
        "# Settings",
        ABOUT,
        "Settings of a trial stand under `base` and `space` of a study, by their dotted names.",
    ]
    for title, model in (("A study", StudyConfig), ("A trial", TrialConfig)):
        parts.append(f"## {title}")
        parts += _sections(model, "")
    return "\n\n".join(parts) + "\n"


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield a model's docstring and table, then those of the models in it."""
    inner = {name: submodel(field.annotation) for name, field in model.model_fields.items()}
    if prefix:
        yield f"### `{prefix.rstrip('.')}`"
    yield inspect.cleandoc(model.__doc__ or "").replace("``", "`")
    rows = [
        f"| `{prefix}{name}` | {_taken(field)} | {_default(field)} |"
        for name, field in model.model_fields.items()
        if inner[name] is None or name == "space"
    ]
    if rows:
        yield "\n".join(["| setting | values | default |", "|-|-|-|", *rows])
    for name, one in inner.items():
        if one is not None:
            yield from _sections(one, f"{prefix}{name}.<name>." if name == "space" else f"{prefix}{name}.")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "left out"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value not in ({}, (), "") else "–"


def _taken(field: FieldInfo) -> str:
    return " ".join([_values(field.annotation), *(words for one in field.metadata for words in _limits(one))])


def _values(annotation: Any) -> str:
    """Return the values that a field takes, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        limits = [words for one in arguments[1:] for words in _limits(one)]
        return " ".join([_values(arguments[0]), *limits])
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin in (tuple, list, dict):
        return "a mapping" if origin is dict else "a list"
    if arguments:  # a union
        return " or ".join(dict.fromkeys(_values(one) for one in arguments if one is not type(None)))
    return "a mapping"


def _limits(constraint: Any) -> Iterator[str]:
    for metadata in getattr(constraint, "metadata", [constraint]):
        for name, words in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            limit = getattr(metadata, name, None)
            if limit is not None and abs(limit) < 1e9:  # beyond that it is the number format's own
                yield f"{words} {limit:g}"


_WORDS = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
