"""The gradient of an outer loss through an inner SGD loop, exact, without holding the graph of the loop.

For t = 0 … N−1 the inner loop is v ← μ·v + g_t, θ ← θ − η·v, with g_t = ∇θ ℓ_t(θ, x) and v = 0 before the first step;
the outer loss is L(θ_N, x). Written backwards with a_t = dL/dθ_t and w_t = a_{t+1} + μ·w_{t+1} (w_N = 0):

    a_t = a_{t+1} − η·∇θ⟨g_t, w_t⟩        dL/dx = ∂L/∂x − η·Σ ∇x⟨g_t, w_t⟩        dL/dη = −Σ ⟨g_t, w_t⟩

so every step needs its own θ_t alone: one step's graph at a time is built again, and no velocity is kept. This is
reverse-mode differentiation of the unrolled loop (Maclaurin, Duvenaud, Adams, "Gradient-based Hyperparameter
Optimization through Reversible Learning", ICML 2015), with the parameters stored rather than reversed. MTT and RTP use
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddcal.networks import Network

Tensors = Sequence[Tensor]
StepLoss = Callable[[int, Tensors, Tensors], Tensor]
OuterLoss = Callable[[Tensors, Tensors], Tensor]
Method = Literal["exact", "segments", "full", "tesla"]

FULL_BYTES = 2**30
"""``gradient: auto`` keeps the whole graph up to this estimate: a part of the recipe, so no machine decides it."""

GRAPH_FACTOR = 2
"""What a step that is differentiated twice holds, in activations: 4.4 MB to 2.3 MB an image, measured for the ConvNet
of width 128 at 32 px."""


def method_of(gradient: Literal["auto"] | Method, network: Network, image: tuple[int, int, int], images: int) -> Method:
    """Return the method that a setting ``gradient`` stands for.

    Args:
        gradient: As ``distill.mtt.gradient`` or ``distill.rtp.gradient``.
        network: The student; only its shapes count.
        image: (channels, height, width) of an image.
        images: Images of all steps together, each as often as it is taken.
    """
    if gradient != "auto":
        return gradient
    return "full" if GRAPH_FACTOR * images * activation_bytes(network, image) <= FULL_BYTES else "exact"


def activation_bytes(network: Network, image: tuple[int, int, int]) -> int:
    """Return the bytes of what the layers of a network give for one image, float32."""
    sizes: list[int] = []
    copy = deepcopy(network).to("meta")
    for layer in copy.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _layer, _inputs, output: sizes.append(output.numel()))
    with torch.no_grad():
        copy(torch.empty(1, *image, device="meta"))
    return 4 * sum(sizes)


@dataclass(frozen=True)
class UnrollGradient:
    """What the outer loss is, and its derivatives.

    Attributes:
        loss: The outer loss, a detached scalar.
        inputs: d loss / d input, one tensor an input, of its shape.
        learning_rate: d loss / d learning rate, a scalar tensor.
        parameters: The parameters after the last inner step, detached.
    """

    loss: Tensor
    inputs: tuple[Tensor, ...]
    learning_rate: Tensor
    parameters: tuple[Tensor, ...]


def unroll_gradient(
    step_loss: StepLoss,
    outer_loss: OuterLoss,
    start: Tensors,
    inputs: Tensors,
    learning_rate: Tensor,
    steps: int,
    *,
    momentum: float = 0.0,
    method: Method = "exact",
    segment: int = 10,
) -> UnrollGradient:
    """Return an outer loss after ``steps`` SGD steps and its gradient with respect to inputs and learning rate.

    Args:
        step_loss: (t, parameters, inputs) → the inner loss of step t, a scalar. It is called more than once for one t
            and must give the same every time: what it draws (mini-batch, augmentation, mask) has to follow from t.
        outer_loss: (parameters, inputs) → the outer loss, a scalar.
        start: Parameters before the first step; not changed.
        inputs: What the outer loss is differentiated for: synthetic images, or bases and coefficients.
        learning_rate: η, a scalar tensor.
        steps: N, at least 1.
        momentum: μ in [0, 1), plain (no dampening, no Nesterov).
        method: ``exact`` holds the parameters of every step (N vectors and one step's graph). ``segments`` holds
            parameters and velocity every ``segment`` steps and runs the steps between again (2·N/segment + segment
            vectors, one more forward pass of the loop). ``full`` is plain autograd through the whole loop: the fastest
            for a few steps, its memory grows with N graphs. ``tesla`` is an approximation: the parameters of a step
            count as constants (no curvature), so nothing is held but running sums (Cui et al., "Scaling Up Dataset
            Distillation to ImageNet-1K with Constant Memory", ICML 2023); without momentum alone.
        segment: Steps a segment, for ``segments``.

    Raises:
        ValueError: if steps or segment is below 1, momentum is outside [0, 1), or ``tesla`` is asked with momentum.
    """
    if steps < 1 or segment < 1:
        raise ValueError(f"steps is {steps} and segment {segment}; both must be at least 1")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum is {momentum:g}; it must be in [0, 1)")
    if method == "tesla" and momentum:
        raise ValueError(f"momentum is {momentum:g}; method 'tesla' is defined for plain SGD: use 'exact'")
    inputs = [value.detach().requires_grad_() for value in inputs]
    if method == "full":
        return _through_the_graph(step_loss, outer_loss, start, inputs, learning_rate, steps, momentum)

    rate = learning_rate.detach()
    stride = {"exact": 1, "segments": segment, "tesla": steps}[method]
    held: list[tuple[list[Tensor], list[Tensor]]] = []
    parameters = [value.detach() for value in start]
    velocity = [torch.zeros_like(value) for value in parameters] if momentum else []
    for step in range(steps):
        if step % stride == 0:
            held.append((parameters, velocity if stride > 1 else []))
        parameters, velocity = _advance(step_loss, step, parameters, velocity, inputs, rate, momentum)

    last = [value.detach().requires_grad_() for value in parameters]
    loss = outer_loss(last, inputs)
    derivatives = torch.autograd.grad(loss, [*last, *inputs], allow_unused=True, materialize_grads=True)
    adjoint = list(derivatives[: len(last)])
    totals = [value.clone() for value in derivatives[len(last) :]]
    rate_total = torch.zeros_like(rate)

    walk = (
        _forwards(step_loss, held[0], inputs, rate, steps)
        if method == "tesla"
        else _backwards(step_loss, held, inputs, rate, steps, stride, momentum)
    )
    weight = [torch.zeros_like(value) for value in adjoint]
    for step, at in walk:
        weight = [a + momentum * w for a, w in zip(adjoint, weight, strict=True)] if momentum else adjoint
        leaves = [value.detach().requires_grad_() for value in at]
        gradients = torch.autograd.grad(step_loss(step, leaves, inputs), leaves, create_graph=True)
        inner = sum((g * w).sum() for g, w in zip(gradients, weight, strict=True))
        assert isinstance(inner, Tensor)
        rate_total -= inner.detach()
        wanted = inputs if method == "tesla" else [*inputs, *leaves]
        products = torch.autograd.grad(inner, wanted, allow_unused=True, materialize_grads=True)
        for total, product in zip(totals, products, strict=False):
            total.sub_(rate * product)
        if method != "tesla":
            curvature = products[len(inputs) :]
            adjoint = [a - rate * product for a, product in zip(adjoint, curvature, strict=True)]
    return UnrollGradient(loss.detach(), tuple(totals), rate_total, tuple(parameters))


def _advance(
    step_loss: StepLoss,
    step: int,
    parameters: list[Tensor],
    velocity: list[Tensor],
    inputs: Tensors,
    rate: Tensor,
    momentum: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return parameters and velocity after one step, in new tensors; without momentum there is no velocity."""
    leaves = [value.detach().requires_grad_() for value in parameters]
    fixed = [value.detach() for value in inputs]
    gradients: Sequence[Tensor] = torch.autograd.grad(step_loss(step, leaves, fixed), leaves)
    if momentum:
        gradients = velocity = [momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
    return [p - rate * g for p, g in zip(parameters, gradients, strict=True)], velocity


def _backwards(
    step_loss: StepLoss,
    held: list[tuple[list[Tensor], list[Tensor]]],
    inputs: Tensors,
    rate: Tensor,
    steps: int,
    stride: int,
    momentum: float,
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield (t, θ_t) from the last step to the first, and free the parameters that were kept."""
    while held:
        first = (len(held) - 1) * stride
        parameters, velocity = held.pop()
        states = [parameters]
        for step in range(first, min(first + stride, steps) - 1):
            parameters, velocity = _advance(step_loss, step, parameters, velocity, inputs, rate, momentum)
            states.append(parameters)
        while states:
            yield first + len(states) - 1, states.pop()


def _forwards(
    step_loss: StepLoss, begin: tuple[list[Tensor], list[Tensor]], inputs: Tensors, rate: Tensor, steps: int
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield (t, θ_t) from the first step to the last, run again."""
    parameters = begin[0]
    for step in range(steps):
        yield step, parameters
        if step < steps - 1:
            parameters, _ = _advance(step_loss, step, parameters, [], inputs, rate, 0.0)


def _through_the_graph(
    step_loss: StepLoss,
    outer_loss: OuterLoss,
    start: Tensors,
    inputs: list[Tensor],
    learning_rate: Tensor,
    steps: int,
    momentum: float,
) -> UnrollGradient:
    rate = learning_rate.detach().requires_grad_()
    parameters = [value.detach().requires_grad_() for value in start]
    velocity = [torch.zeros_like(value) for value in start]
    for step in range(steps):
        gradients = torch.autograd.grad(step_loss(step, parameters, inputs), parameters, create_graph=True)
        velocity = [momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        parameters = [p - rate * v for p, v in zip(parameters, velocity, strict=True)]
    loss = outer_loss(parameters, inputs)
    *found, rate_gradient = torch.autograd.grad(loss, [*inputs, rate], allow_unused=True, materialize_grads=True)
    return UnrollGradient(loss.detach(), tuple(found), rate_gradient, tuple(p.detach() for p in parameters))
