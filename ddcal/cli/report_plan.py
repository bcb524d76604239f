"""What a report would cost: its studies one after another, where cells that several of them need count once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ddcal.analysis.report.running import study_state
from ddcal.analysis.report.studies import ReportStudy
from ddcal.cli.plan_tables import probe_progress
from ddcal.cli.sheets import Sheet
from ddcal.pipeline.durations import duration
from ddcal.study.plan.series import SeriesPlan, plan_series


def plan_report(studies: Sequence[ReportStudy], output: Path, console: Console) -> SeriesPlan:
    """Measure a few steps of every kind of stage and return the time of the studies that are not finished.

    Args:
        studies: From `paper_studies`.
        output: The report's folder, whose store counts.
        console: Shows what is measured.

    Raises:
        BadInput: as `study_state`, or if data is missing.
    """
    todo = [one.config for one in studies if study_state(one.config, output.absolute()) != "finished"]
    with probe_progress(console) as on_probe:
        return plan_series(todo, output, on_probe=on_probe)


def print_plan(plan: SeriesPlan, console: Console, as_json: bool) -> None:
    """Print a plan, or write it as JSON."""
    if as_json:
        console.print_json(json.dumps(asdict(plan)))
        return
    columns = ("study", "trials", "stages to compute", "in the store, or of a study above", "time")
    rows = [
        [one.study, *map(str, (one.trials, one.to_compute, one.shared)), duration(one.seconds)] for one in plan.studies
    ]
    console.print(Sheet("what the report would compute; nothing was run", columns, rows, columns[1:], packed=True))
    at_a_time = f"{plan.at_a_time} trial{'s' * (plan.at_a_time != 1)} at a time"
    console.print(f"about {duration(plan.seconds)} in all, {at_a_time}, and about a minute a dataset for the figures")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False)
