"""Whether the labels that a trial asks for can be given, and what can take labels that are probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddcal.config.training import soft_problem

if TYPE_CHECKING:
    from ddcal.config.trial import TrialConfig


def label_problems(trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
    """Return why experts cannot label the images of a trial, each as a sentence that names the keys.

    Args:
        trial: Not resolved.
        published: The preset's values, dotted name → value.
    """
    labels, distill, problems = trial.labels, trial.distill, []
    experts, spec = distill.mtt.experts, distill.spec
    if not spec.distills:
        return [
            f"labels.source is 'experts' but distill.backbone is {distill.backbone!r}, whose images are real and have "
            "their labels: leave it out"
        ]
    last = experts.epochs or published.get("distill.mtt.experts.epochs")
    if spec.takes_experts and spec.learns:
        start = distill.mtt.max_start or published.get("distill.mtt.max_start")
        matched = distill.mtt.expert_epochs or published.get("distill.mtt.expert_epochs")
        last = last or (start - 1 + matched if start and matched else None)
        if labels.experts > experts.count:
            problems.append(
                f"labels.experts is {labels.experts}, but distill.mtt.experts.count is {experts.count}: lower it, or "
                "train more"
            )
    elif labels.epoch is None and last is None:
        problems.append(
            "labels.epoch is missing: after how many epochs experts label; or give distill.mtt.experts.epochs, how "
            "long they are trained"
        )
    if not spec.takes_experts and distill.network.over(trial.network).norm == "batch":
        problems.append(
            "labels.source is 'experts' but distill.network.norm is 'batch': experts keep their weights and no running "
            "statistics; set distill.network.norm to 'instance'"
        )
    if labels.epoch is not None and last is not None and labels.epoch > last:
        problems.append(
            f"labels.epoch is {labels.epoch}, but experts end after epoch {last} (distill.mtt.experts.epochs): lower "
            "it, or train them longer"
        )
    return problems


def soft_problems(trial: TrialConfig) -> list[str]:
    """Return what cannot take labels that are probabilities."""
    method, fitted = trial.calibrate.method, trial.calibrate.spec
    problems = [said] if (said := soft_problem(trial.train)) else []
    if fitted.calibrator and fitted.sees in ("train", "held", "folds", "masked"):
        problems.append(
            f"calibrate.method is {method!r}, which is fitted on classes, but the labels of the distilled images are "
            "probabilities: use a method that fits one temperature, or one that sees val"
        )
    return problems
