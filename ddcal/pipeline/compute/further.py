"""What an evaluation measures if ``evaluate.also`` asks for it: conformal sets, signs of errors, networks together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

from ddcal.calibration import Calibrator, score_probabilities
from ddcal.calibration.checks import Floats
from ddcal.calibration.conformal import KINDS, conformal_sets
from ddcal.calibration.metrics.binned import signed_errors
from ddcal.config import TrialConfig
from ddcal.seeding import generator

SPLITS = ("val", "test")


def further_metrics(
    config: TrialConfig, logits: dict[str, Tensor], calibrations: Mapping[str, Sequence[Calibrator]]
) -> dict[str, float]:
    """Return the metrics that ``evaluate.also`` names, as name → float; none where it is empty.

    ``conformal`` gives ``test/<kind>_coverage`` and ``test/<kind>_size`` at ``evaluate.coverage``, with the threshold
    of ``val``; ``signs`` gives ``<split>/over_confidence`` and ``under_confidence``; ``networks`` gives
    ``<split>/disagreement`` and every metric of the mean of the networks' probabilities, ``<split>/ensemble/ece``.
    Those of a network are means over the networks. All but the disagreement exist for every calibration, as
    ``test/raw/thr_size`` or ``test/raw/ensemble/ece``.

    Args:
        config: Resolved.
        logits: The train stage's tensors.
        calibrations: Calibration → one calibrator a network; "" is the trial's own.
    """
    also, found = config.evaluate.also, dict[str, float]()
    if not also:
        return found
    labels = {split: logits[f"{split}_labels"].numpy() for split in SPLITS}
    present = [split for split in SPLITS if len(labels[split])]
    for calibration, each in calibrations.items():
        middle = f"{calibration}/" if calibration else ""
        probs = {
            split: [one.probabilities(logits[f"{split}_logits"][index]) for index, one in enumerate(each)]
            for split in present
        }
        for split in present:
            if "signs" in also:
                signed = [signed_errors(one, labels[split], config.evaluate.bins) for one in probs[split]]
                for name, values in zip(
                    ("over_confidence", "under_confidence"), zip(*signed, strict=True), strict=True
                ):
                    found[f"{split}/{middle}{name}"] = _mean(values)
            if "networks" in also:
                together = np.mean(probs[split], axis=0)
                scores = score_probabilities(together, labels[split], config.evaluate.bins)
                found |= {f"{split}/{middle}ensemble/{name}": value for name, value in scores.items()}
        if "conformal" in also and len(present) == len(SPLITS):
            for kind in KINDS:
                sets = [
                    conformal_sets(
                        (probs["val"][index], labels["val"]),
                        (probs["test"][index], labels["test"]),
                        kind,
                        config.evaluate.coverage,
                        generator(config.seed, "evaluate", f"conformal-{kind}", index),
                    )
                    for index in range(len(each))
                ]
                found[f"test/{middle}{kind}_coverage"] = _mean([one.coverage for one in sets])
                found[f"test/{middle}{kind}_size"] = _mean([one.size for one in sets])
    if "networks" in also:
        for split in present:
            found[f"{split}/disagreement"] = disagreement([one.numpy() for one in logits[f"{split}_logits"]])
    return found


def disagreement(logits: Sequence[Floats]) -> float:
    """Return the share of images of which two networks predict different classes, mean over all pairs of networks.

    As in Jiang et al., "Assessing Generalization of SGD via Disagreement" (ICLR 2022); 0 for a single network.

    Args:
        logits: (N, K) of each network.
    """
    predicted = [one.argmax(axis=1) for one in logits]
    pairs = [float((one != other).mean()) for one, other in combinations(predicted, 2)]
    return _mean(pairs) if pairs else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
