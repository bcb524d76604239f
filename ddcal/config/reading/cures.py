"""What to write instead, for mistakes of typing: tabs, dashes, colons, and values that stand in the wrong place."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ddcal.config.metrics import better
from ddcal.config.names import trial_names

_TAB = re.compile(r"^ *\t")
_EQUALS = re.compile(r"^\s*([\w.]+)\s*=\s*(.+)$")
_NO_SPACE = re.compile(r"^([\w./-]+):(?!/)(.+)$")
_COMPARED = re.compile(r"^\s*([\w./-]+)\s*([<>]=?\s*[0-9.eE+-]+)\s*$")
_SHOWN = 60
_LINES = 5


def yaml_cure(text: str, error: yaml.MarkedYAMLError) -> str:
    """Return what is wrong with text that is no YAML, and what to write; empty where that is not known."""
    said = str(error.problem or error.context)
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    number = mark.line if mark is not None else len(lines)
    line = lines[number] if number < len(lines) else ""
    if mark is not None and line[mark.column : mark.column + 1] == "\t":
        return _tab_cure(lines, number)
    if found := re.search(r"(?:[:,\[{-]\s+|^)(>=?\s*[0-9.+-][0-9.eE+-]*)", line):
        return f'{said}; > begins a block of text in YAML: put the comparison in quotes, "{found[1].strip()}"'
    for near in (number, number - 1):  # YAML takes `key = value` for text, and stumbles over the next line
        if 0 <= near < len(lines) and (given := _EQUALS.match(lines[near])):
            return f"line {near + 1} has = where YAML has a colon: write {_short(f'{given[1]}: {given[2]}')}"
    if "cannot start any token" in said or "mapping values are not allowed" in said:
        return f"{said}; text that holds characters of YAML goes in quotes"
    return ""


def _tab_cure(lines: list[str], number: int) -> str:
    if not _TAB.match(lines[number]):
        return "a tab stands where YAML takes spaces alone: write a space"
    others = [str(n + 1) for n, line in enumerate(lines) if n != number and _TAB.match(line)]
    listed = ", ".join(others[:_LINES]) + (f" and {len(others) - _LINES} more" if len(others) > _LINES else "")
    also = f" (and line{'s' * (len(others) > 1)} {listed})" if others else ""
    return f"the line begins with a tab{also}; YAML is indented with spaces: write two spaces for each tab"


def mapping_cure(path: tuple[str | int, ...], value: Any) -> str:
    """Return what to write for ``value`` where keys with values must be; empty where that is not known.

    Args:
        path: Where it stands in the study.
        value: What stands there: a list, or text.
    """
    items = value if isinstance(value, list) else [value]
    if items and all(isinstance(item, dict) for item in items):
        keys = [str(key) for item in items for key in item]
        if isinstance(value, list) and keys and len(set(keys)) == len(keys):
            first = ", ".join(f"{key}: …" for key in keys[:3])
            return f"; a list has dashes: write the keys without them, {first}"
    if not items or not all(isinstance(item, str) for item in items):
        return ""
    if path == ("objectives",):
        return f"; say of each metric what is better: {_short(', '.join(f'{item}: min' for item in items))}, or max"
    if path == ("constraints",):
        found = [_COMPARED.match(item) for item in items]
        written = [f'{one[1]}: "{one[2]}"' for one in found if one]
        return f"; write {_short(', '.join(written))}" if written else ""
    if path == ("space",):
        return f"; give each name its values: {items[0]}: [1, 5], or a range {{uniform: [low, high]}}"
    return ""


def text_cure(path: tuple[str | int, ...], value: Any) -> str:
    """Return what to write where text must be, for a value that YAML takes for something else; else empty."""
    if not isinstance(value, bool | int | float):
        return ""
    if path[:1] == ("constraints",) and not isinstance(value, bool):
        sign = ">=" if better(str(path[-1])) == "max" else "<="
        return f', for example "{sign} {value:g}"'
    return ": put it in quotes"


def domain_cure(name: str, value: Any) -> str:
    """Return what to write for a single value where a name of the space is given its values."""
    if isinstance(value, bool | int | float | str):
        return f"values to search: a list of them, [{value}, …], or a range; a fixed value belongs in base: base.{name}"
    return "a list of values, [1, 5], or one of {uniform: [low, high]}, {loguniform: …}, {int: …}, {choice: […]}"


def unknown_key_cure(key: str, at_top: bool) -> str:
    """Return what is wrong with an unknown key that lacks a space, or is a trial's setting at the top; else empty."""
    if found := _NO_SPACE.match(key):
        return f"; a colon needs a space behind it: {_short(f'{found[1]}: {found[2]}')}"
    return f"; {setting_cure(key)}" if at_top and is_setting(key) else ""


def is_setting(name: str) -> bool:
    """Return whether a dotted name is a trial's setting, or a section of them."""
    return name in trial_names() or any(setting.startswith(f"{name}.") for setting in trial_names())


def setting_cure(name: str) -> str:
    """Return where a trial's setting belongs."""
    return f"a trial's settings stand in base: write base.{name}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
