"""Study files: YAML in, a checked `StudyConfig` out, or every mistake with its file, line and key."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ddcal.config.checks import GIVEN_TWICE, Problem, check_study, field_problems, nest, problem_at, trial_names
from ddcal.config.study import StudyConfig
from ddcal.errors import BadInput

__all__ = ["ConfigError", "Problem", "parse_overrides", "read_study", "study_problems"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
MAX_NODES = 10_000

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {text: None for text in ("", "~", "null", "Null", "NULL")} | {
    text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False", "FALSE")
}


class ConfigError(BadInput):
    """A study that cannot be used.

    Attributes:
        problems: Every mistake that was found.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class _Refused(Exception):
    """Reading cannot go on."""

    def __init__(self, problem: Problem):
        self.problem = problem


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _scalar(text: str) -> Any:
    """Return the value of an unquoted scalar by the core schema of YAML 1.2: 1e-3 is a number, yes and on are text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        value = int(text[2:] if base != 10 else text, base) if len(text) < 40 else 2**64
        return value if abs(value) < 2**64 else math.inf
    if _NOT_FINITE.fullmatch(text):
        return math.nan if text[1:].lower() == "nan" else math.inf
    return float(text) if _FLOAT.fullmatch(text) else text


@dataclass
class _Frame:
    """A mapping or sequence that is being read; ``key`` is the mapping's key whose value comes next."""

    container: dict[str, Any] | list[Any]
    path: tuple[str | int, ...]
    anchor: str | None
    key: str | None = None
    skip: bool = False


@dataclass
class _Reader:
    """Builds plain data from YAML's events: no recursion, no tags, a limited number of nodes, lines kept by path."""

    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Any] = field(default_factory=dict)
    stack: list[_Frame] = field(default_factory=list)
    nodes: int = 0
    documents: int = 0
    root: Any = None

    def read(self, text: str) -> Any:
        """Return the one document in ``text``; raises `_Refused` where reading cannot go on."""
        try:
            for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                self._event(event, _line(event))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._refuse(
                (), f"not valid YAML: {error.problem or error.context}", None if mark is None else mark.line + 1
            )
        except (yaml.YAMLError, ValueError) as error:
            self._refuse((), f"not valid YAML: {' '.join(str(error).split())[:200]}", None)
        return self.root

    def _refuse(self, path: tuple[str | int, ...], message: str, line: int | None) -> None:
        raise _Refused(replace(problem_at(path, message), line=line))

    def _event(self, event: yaml.Event, line: int) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse((), "a second document begins here; a study file holds one", line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            frame = self.stack.pop()
            if frame.anchor is not None:
                self.anchors[frame.anchor] = frame.container
        elif isinstance(event, yaml.NodeEvent):
            self._node(event, line)

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        frame = self.stack[-1] if self.stack else None
        self._count(1, line)
        if frame is not None and isinstance(frame.container, dict) and frame.key is None:
            self._key(frame, event, line)
            return
        path: tuple[str | int, ...] = ()
        if frame is not None:
            path = (*frame.path, frame.key if isinstance(frame.container, dict) else len(frame.container))  # type: ignore[arg-type]
            self.lines.setdefault(".".join(map(str, path)), line)
        value = self._value(event, path, line)
        if frame is None:
            self.root = value
        elif isinstance(frame.container, list):
            frame.container.append(value)
        else:
            if not frame.skip:
                frame.container[str(frame.key)] = value
            frame.key = None

    def _key(self, frame: _Frame, event: yaml.NodeEvent, line: int) -> None:
        plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if not isinstance(event, yaml.ScalarEvent) or (plain and not isinstance(_scalar(event.value), str)):
            shown = event.value if isinstance(event, yaml.ScalarEvent) else "a list, mapping or alias"
            self._refuse(frame.path, f"{shown!r} is a key here; keys must be text", line)
            return
        frame.key = event.value
        path = (*frame.path, event.value)
        frame.skip = event.value in frame.container
        if frame.skip:
            self._report(path, "the key is given twice in one mapping; keep one", line)
        else:
            self.lines[".".join(map(str, path))] = line

    def _value(self, event: yaml.NodeEvent, path: tuple[str | int, ...], line: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self._refuse(path, f"*{event.anchor} refers to an anchor that is not complete before it", line)
            return self._copy(self.anchors[str(event.anchor)], line)
        if event.tag is not None:  # type: ignore[attr-defined]
            self._report(path, f"the tag {event.tag} is refused; study files hold plain values only", line)  # type: ignore[attr-defined]
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event.value) if event.implicit[0] else event.value
            if isinstance(value, float) and not math.isfinite(value):
                self._report(path, "must be a finite number of ordinary size", line, event.value)
            if event.anchor is not None:
                self.anchors[event.anchor] = value
            return value
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.stack.append(_Frame(container, path, event.anchor))
        if len(self.stack) > MAX_DEPTH:
            self._refuse((), f"nested deeper than {MAX_DEPTH} levels", line)
        return container

    def _report(self, path: tuple[str | int, ...], message: str, line: int, *value: Any) -> None:
        self.problems.append(replace(problem_at(path, message, *value), line=line))

    def _count(self, nodes: int, line: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self._refuse((), f"more than {MAX_NODES} values, aliases counted as often as they are used", line)

    def _copy(self, value: Any, line: int) -> Any:
        self._count(1, line)
        if isinstance(value, dict):
            return {key: self._copy(item, line) for key, item in value.items()}
        return [self._copy(item, line) for item in value] if isinstance(value, list) else value


def _read_text(path: Path) -> str:
    """Return the file's text; raises `_Refused` if there is none to use."""
    try:
        if path.is_dir():
            message = "is a directory; give a study file"
        elif path.stat().st_size > MAX_BYTES:
            message = f"is larger than {MAX_BYTES} bytes; this is no study file"
        else:
            return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        message = "no such file"
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text (byte {error.start}); a study file is YAML text"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise _Refused(Problem("", "", message))


def parse_overrides(overrides: Iterable[str]) -> tuple[list[tuple[str, Any, str]], list[Problem]]:
    """Parse ``--set`` arguments ``key.path=value``, whose value is YAML: a scalar, ``[a, b]`` or ``{a: b}``.

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
        reader = _Reader()
        try:
            value = reader.read(written)
        except _Refused as refused:
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


def _apply(place: Any, parts: Sequence[str], value: Any, path: tuple[str, ...] = ()) -> str:
    """Set ``value`` in ``place`` under dotted ``parts``; return why that cannot be, or an empty string."""
    if isinstance(place, list):
        if not parts[0].isdigit() or int(parts[0][:9]) >= len(place):
            return f"{'.'.join(path)} is a list of {len(place)}; {parts[0]!r} is no position in it"
        inside = place[int(parts[0])]
        if len(parts) == 1:
            place[int(parts[0])] = value
            return ""
        return _apply(inside, parts[1:], value, (*path, parts[0]))
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
    return _apply(place[key], parts[size:], value, (*path, key))


def _new_key_size(place: dict[str, Any], parts: Sequence[str], path: tuple[str, ...]) -> int:
    """Return how many of ``parts`` make the next key, where dotted names may be keys and none of them exists."""
    if path == ("space",):
        return next(
            (n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in trial_names()), max(1, len(parts) - 1)
        )
    if (path[:1] == ("space",) and path[-1] == "when") or path[:2] == ("search", "enqueue"):
        return len(parts)
    return 1


def _validate(data: dict[str, Any]) -> tuple[StudyConfig | None, list[Problem], set[str]]:
    """Return the study of those parts whose types are right, the problems of the others, and their space names."""
    problems: list[Problem] = []
    broken: set[str] = set()
    for _ in range(3):
        try:
            return StudyConfig.model_validate(data), problems, broken
        except ValidationError as error:
            for path, problem in field_problems(error, StudyConfig, data):
                problems.append(problem)
                section = data.get(str(path[0]))
                if path[0] == "space" and len(path) > 1:
                    broken.add(str(path[1]))
                if len(path) > 1 and isinstance(section, dict):
                    section.pop(str(path[1]), None)
                else:
                    data.pop(str(path[0]), None)
        data.setdefault("name", "unnamed")
        if not data.get("objectives"):
            data["objectives"] = {"val/nll": "min"}
    return None, problems, broken


def _located(problem: Problem, file: str, lines: dict[str, int], overrides: Sequence[tuple[str, Any, str]]) -> Problem:
    """Return ``problem`` with its file, and the line or the ``--set`` argument that its value came from."""
    if problem.line is not None or problem.override is not None:
        return replace(problem, file=file)
    parts = problem.path.split(".") if problem.path else []
    for size in range(len(parts), 0, -1):
        path = ".".join(parts[:size])
        for key, _, text in reversed(overrides):
            if key == path or (size == len(parts) and key.startswith(f"{path}.")):
                return replace(problem, file=file, override=text)
        if path in lines:
            return replace(problem, file=file, line=lines[path])
    return replace(problem, file=file)


def study_problems(path: str | Path, overrides: Iterable[str] = ()) -> tuple[StudyConfig | None, list[Problem]]:
    """Read a study file and return the study, or None and everything that is wrong with it.

    Args:
        path: The YAML file.
        overrides: ``--set`` arguments, ``key.path=value``, applied in order before anything is checked.
    """
    file, reader = str(path), _Reader()
    parsed, problems = parse_overrides(overrides)
    try:
        data = reader.read(_read_text(Path(path)))
        if not isinstance(data, dict):
            shown = "the file is empty" if data is None else f"the file holds {problem_at((), '', data).value}"
            raise _Refused(Problem("", "", f"{shown}; a study is a mapping of keys to values, such as name and space"))
    except _Refused as refused:
        return None, [replace(problem, file=file) for problem in (*reader.problems, refused.problem, *problems)]

    known = {problem.path for problem in reader.problems}
    problems = reader.problems + problems
    if isinstance(data.get("base"), dict):
        data["base"], conflicts = nest(data["base"])
        problems += [problem_at(("base", *conflict), GIVEN_TWICE) for conflict in conflicts]
    for key, value, text in parsed:
        if why := _apply(data, key.split("."), value):
            problems.append(Problem(key, "", why, override=text))
    if isinstance(data.get("base"), dict):
        data["base"], _ = nest(data["base"])
    study, found, broken = _validate(data)
    if study is not None:
        found += check_study(study, broken | _names(known))
    problems += [problem for problem in found if problem.path not in known]
    located = [_located(problem, file, reader.lines, parsed) for problem in problems]
    return (None if problems else study), sorted(located, key=lambda problem: (problem.line is None, problem.line or 0))


def _names(paths: Collection[str]) -> set[str]:
    return {path.removeprefix("base.") for path in paths if path.startswith("base.")}


def read_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """Return the study in a YAML file.

    Args:
        path: The file.
        overrides: ``--set`` arguments, ``key.path=value``, applied in order before anything is checked.

    Raises:
        ConfigError: with every problem of the file and of the overrides.
    """
    study, problems = study_problems(path, overrides)
    if study is None:
        raise ConfigError(problems)
    return study
