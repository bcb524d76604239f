"""Pickles that nobody has looked at yet: their instructions, gone through without building anything.

What torch builds of a pickle with ``weights_only`` runs nothing, but Python hashes a tuple that is a key with all that
is in it: as often as it holds it, and by recursion in C, which ends the process where tuples lie too deep.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO, Any

from ddcal.untrusted import Untrusted

MAX_WEIGHT = 1_000_000
"""How many values a tuple may have in all that it holds, counted as often as it holds them: Python hashes them all."""
MAX_DEPTH = 64
"""How deep tuples, and what is called with them, may lie in each other; saved tensors need a handful."""
DEEPER = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ")
"""Instructions whose value lies around what they take; others pass its depth on."""

_Measure = tuple[int, int]  # the weight of a value, and its depth


def instructions(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield (name, argument) of every instruction of the pickle that a stream is at.

    Raises:
        Untrusted: if it builds a tuple beyond `MAX_WEIGHT` or `MAX_DEPTH`, in words that go on from "the file".
        ValueError, LookupError: if it is no pickle.
    """
    stack: list[_Measure | None] = []  # None for a mark
    memo: dict[int, _Measure] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        yield name, argument
        if name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument or 0)] = stack[-1] or (1, 1)
            continue
        if name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument or 0)])
            continue
        popped = _pop(stack, opcode)
        weight = 1 + sum(weight for weight, _ in popped) if name.startswith("TUPLE") else 1
        depth = max((depth for _, depth in popped), default=0) + (name in DEEPER)
        if weight > MAX_WEIGHT:
            raise Untrusted(f"holds a tuple of more than {MAX_WEIGHT:,} values")
        if depth > MAX_DEPTH:
            raise Untrusted(f"holds tuples in each other, more than {MAX_DEPTH} deep")
        stack += [None if kind is pickletools.markobject else (weight, depth) for kind in opcode.stack_after]


def _pop(stack: list[_Measure | None], opcode: pickletools.OpcodeInfo) -> list[_Measure]:
    """Take from the stack what an instruction takes, as `pickletools.dis` does; return the measures."""
    popped: list[_Measure] = []
    count = len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        while (value := stack.pop()) is not None:
            popped.append(value)
        count = opcode.stack_before.index(pickletools.markobject)
    for _ in range(count):
        popped.append(stack.pop() or (1, 0))
    return popped
