"""Training losses by name. Mixup, label smoothing and focal loss take their place here."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}
"""Name of ``train.loss`` → function of logits float (N, K) and labels int64 (N,) that returns the batch's mean loss."""
