"""`Problem`: one mistake in a study file, with where it stands, what it is and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ddcal.credentials import masked
from ddcal.errors import BadInput, cut, one_line

KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead to a value of a study."""

GIVEN_TWICE = "given twice: once nested, once as a dotted key; keep one"

_ENOUGH = 3
"""So many letters are the beginning of a word, and not of half of all words."""

NOTHING: Any = object()
"""Stands for no value to show, where None would be a value."""


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

    Passwords and keys inside addresses are masked in all of them.
    """

    path: str
    value: str
    message: str
    file: str = ""
    line: int | None = None
    override: str | None = None

    def __post_init__(self) -> None:
        for name in ("value", "message", "override"):
            if isinstance(text := getattr(self, name), str):
                object.__setattr__(self, name, masked(text))

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        if self.override is not None:
            place = f"{place} (--set {self.override})".lstrip()
        what = f"{self.value} is not allowed: {self.message}" if self.value else self.message
        text = ": ".join(part for part in (place, self.path, what) if part)
        return one_line(text)


class ConfigError(BadInput):
    """A study that cannot be used.

    Attributes:
        problems: Every mistake that was found.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def problem_at(path: KeyPath, message: str, value: Any = NOTHING) -> Problem:
    """Return the `Problem` at ``path`` of a study.

    Args:
        path: Keys and list positions from the top of the study.
        message: What would be right.
        value: The offending value, shown in at most 80 characters; left out where there is none to show.
    """
    shown = "" if value is NOTHING else masked(repr(value))
    return Problem(".".join(map(str, path)), cut(shown, 80), message)


def suggestion(word: object, options: Collection[str]) -> str:
    """Return ``"; did you mean …?"`` for the option nearest to ``word``, or an empty string.

    Args:
        word: What was written.
        options: What could have been written; a dotted option is near if its last part is the word, and any is nearer
            that begins with the word than one that does not.
    """
    text = str(word)[:100]
    near = [option for option in options if "." in option and option.rpartition(".")[2] == text]
    begun = [option for option in options if option.startswith(text)] if len(text) >= _ENOUGH else []
    near = near or difflib.get_close_matches(text, begun, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(text, list(options), n=1)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
