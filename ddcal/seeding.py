"""Randomness: every generator derives from (seed, stage, stream, index), never from a clock or a global generator."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, stage: str, stream: str, index: int = 0) -> int:
    """Return a 63-bit seed that depends on all four arguments.

    Args:
        seed: The trial's (or study's) own seed.
        stage: Who draws, for example ``"distill"``.
        stream: What is drawn, for example ``"real-batches"``; streams of a stage never share numbers.
        index: Position in the stream, for example the iteration; lets an interrupted loop go on at any index.
    """
    digest = hashlib.sha256(f"{seed}\x00{stage}\x00{stream}\x00{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, stage: str, stream: str, index: int = 0) -> torch.Generator:
    """Return a ``torch.Generator`` on the CPU, whatever the device, seeded with `derive_seed` of the arguments."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, stage, stream, index))
