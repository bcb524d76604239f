"""Limits of an update of what is learned, off where their settings are None, and the error of a loop that diverged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ddcal.config import DistillConfig
from ddcal.errors import DivergedError


class _Loop(Protocol):
    config: DistillConfig
    iteration: int
    iterations: int


def clipped(gradients: Sequence[Tensor], clip: float | None) -> list[Tensor]:
    """Return the gradients, scaled down together so that the norm over all of them is at most ``clip``."""
    if clip is None:
        return list(gradients)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = torch.clamp(clip / (norm + 1e-6), max=1.0)
    return [scale * gradient for gradient in gradients]


def limited(update: Tensor, limit: float) -> Tensor:
    """Return an update with every element in [−limit, limit]; a NaN stays one."""
    return update.clamp(-limit, limit)


def what_limits(config: DistillConfig) -> str:
    """Return the end of the advice to lower a rate: the limits that could be set or lowered, as they are."""
    limits = {config.spec.clip: config.spec.clip_now(config), "distill.update_limit": config.update_limit}
    words = [f"{name} ({'off' if value is None else f'{value:g}'})" for name, value in limits.items()]
    return f", or hold an update with {' or '.join(words)}"


def diverged(loop: _Loop, problem: str, advice: str) -> DivergedError:
    """Return the error of a distilling loop.

    Args:
        loop: Which is in its iteration ``iteration`` + 1.
        problem: What is wrong, with the numbers.
        advice: Which settings to change.
    """
    where = f"iteration {loop.iteration + 1} of {loop.iterations}"
    return DivergedError(f"distill: {loop.config.backbone} diverged in {where} ({problem}): {advice}")
