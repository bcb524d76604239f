"""What would make a stage fit that ran out of a GPU's memory: settings to halve, in words."""

from __future__ import annotations

from ddcal.config import TrialConfig
from ddcal.config.networks import NetworkOverride

DOUBLE_BACKWARD = 2
"""What an image holds that is differentiated twice, in images that are differentiated once: 4.8 MB to 2.2 MB, measured
for the ConvNet of width 128 at 32 px."""


def half(name: str, value: int | None) -> list[str]:
    """Return the advice to halve a setting; none where it is 1 already, or a network has no such setting."""
    return [f"{name} ({value} → {value // 2})"] if value is not None and value > 1 else []


def width_of(config: TrialConfig, network: NetworkOverride) -> int | None:
    """Return the width of one of a trial's networks; None where its layers have fixed widths."""
    return network.over(config.network).width


def what_distilling_halves(config: TrialConfig) -> list[str]:
    """Return the advice for the distillation backbone of a *resolved* trial."""
    distill = config.distill
    matching, mtt, rtp = distill.matching, distill.mtt, distill.rtp
    match distill.backbone:
        case "dc" | "dsa":
            passes = [
                (matching.real_batch, "distill.matching.real_batch", matching.real_batch),
                (distill.ipc * DOUBLE_BACKWARD, "distill.ipc", distill.ipc),
            ]
            if (matching.outer or 1) > 1:
                passes.append((matching.inner_batch, "distill.matching.inner_batch", matching.inner_batch))
            ordered = sorted(passes, key=lambda one: -one[0])
            return [words for _, name, value in ordered for words in half(name, value)]
        case "dm":
            return [*half("distill.dm.real_batch", distill.dm.real_batch), *half("distill.ipc", distill.ipc)]
        case "mtt":
            batch = half("distill.mtt.batch", mtt.batch) if mtt.batch else []
            return [
                *_less_graph("distill.mtt", mtt.gradient),
                *(batch or ["distill.mtt.batch (the whole set → half of it)"]),
                *half("distill.mtt.student_steps", mtt.student_steps or 1),
            ]
        case "rtp":
            return [
                *_less_graph("distill.rtp", rtp.gradient),
                *half("distill.rtp.batch_per_class", rtp.batch_per_class),
                *half("distill.rtp.real_batch", rtp.real_batch),
                *half("distill.rtp.steps", rtp.steps),
            ]
    return half("distill.probe.images", distill.probe.images)  # nothing but the probe computes


def _less_graph(section: str, gradient: str) -> list[str]:
    """Say which method holds less: the graph of all steps, one step's and all weights, or few weights."""
    lighter = {"full": "exact", "exact": "segments"}.get(gradient)
    return [f"{section}.gradient ({gradient} → {lighter})"] if lighter else []
