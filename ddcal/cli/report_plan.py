"""What a report would cost: its studies one after another, where cells that several of them need count once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ddcal.analysis.report.running import study_state
from ddcal.analysis.report.studies import PaperStudy
from ddcal.cli.plan_tables import probe_progress
from ddcal.study.plan.series import SeriesPlan, plan_series
from ddcal.study.plan.words import duration


def plan_report(studies: Sequence[PaperStudy], output: Path, console: Console) -> SeriesPlan:
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
    table = Table(title_justify="left", title="what the report would compute; nothing was run")
    for name in ("study", "trials", "stages to compute", "in the store, or of a study above", "time"):
        table.add_column(name, justify="left" if name == "study" else "right")
    for one in plan.studies:
        cells = (one.trials, one.to_compute, one.shared)
        table.add_row(one.study, *map(str, cells), duration(one.seconds))
    console.print(table)
    at_a_time = f"{plan.at_a_time} trial{'s' * (plan.at_a_time != 1)} at a time"
    console.print(f"about {duration(plan.seconds)} in all, {at_a_time}, and about a minute a dataset for the figures")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False)
