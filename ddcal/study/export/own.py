"""A user's own components in an export: which source they had, and whether it is the same here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ddcal.config import TrialConfig
from ddcal.config.components import ComponentError, source_of
from ddcal.config.own import KINDS, own_names, own_sources
from ddcal.pipeline import Environment, stage_keys
from ddcal.study.export.layout import ExportError
from ddcal.study.record.results import StudyResults, Trial


def recorded_sources(results: StudyResults, trial: Trial) -> dict[str, Any]:
    """Return what run.yaml says of a user's own components: empty for a trial with ddcal's alone.

    Raises:
        ExportError: if the source of one has changed since the trial ran.
    """
    if not own_names(trial.config):
        return {}
    sources = own_sources(trial.config)
    environment = trial.computed["environment"]
    here = replace(Environment.recorded(environment), kind=environment["device"])
    if stage_keys(trial.config, trial.fingerprint or "", here, results.study.trial) != trial.keys:
        named = " or ".join(f"{setting} {source['path']}" for setting, source in sources.items())
        raise ExportError(
            f"trial {trial.trial_key}: the source or the version of {named} has changed since it ran: go back to that "
            "source, or run the study again"
        )
    return sources


def source_problems(config: TrialConfig, recorded: Mapping[str, Any], *, ignore_versions: bool = False) -> list[str]:
    """Return which of a user's own components that a run names are missing here or have changed; nothing is imported.

    Args:
        config: The run's, read as one that was recorded.
        recorded: What run.yaml says of their sources.
        ignore_versions: Go on with other sources.
    """
    problems = []
    for setting, name in own_names(config).items():
        place = f"config.{setting} is {name!r}"
        told = recorded.get(setting)
        if told is None:
            problems.append(f"{place}, which is none of ddcal's, and components has no source of it")
            continue
        package = f" (package {told['package']} {told['version']})" if told.get("package") else ""
        try:
            now = source_of(KINDS[setting], name, *told["others"])
        except ComponentError as error:
            problems.append(f"{place}{package}: {str(error).partition(': ')[2] or error}")
            continue
        if now["path"] != told["path"]:
            problems.append(f"{place}: here that is {now['path']}, the run used {told['path']}")
        elif now["sha256"] != told["sha256"] and setting != "data.name" and not ignore_versions:
            version = f", here {now['version']}" if now.get("version") not in (None, told.get("version")) else ""
            problems.append(
                f"{place}{package}{version}: its source has changed since the run: install what the run used, or "
                "--ignore-versions to compare all the same"
            )
    return problems
