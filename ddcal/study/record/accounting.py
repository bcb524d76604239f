"""What the artefact store was worth to a trial: hits, waiting, seconds of computing and of GPUs that it saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ddcal.study.record.events import TrialFinished


def saved(
    hits: Collection[str], seconds: Mapping[str, float] | None, gpus: Mapping[str, float] | None
) -> tuple[float, float]:
    """Return (seconds, GPU-seconds) of computing that the store saved.

    Args:
        hits: The stages that the store answered.
        seconds: Stage → seconds that computing it took.
        gpus: Stage → the share of a GPU that it had meanwhile; missing is none.
    """
    known = {stage: (seconds or {}).get(stage, 0.0) for stage in hits}
    return sum(known.values()), sum(value * (gpus or {}).get(stage, 0.0) for stage, value in known.items())


def accounting_tags(event: TrialFinished, worked: float) -> dict[str, str]:
    """Return MLflow's tags for a ``trial_finished`` event; tags, as they differ between two runs of one trial.

    Args:
        event: The trial's end.
        worked: For how many seconds it was worked on, in all its attempts.
    """
    seconds, gpu_seconds = saved(event.cache_hits, event.stage_seconds, event.stage_gpus)
    return {
        "ddcal.cache_hits": " ".join(event.cache_hits),
        "ddcal.worked_seconds": f"{worked:.3f}",
        "ddcal.waited_seconds": f"{event.waited_seconds:.3f}",
        "ddcal.saved_seconds": f"{seconds:.3f}",
        "ddcal.saved_gpu_seconds": f"{gpu_seconds:.3f}",
    }
