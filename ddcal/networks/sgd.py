"""SGD with momentum and weight decay in few calls: the bits of ``torch.optim.SGD``, without what surrounds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class SGD:
    """d = ∇ + λw; v = μv + d; w = w − ηv, without dampening or Nesterov.

    Attributes:
        parameters: What is learned, in the order in which gradients come.
        velocity: v of each parameter; empty before the first step, and where there is no momentum.
    """

    def __init__(self, parameters: Iterable[Tensor], momentum: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity: list[Tensor] = []

    def step(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        """Take a step at a rate η; a parameter whose gradient is None, as no output depends on it, stays."""
        if self.momentum and not self.velocity:
            self.velocity = [torch.zeros_like(parameter) for parameter in self.parameters]
        moved = [index for index, gradient in enumerate(gradients) if gradient is not None]
        parameters = [self.parameters[index] for index in moved]
        changes = [gradient for gradient in gradients if gradient is not None]
        with torch.no_grad():
            if self.weight_decay:
                changes = list(torch._foreach_add(changes, parameters, alpha=self.weight_decay))
            if self.momentum:
                velocity = [self.velocity[index] for index in moved]
                torch._foreach_mul_(velocity, self.momentum)
                torch._foreach_add_(velocity, changes)
                changes = velocity
            torch._foreach_add_(parameters, changes, alpha=-rate)
