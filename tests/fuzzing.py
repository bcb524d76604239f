"""Hostile variants of a good file, drawn by hypothesis: of its bytes, or of the plain data in it."""

import copy
import json
import math
import resource
import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

HOSTILE = [
    *(
        "../../../../victim",
        "/etc/passwd",
        "..",
        "",
        "a\\b",
        "a\0b",
        "\x1b[2J",
        "\ud800",
        "x" * 5000,
        "$\\frac{$",
        "[/b]",
    ),
    *("/dev/zero", "/dev/stdin", "~", "null", "1e3", "0" * 64, "%s%n{}", "__class__", "é" * 300),
    *(0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**6, 10**30, 1e308, 1e-320, True, False, None),
    *(math.nan, math.inf, -math.inf, 0.5, -0.0),
    *([], {}, [[]], {"": {}}, [None] * 2000, {"a": {"b": {"c": [1]}}}, {"bytes": 1, "sha256": "x"}),
]


def places(value, path=()):
    """Every place in plain data, as a path of keys."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def structures(draw, base):
    """Plain data like ``base`` with one to three changes: other types, dropped keys, hostile names, deep nests."""
    value = {"root": copy.deepcopy(base)}
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places(value) if path]))
        *parents, last = path
        at = value
        for key in parents:
            at = at[key]
        deed = draw(st.sampled_from(["replace", "drop", "rename", "nest", "add", "wrap"]))
        hostile = draw(st.sampled_from(HOSTILE))
        if deed == "drop" and len(path) > 1:
            del at[last]
        elif deed == "rename" and isinstance(at, dict) and len(path) > 1:
            at[hostile if isinstance(hostile, str) else "renamed"] = at.pop(last)
        elif deed == "nest":
            for _ in range(draw(st.sampled_from([1, 40, 300]))):
                at[last] = (draw(st.sampled_from(["list", "dict"])) == "list" and [at[last]]) or {"a": at[last]}
        elif deed == "add" and isinstance(at[last], dict):
            at[last][draw(st.sampled_from([h for h in HOSTILE if isinstance(h, str)]))] = copy.deepcopy(hostile)
        elif deed == "wrap":
            at[last] = [at[last]] * draw(st.sampled_from([1, 3]))
        else:
            at[last] = copy.deepcopy(hostile)
    return value["root"]


@st.composite
def contents(draw, base):
    """Bytes like ``base`` with one to three changes: flipped, cut, doubled, put in."""
    content = bytearray(base)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        deed = draw(st.sampled_from(["flip", "cut", "drop", "double", "put", "swap"]))
        if deed == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif deed == "cut":
            del content[at:]
        elif deed == "drop":
            del content[at : at + draw(st.integers(1, 40))]
        elif deed == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 4000))]
        elif deed == "swap":
            content[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
        else:
            content[at:at] = draw(st.sampled_from(PUT))
    return bytes(content)


PUT = [
    b"[" * 3000,
    b'{"a":' * 200,
    b"9" * 5000,
    b"\xff\xfe",
    b"\0",
    b"*a ",
    b"&a [",
    b"!!python/name:os.system ",
    b"\n",
]
PUT += [b"NaN", b"1e999", b'"\\ud800"', b"- " * 500, b"? ", b": ", b"<<: *a\n", b"#", b"---\n", b"'", b'"', b"\\"]


def either(base):
    """Bytes of a JSON file like ``base``: changed as bytes, or as data and written again."""
    data = structures(base).map(lambda value: json.dumps(value).encode())
    return st.one_of(contents(json.dumps(base, indent=1).encode()), data)


def fuzzed(examples):
    """Settings of a run: the same examples each time."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


class Bounds:
    """Holds that a block takes little memory and time of the processor, however often it is entered."""

    def __init__(self, megabytes=400, seconds=20.0):
        self.kilobytes, self.seconds, self.count = megabytes * 1024, seconds, 0
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __enter__(self):
        self.count += 1
        self.began = time.process_time()

    def __exit__(self, *_):
        assert time.process_time() - self.began < self.seconds
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before < self.kilobytes
