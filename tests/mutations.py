"""Damaged and hostile variants of real small files, for hypothesis."""

import io
import resource
import time
import zipfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_place = st.floats(0.0, 1.0, exclude_max=True)
_number = st.tuples(st.sampled_from(EXTREMES), st.sampled_from((1, 2, 4, 8)), st.booleans())
_change = st.one_of(
    st.tuples(st.just("flip"), _place, st.integers(1, 255)),
    st.tuples(st.just("cut"), _place, st.none()),
    st.tuples(st.just("drop"), _place, st.integers(1, 64)),
    st.tuples(st.just("insert"), _place, st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("number"), _place, _number),
    st.tuples(st.just("copy"), _place, st.tuples(_place, st.integers(1, 64))),
)
changes = st.lists(_change, min_size=1, max_size=6)
"""What is done to a file: bytes flipped, cut off, dropped, inserted, overwritten by extreme numbers, copied."""

EXAMPLES = 100
LIMIT_S, LIMIT_KB = 600.0, 500_000


def mutated(content, what):
    """Return the content of a file after some `changes`."""
    data = bytearray(content)
    for kind, place, value in what:
        at = int(place * len(data))
        if kind == "flip" and data:
            data[at] ^= value
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + value]
        elif kind == "insert":
            data[at:at] = value
        elif kind == "number":
            number, size, big = value
            data[at : at + size] = (number % 256**size).to_bytes(size, "big" if big else "little")
        elif kind == "copy":
            start, size = value
            piece = data[int(start * len(data)) :][:size]
            data[at : at + len(piece)] = piece
    return bytes(data)


def mutated_inside(content, member, what):
    """Return an archive whose checksums are right and one of whose members is changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        members = old.infolist()
        for index, info in enumerate(members):
            stored = old.read(info)
            new.writestr(info.filename, mutated(stored, what) if index == member % len(members) else stored)
    return stream.getvalue()


def examples(count):
    """Settings for so many examples, the same at every run."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=slow)


def outcome(read, error, path):
    """Read; return whether it was refused: by ``error``, soon, in little memory, naming the file, harmless to print."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        read()
        said = None
    except error as raised:
        said = str(raised)
    assert time.monotonic() - began < LIMIT_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LIMIT_KB
    if said is not None:
        assert str(path) in said and said.replace("\n", "").isprintable(), said
    return said is not None
