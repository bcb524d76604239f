"""Text to plain data: a reader of YAML that refuses what a study file has no use for, and keeps the lines."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ddcal.config.problems import KeyPath, Problem, problem_at
from ddcal.config.reading.cures import yaml_cure
from ddcal.untrusted import Untrusted, read_bytes

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
MAX_NODES = 10_000
MAX_KEY = 300
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

MERGE = "<<"
"""YAML's merge key: the keys of the mapping or mappings behind it, where they are not given beside it."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {text: None for text in ("", "~", "null", "Null", "NULL")} | {
    text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False", "FALSE")
}


class Refused(Exception):
    """Reading cannot go on.

    Attributes:
        problem: Why.
    """

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
    """A mapping or sequence that is being read.

    Attributes:
        container: What was read of it.
        path: Where it stands.
        anchor: Its name for aliases.
        key: The mapping's key whose value comes next.
        skip: Whether that value is passed over: the key was there before.
        merges: The line of its merge key; 0 if it has none.
    """

    container: dict[str, Any] | list[Any]
    path: KeyPath
    anchor: str | None
    key: str | None = None
    skip: bool = False
    merges: int = 0


@dataclass
class YamlReader:
    """Builds plain data from YAML's events: no recursion, no tags, a limited number of nodes, lines kept by path.

    Attributes:
        lines: Dotted path → the line of its key or list item.
        problems: Mistakes after which reading could go on.
        anchors: Anchor → its complete value.
        stack: The mappings and sequences that are open, outermost first.
        nodes: Values so far, aliases counted as often as they are used.
        documents: Documents so far.
        root: The value of the document.
    """

    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Any] = field(default_factory=dict)
    stack: list[_Frame] = field(default_factory=list)
    nodes: int = 0
    documents: int = 0
    root: Any = None

    def read(self, text: str) -> Any:
        """Return the one document in ``text`` as plain data.

        Raises:
            Refused: where reading cannot go on; ``problems`` holds what was found before.
        """
        try:
            for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                self._event(event, _line(event))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            found = f"{error.problem or error.context}"
            deep = "nesting depth" in found  # LibYAML's own limit, which may come before ours has seen an event
            cure = "" if deep or mark is None else yaml_cure(text, error)
            message = TOO_DEEP if deep else f"not valid YAML: {cure or found}"
            self._refuse(self._open_path() if cure else (), message, None if mark is None else mark.line + 1)
        except (yaml.YAMLError, ValueError) as error:
            self._refuse((), f"not valid YAML: {' '.join(str(error).split())[:200]}", None)
        return self.root

    def _open_path(self) -> KeyPath:
        """Return the path of the value that is being read."""
        if not self.stack:
            return ()
        frame = self.stack[-1]
        return frame.path if frame.key is None else (*frame.path, frame.key)

    def _refuse(self, path: KeyPath, message: str, line: int | None) -> None:
        raise Refused(replace(problem_at(path, message), line=line))

    def _event(self, event: yaml.Event, line: int) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse((), "a second document begins here; a study file holds one", line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            frame = self.stack.pop()
            if frame.merges:
                self._merge(frame)
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
        path: KeyPath = ()
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
        if len(event.value) > MAX_KEY:  # each value below it would keep it as a part of its path
            self._refuse(frame.path, f"a key is longer than {MAX_KEY} characters: {event.value[:40]}…", line)
        frame.key = event.value
        path = (*frame.path, event.value)
        frame.skip = event.value in frame.container
        if frame.skip:
            self._report(path, "the key is given twice in one mapping; keep one", line)
        else:
            self.lines[".".join(map(str, path))] = line
            if plain and event.value == MERGE:
                frame.merges = line

    def _merge(self, frame: _Frame) -> None:
        """Put the mappings behind the merge key into the mapping: what is given beside it wins, then the first."""
        assert isinstance(frame.container, dict)
        given = frame.container.pop(MERGE)
        for mapping in given if isinstance(given, list) else [given]:
            if not isinstance(mapping, dict):
                message = "merges mappings: write an alias of one, *name, or a list of them"
                self._refuse((*frame.path, MERGE), message, frame.merges)
            for key, value in mapping.items():
                if key not in frame.container:
                    frame.container[key] = value
                    self.lines[".".join(map(str, (*frame.path, key)))] = frame.merges

    def _value(self, event: yaml.NodeEvent, path: KeyPath, line: int) -> Any:
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
            self._refuse((), TOO_DEEP, line)
        return container

    def _report(self, path: KeyPath, message: str, line: int, *value: Any) -> None:
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


def parse_yaml(text: str) -> Any:
    """Return the plain data in YAML text that is no study: an export's, for one.

    Raises:
        Untrusted: if it is no YAML, or more than plain data of ordinary size, with the line.
    """
    reader = YamlReader()
    if len(text) > MAX_BYTES:
        raise Untrusted(f"is larger than {MAX_BYTES} bytes")
    try:
        value = reader.read(text)
        problems = reader.problems
    except Refused as refused:
        problems = [*reader.problems, refused.problem]
    if problems:
        first = replace(problems[0], file="", line=None)
        line = f"line {problems[0].line}: " if problems[0].line is not None else ""
        raise Untrusted(f"cannot be read: {line}{first}")
    return value


def dump_yaml(value: Any) -> str:
    """Return plain data as YAML that `YamlReader` reads as it was: text that would be a number is quoted."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes what is text for YAML 1.1, which PyYAML writes, and a number for 1.2: 1e3, 0o7."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def read_text(path: Path) -> str:
    """Return the file's text.

    Raises:
        Refused: if there is none to use.
    """
    try:
        return read_bytes(path, MAX_BYTES, links=True).decode("utf-8-sig")
    except FileNotFoundError:
        message = "no such file"
    except Untrusted as error:
        message = f"{error}; give a study file"
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text (byte {error.start}); a study file is YAML text"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise Refused(Problem("", "", message))
