"""What would make a stage fit that ran out of a GPU's memory: which of its settings to halve."""

from __future__ import annotations

from ddcal.config import TrialConfig

DOUBLE_BACKWARD = 2
"""What an image holds that is differentiated twice, in images that are differentiated once: 4.8 MB to 2.2 MB, measured
for the ConvNet of width 128 at 32 px."""


def what_to_halve(config: TrialConfig, stage: str) -> list[str]:
    """Return settings that shrink a stage's peak, the one that counts most first: ``name (now → then)``.

    Args:
        config: Resolved.
        stage: The stage that ran out of memory.
    """
    distill, train = config.distill, config.train
    owner, network = ("distill", distill.network) if stage in ("experts", "distill") else ("train", train.network)
    width = network.over(config.network).width
    wide = [] if width is None else _half(f"{owner}.network.width", width)  # LeNet's layers have fixed widths
    if stage == "experts":
        return [*_half("distill.mtt.experts.batch_size", distill.mtt.experts.batch_size), *wide]
    if stage == "distill":
        return [*_distilling(config), *wide]
    if stage == "train":
        return [*_half("train.batch_size", train.batch_size or 1), *wide, *_half("train.networks", train.networks)]
    return wide  # logits of a fixed number of images at a time


def _distilling(config: TrialConfig) -> list[str]:
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
            return [words for _, name, value in ordered for words in _half(name, value)]
        case "dm":
            return [*_half("distill.dm.real_batch", distill.dm.real_batch), *_half("distill.ipc", distill.ipc)]
        case "mtt":
            batch = _half("distill.mtt.batch", mtt.batch) if mtt.batch else []
            return [
                *_less_graph("distill.mtt", mtt.gradient),
                *(batch or ["distill.mtt.batch (the whole set → half of it)"]),
                *_half("distill.mtt.student_steps", mtt.student_steps or 1),
            ]
        case "rtp":
            return [
                *_less_graph("distill.rtp", rtp.gradient),
                *_half("distill.rtp.batch_per_class", rtp.batch_per_class),
                *_half("distill.rtp.real_batch", rtp.real_batch),
                *_half("distill.rtp.steps", rtp.steps),
            ]
    return _half("distill.probe.images", distill.probe.images)  # nothing but the probe computes


def _less_graph(section: str, gradient: str) -> list[str]:
    """Say which method holds less: the graph of all steps, one step's and all weights, or few weights."""
    lighter = {"full": "exact", "exact": "segments"}.get(gradient)
    return [f"{section}.gradient ({gradient} → {lighter})"] if lighter else []


def _half(name: str, value: int) -> list[str]:
    return [f"{name} ({value} → {value // 2})"] if value > 1 else []
