"""Settings that a config leaves out, filled in from the published recipes (PAPER.md, Reference hyper-parameters)."""

from __future__ import annotations

from ddcal.config.trial import TrialConfig

MATCHING_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""DC and DSA: ipc → (outer, inner); other ipc interpolate linearly, and hold the last row above 50."""

MATCHING_ITERATIONS = 1000
FULL_DATA_EPOCHS = 50
EVALUATION_EPOCHS = {"real": 300, "dc": 300, "dsa": 1000, "full": FULL_DATA_EPOCHS}
EVALUATION_AUGMENT = {"real": "none", "dc": "none", "dsa": "dsa", "full": "dsa"}


def matching_loops(ipc: int) -> tuple[int, int]:
    """Return (outer, inner) loop counts for DC and DSA at ``ipc`` images per class.

    ``outer`` is image updates an iteration, ``inner`` epochs over the synthetic set between two of them.
    """
    rows = sorted(MATCHING_LOOPS)
    if ipc >= rows[-1]:
        return MATCHING_LOOPS[rows[-1]]
    above = next(row for row in rows if row >= ipc)
    below = max(row for row in rows if row <= ipc)
    if above == below:
        return MATCHING_LOOPS[ipc]
    share = (ipc - below) / (above - below)
    low, high = MATCHING_LOOPS[below], MATCHING_LOOPS[above]
    return (round(low[0] + share * (high[0] - low[0])), round(low[1] + share * (high[1] - low[1])))


def resolve(trial: TrialConfig) -> TrialConfig:
    """Return the trial with every setting that was left to a preset or a default made explicit.

    Resolving twice changes nothing. ``network.depth`` and ``data.resolution`` stay None where they follow the data.
    """
    values = trial.model_dump()
    backbone, ipc = trial.distill.backbone, trial.distill.ipc
    values["data"]["validation_fraction"] = trial.data.resolved_validation_fraction

    distill = values["distill"]
    outer, inner = matching_loops(ipc)
    matching = distill["matching"]
    matching["outer"] = trial.distill.matching.outer or outer
    matching["inner"] = trial.distill.matching.inner or inner
    matching["init"] = trial.distill.matching.init or ("real" if backbone == "dsa" else "noise")
    distill["iterations"] = trial.distill.iterations or MATCHING_ITERATIONS
    distill["network"] = trial.distill.network.over(trial.network).model_dump()

    train = values["train"]
    train["epochs"] = trial.train.epochs or EVALUATION_EPOCHS[backbone]
    train["augment"] = trial.train.augment or EVALUATION_AUGMENT[backbone]
    train["network"] = trial.train.network.over(trial.network).model_dump()

    values["calibrate"]["t_min"], values["calibrate"]["t_max"] = trial.calibrate.bounds
    return TrialConfig.model_validate(values)
