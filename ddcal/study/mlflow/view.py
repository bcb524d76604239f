"""The columns with which MLflow's UI opens a study: a shared view, kept as a tag of the experiment.

MLflow shows neither params nor metrics until they are chosen by hand. A link with ``viewStateShareKey`` opens a view
that somebody has shared; this is that view.
"""

from __future__ import annotations

import json
from typing import Any

VIEW = "ddcal"
TAG = f"mlflow.sharedViewState.{VIEW}"
MAX_NAMES = 30
"""A tag's value has at most 5000 characters."""


def study_view(study: dict[str, Any]) -> str:
    """Return the tag's value: oldest first, with objectives, searched names and outcome as columns.

    Args:
        study: The study's config, as JSON values.
    """
    metrics = dict.fromkeys((*study["objectives"], "val/nll"))
    columns = [f"metrics.`{name}`" for name in metrics]
    columns += [f"params.`{name}`" for name in list(study["space"])[:MAX_NAMES]]
    columns.append("tags.`ddcal.outcome`")
    view = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "viewMaximized": False,
        "runListHidden": False,
    }
    return json.dumps(view)


def study_link(address: str, experiment_id: str) -> str:
    """Return the address of an experiment's runs in that view."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
