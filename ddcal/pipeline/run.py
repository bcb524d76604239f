"""One trial from start to end, in this process: for notebooks and debuggers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.config import TrialConfig
from ddcal.pipeline.advance import Advance
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.trial import TrialRunner
from ddcal.pipeline.trial_progress import TrialProgress, cost_sentence, trial_costs
from ddcal.store.base import Store
from ddcal.store.opening import open_store


def run_trial(
    config: TrialConfig,
    store: Store | Path | str = "runs/store",
    *,
    environment: Environment | None = None,
    on_advance: Callable[[Advance], None] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run one trial from data to calibrated metrics, without Ray or MLflow.

    Args:
        config: The trial.
        store: The artefact store, its folder or its ``s3://`` URL; finished stages are taken from it.
        environment: Device, threads and precision; default: a GPU if there is one, one thread.
        on_advance: Called after every chunk of work.
        progress: Say what the trial will cost before it begins, from a few steps of each stage that the store has not
            (about a second each), and show how far it is, on standard error or below the notebook's cell.

    Returns:
        Metric name → value: ``val/ece``, ``test/ece``, ``test/raw/ece``, ``temperature``…

    Raises:
        DataError, DivergedError, StoreError: as `TrialRunner`.
    """
    place = store if isinstance(store, Store) else open_store(store)
    runner = TrialRunner(config, place, environment)
    if not progress:
        return runner.run(on_advance)
    with TrialProgress() as shown:
        shown.say(cost_sentence(trial_costs(runner), runner))

        def show(advance: Advance) -> None:
            shown.show(advance)
            if on_advance is not None:
                on_advance(advance)

        return runner.run(show)
