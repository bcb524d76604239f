"""The columns with which MLflow's UI opens a study: a shared view, kept as a tag of the experiment.

MLflow shows neither params nor metrics until they are chosen by hand. A link with ``viewStateShareKey`` opens a view
that somebody has shared; this is that view.
"""

from __future__ import annotations

import json
from typing import Any

from ddcal.study.record.results import WINNER_METRIC

VIEW = "ddcal"
TAG = f"mlflow.sharedViewState.{VIEW}"
MAX_NAMES = 30
"""A tag's value has at most 5000 characters."""

WINNER_TAG = "ddcal.winner"
"""On the study's run the winner's key, on the winner's run the word winner."""


def study_view(study: dict[str, Any], parent: str | None) -> str:
    """Return the tag's value: the trials below their study, the best first by what decides, and what there is to know.

    Args:
        study: The study's config, as JSON values.
        parent: The id of the study's run, below which its trials are shown.
    """
    metrics = dict.fromkeys((WINNER_METRIC, *study["objectives"]))
    winner = f"tags.`{WINNER_TAG}`"
    columns = [f"metrics.`{name}`" for name in metrics]
    columns += [f"params.`{name}`" for name in list(study["space"])[:MAX_NAMES]]
    columns += ["tags.`ddcal.outcome`", winner]
    view = {
        "orderByKey": f"metrics.`{WINNER_METRIC}`",
        "orderByAsc": True,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [winner, *columns[: len(metrics)]],  # it would be the last, where nobody looks
        "columnWidths": {winner: 120},
        "runsExpanded": {} if parent is None else {parent: True},
        "viewMaximized": False,
        "runListHidden": False,
    }
    return json.dumps(view)


def mark_winner(client: Any, experiment_id: str, study_id: str, trial_key: str | None) -> None:
    """Mark the run of a study's winner, and no other of its runs.

    Args:
        client: MLflow's.
        experiment_id: Where the study is.
        study_id: The study, as its runs are tagged.
        trial_key: The winner; None: there is none.
    """
    of_study = f"tags.`ddcal.study_id` = '{study_id}' and tags.`ddcal.role` = 'trial'"
    for run in client.search_runs([experiment_id], f"{of_study} and tags.`{WINNER_TAG}` = 'winner'"):
        if run.data.tags["ddcal.trial_key"] != trial_key:
            client.delete_tag(run.info.run_id, WINNER_TAG)
    if trial_key is not None:
        for run in client.search_runs([experiment_id], f"{of_study} and tags.`ddcal.trial_key` = '{trial_key}'"):
            client.set_tag(run.info.run_id, WINNER_TAG, "winner")


def study_link(address: str, experiment_id: str) -> str:
    """Return the address of an experiment's runs in that view."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
