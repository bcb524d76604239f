"""Tables of a study's page: what was asked, what the winner is, what fresh seeds say, and every trial."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Any

from ddcal.analysis.calibration_rows import calibration_rows
from ddcal.analysis.further_rows import further_tables
from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.page import Entry, Link, Number, Page, run_anchor
from ddcal.config.names import nest
from ddcal.config.study import Domain
from ddcal.config.trial import flatten
from ddcal.errors import BadInput
from ddcal.study.record.chance import against_chance
from ddcal.study.record.confirmation import standing, verdict
from ddcal.study.record.results import WINNER_METRIC, StudyResults, Trial
from ddcal.study.record.status import Status, at_words, best_label, best_words, finished_words, left_words

MOST_COLUMNS = 7
"""Of more searched names than these the table of trials has one column for all: the page is 1,280 px wide."""

MISSING = "–"


def put_question(page: Page, results: StudyResults) -> None:
    """Put on the page what the study searches, in which space, and what its trials have in common."""
    study = results.study
    lines = [f"{'lowest' if way == 'min' else 'highest'} `{name}`" for name, way in study.objectives.items()]
    if study.constraints:
        lines.append("where " + ", ".join(f"`{name}` {bound}" for name, bound in study.constraints.items()))
    search, scheduler = study.search, study.scheduler
    trials = f"{search.trials} trials by {search.searcher}, {search.concurrency} at a time, seed {search.seed}"
    stopped = "" if scheduler.name == "none" else f"; {scheduler.name} stops trials early"
    page.bullets([f"wanted: {', '.join(lines)}", f"search: {trials}{stopped}"])
    if study.space:
        rows = [[f"`{name}`", _domain(domain), _condition(domain)] for name, domain in study.space.items()]
        page.table(["searched", "values", "active where"], rows, caption="The space")
    base = flatten(nest(study.base)[0])
    if base:
        told = ", ".join(f"`{name}` {_text(value)}" for name, value in base.items())
        page.text(f"Every trial has: {told}.")


def put_winner(page: Page, results: StudyResults, best: Trial) -> None:
    """Put the winner's values and calibrations on the page, as the terminal shows them."""
    page.table(["searched", "value"], [[f"`{name}`", _text(value)] for name, value in best.values.items()])
    try:
        title, rows = calibration_rows(best)
    except BadInput as error:  # a study of another ddcal
        page.gaps([str(error)])
        return
    cells: list[list[Entry]] = []
    for row in rows:
        numbers = [Number(f"{value:.4f}", strong=row.own) for value in (row.ece, row.nll, row.accuracy)]
        cells.append([row.name, *numbers, ", ".join(row.notes)])
    if cells:
        page.table(["calibration", "ECE", "NLL", "accuracy", ""], cells, caption=title)
    for table in further_tables(best):
        numbers_from = table.words
        shown: list[list[Entry]] = [[*row[:numbers_from], *map(Number, row[numbers_from:])] for row in table.rows]
        page.table(list(table.columns), shown, caption=table.title[0].upper() + table.title[1:])
    found = against_chance(best)
    if found is not None and found.low is not None:
        page.text(
            f"The 95 % interval of its accuracy is {found.low:.4f} to {found.high:.4f} (Wilson, over {found.images} "
            f"{found.split} images); the most common class has {found.chance:.4f} of them.",
            "note",
        )


def put_confirmation(page: Page, results: StudyResults) -> None:
    """Put on the page what fresh seeds say of the leaders, or how to ask them."""
    best, leaders = results.best, results.confirmation
    if not leaders:
        folder = shlex.quote(str(results.directory))
        page.text(f"Nothing was confirmed on fresh seeds yet: `ddcal confirm {folder} --top 3 --seeds 5`.")
        return
    rows: list[list[Entry]] = []
    for one in leaders:
        mark = " (winner)" if best is not None and one["trial_key"] == best.trial_key else ""
        numbers: list[Entry] = [Number(f"{one[name]:.4f}") for name in ("searched", "mean")]
        interval = f"{one['low']:.4f} to {one['high']:.4f}"
        rows.append([one["trial_key"] + mark, one["metric"], *numbers, interval, str(one["seeds"]), verdict(one)])
    columns = ["trial", "metric", "search", "fresh seeds", "95 % interval", "seeds", "verdict"]
    page.table(columns, rows, caption="The search's numbers beside the mean over fresh seeds")
    if best is not None and not results.confirmed(best):
        page.text(f"{best.trial_key}, which wins now, is not among them: confirm again.", "reduced")
    if best is not None and (first := standing(leaders, best.trial_key, WINNER_METRIC)):
        page.text(f"On fresh seeds {first}.")
    page.text("Intervals: of the mean over seeds, Student's t, cut to what is possible.", "note")


def metrics_of(results: StudyResults) -> list[str]:
    """Return the metrics that tables of trials have: the objectives, what decides, and the ECE on ``test``."""
    return list(dict.fromkeys((*results.study.objectives, WINNER_METRIC, "test/ece")))


def put_trials(page: Page, results: StudyResults) -> None:
    """Put every trial on the page, with its number, outcome, searched values, metrics, seconds and log; sortable."""
    metrics = metrics_of(results)
    best, front = results.best, {trial.number for trial in results.pareto}
    rows: list[list[Entry]] = []
    for trial in results.records:
        outcome = (Run(results, trial).gap or "complete").removeprefix(f"{trial.trial_key} ")
        outcome = outcome.removeprefix("is ").removesuffix(": no reason given")
        if trial.number in front:
            outcome = "winner" if best is not None and trial.number == best.number else "on the front"
        seconds = Number(MISSING if trial.seconds is None else f"{trial.seconds:.1f}")
        log = Link("log", results.directory / trial.log) if trial.log else ""
        number = Number(str(trial.number))
        rows.append([number, outcome, *value_cells(results, trial), *metric_cells(trial, metrics), seconds, log])
    if rows:
        anchors = [run_anchor(Run(results, trial)) for trial in results.records]
        columns = ["trial", "outcome", *value_columns(results), *metrics, "seconds", "log"]
        page.table(columns, rows, anchors=anchors, sortable=True)


def metric_cells(trial: Trial, names: list[str]) -> list[Entry]:
    """Return a trial's metrics as cells of a table; a dash where there is none."""
    return [_metric(trial, name) for name in names]


def value_columns(results: StudyResults) -> list[str]:
    """Return the columns of searched values: one a name, or one for all where they are more than `MOST_COLUMNS`."""
    return list(results.study.space) if len(results.study.space) <= MOST_COLUMNS else ["searched values"]


def value_cells(results: StudyResults, trial: Trial) -> list[Entry]:
    """Return a trial's searched values as cells of a table with `value_columns`."""
    if len(results.study.space) > MOST_COLUMNS:
        return [", ".join(f"{name}\u00a0{_text(value)}" for name, value in trial.values.items())]
    return [_value(trial.values[name]) if name in trial.values else "" for name in results.study.space]


def _metric(trial: Trial, name: str) -> Number:
    value = (trial.metrics or {}).get(name)
    return Number(MISSING if value is None else f"{value:.4f}")


def _value(value: Any) -> Entry:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Number(_text(value)) if number else str(value)


def _domain(domain: Domain) -> str:
    if domain.kind == "choice":
        return ", ".join(_text(one) for one in domain.corners)
    low, high = domain.corners
    kind = {"uniform": "", "loguniform": ", logarithmic", "int": ", whole numbers"}[domain.kind]
    return f"{_text(low)} to {_text(high)}{kind}"


def _condition(domain: Domain) -> str:
    return " and ".join(f"{name} is {' or '.join(map(_text, values))}" for name, values in domain.when.items())


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def put_status(page: Page, status: Status) -> None:
    """Put a study's state on the page, and what its running trials are at."""
    facts = [f"{status.state}: {finished_words(status)}"]
    if left := left_words(status):
        facts.append(left)
    if best := best_words(status):
        facts.append(f"{best_label(status)}: " + "  ".join(f"{name} {shown}".strip() for name, shown in best))
    if status.ending:
        facts.append(f"ended: {status.ending}")
    if status.unsent:
        facts.append(f"MLflow lacks the last {status.unsent} events")
    if status.next_command:
        facts.append(f"to go on with it: `{status.next_command}`")
    reloads = "" if page.reload is None else "; this page is written again while the study runs, and reloads itself"
    facts.append(f"as of {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}{reloads}")
    page.bullets(facts)
    if status.running:
        rows = [[trial.trial_key, at_words(trial), f"{100 * trial.progress:.0f} %"] for trial in status.running]
        page.table(["running", "stage, and for how long", "of the trial"], rows)
