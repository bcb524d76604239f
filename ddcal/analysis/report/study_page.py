"""The page of any study: its question, winner, pictures and every trial; nothing is run.

It can be written at any time: of a study that runs, that has crashed, and of one without any result.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ddcal.analysis.figures.study_figures import draw_study
from ddcal.analysis.report.artefacts import Artefacts, Lost
from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.drawings import Drawings
from ddcal.analysis.report.network_figures import draw_reliability, draw_set
from ddcal.analysis.report.page import Entry, Page
from ddcal.analysis.report.runs_table import replay_command
from ddcal.analysis.report.study_tables import (
    metric_cells,
    metrics_of,
    put_confirmation,
    put_question,
    put_status,
    put_trials,
    put_winner,
    value_cells,
    value_columns,
)
from ddcal.errors import BadInput, StoreError
from ddcal.pipeline.compute.diagram import trained_on
from ddcal.study.record.chance import chance_warning
from ddcal.study.record.confirmation import confirmed_words
from ddcal.study.record.results import PARETO, TRIALS, WINNER_METRIC, StudyResults, Trial
from ddcal.study.record.rights import or_elsewhere, where_allowed
from ddcal.study.record.status import Status, study_state, write_tables

REPORT = "report"
MAX_OTHERS = 5
"""Members of the front besides the winner with pictures of their own, by `WINNER_METRIC`; the table has all."""

STATES = {
    "running": "the study is running: what follows is what it has so far",
    "stopped": "the study was stopped before its end",
    "dead": "the study's driver was killed before its end",
}

CAPTIONS = {
    "history.png": "Every trial by number. Marks at the bottom: trials without a result.",
    "importance.png": "The share of an objective's variance over the search that each name explains (fANOVA), and the "
    "range of ten shares from resampled trials (an interval of 82 %). Grey: no clear direction.",
}


def study_report(
    results: StudyResults,
    output: Path | None = None,
    *,
    hurried: bool = False,
    status: Status | None = None,
    reload: float | None = None,
) -> Path:
    """Write ``index.html`` of a study with its pictures beside it, and return its path.

    Args:
        results: The study, finished or not.
        output: The folder of the page; default: ``report/`` in the study's folder.
        hurried: Leave out the importances of a study of many trials, which take seconds.
        status: What the page says of how far the study is; default: nothing.
        reload: After how many seconds a browser loads it again; None for never.

    Raises:
        BadInput: if ``output`` is a file, or the page may not be written there.
    """
    folder = (output or results.directory / REPORT).absolute()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output {output}: is a file; give a folder")
    page = Page(f"Study {results.study.name}", folder, reload)
    with or_elsewhere("--output"):
        return _write(page, results, hurried, status)


def _write(page: Page, results: StudyResults, hurried: bool, status: Status | None) -> Path:
    folder = page.folder
    if status is not None:
        put_status(page, status)
    drawings, artefacts, best = Drawings(folder / "figures", page), Artefacts(), results.best
    _introduction(page, results)
    page.heading("Question and space")
    put_question(page, results)
    page.heading("Winner")
    if best is None:
        page.text(f"{results.no_winner[0].upper()}{results.no_winner[1:]}.")
        page.gaps(_failures([] if results.confirms else results.records))
    else:
        page.text(f"{best.trial_key} is the feasible member of the front with the lowest `{WINNER_METRIC}`.")
        put_winner(page, results, best)
        page.text(f"Hand it on, and run it again elsewhere: `{_command(results, best)}`")
        _pictures(page, results, best, drawings, artefacts)
    if results.confirms is None:
        page.heading("Fresh seeds")
        put_confirmation(page, results)
    page.heading("Objectives and trials")
    where_allowed(partial(write_tables, results))
    captions = CAPTIONS | {"pareto.png": _front_caption(len(results.study.objectives))}
    for path in draw_study(results, folder / "figures", hurried=hurried):
        parallel = "Every complete trial as a line over the searched names, coloured by rank; darker is better."
        page.picture(path, f"{path.stem} of {results.study.name}", captions.get(path.name, parallel))
    page.heading("Pareto front")
    _front(page, results, drawings, artefacts)
    page.heading("Trials")
    outcomes = _outcomes(results)
    if results.records:
        first = results.records[0]
        page.text(
            f"{outcomes}. Number {first.number} is {first.trial_key}, and so on. A click on a column's head sorts by "
            f"it; `{results.directory / TRIALS}` has every metric. `{_command(results)}` hands any of them on."
        )
    put_trials(page, results)
    return page.write()


def _front_caption(objectives: int) -> str:
    cut = "A triangle marks a value beyond the axis."
    if objectives == 1:
        return f"The objective of every trial, by number. {cut}"
    shown = (
        "Every trial in the plane of the first two objectives; the front, with its trials' numbers, is what no other"
    )
    if objectives == 2:
        return f"{shown} beats in both. {cut}"
    return f"{shown} beats in all {objectives}: in these two alone one of it may be beaten. {cut}"


def _introduction(page: Page, results: StudyResults) -> None:
    if results.study.description:
        page.text(results.study.description)
    best = results.best
    seconds = "" if results.seconds is None else f" in {results.seconds:.0f} s"
    saved = results.summary()["cache"]["saved_seconds"]
    facts = [f"{_outcomes(results)}{seconds}; the store saved {saved:.0f} s of computing"]
    state = study_state(results.directory, results.interrupted)
    if state in STATES:
        facts.append(STATES[state])
    if best is not None:
        so_far = " so far" if state == "running" else ""
        facts.append(f"winner{so_far}: {best.trial_key}; {confirmed_words(results.confirmed(best))}")
    else:
        facts.append(results.no_winner)
    environment = results.started.get("environment", {})
    facts.append(", ".join(f"{name} {value}" for name, value in environment.items()))
    page.bullets(facts)
    if best is not None and (warning := chance_warning(best)):
        page.text(f"Beware: {warning}.", "reduced")


def _front(page: Page, results: StudyResults, drawings: Drawings, artefacts: Artefacts) -> None:
    best, metrics = results.best, [*metrics_of(results), "test/raw/ece", "test/accuracy"]
    rows: list[list[Entry]] = []
    for trial in results.pareto:
        mark = " (winner)" if best is not None and trial.number == best.number else ""
        rows.append([f"{trial.number}{mark}", *value_cells(results, trial), *metric_cells(trial, metrics)])
    if not rows:
        page.gaps(_failures(results.records) or ["no trial has come to its end"])
        return
    files = [results.directory / PARETO, results.directory / TRIALS]
    columns = ["trial", *value_columns(results), *metrics]
    page.table(columns, rows, caption="What no other feasible trial beats", files=files, sortable=True)
    others = [trial for trial in results.pareto if best is None or trial.number != best.number]
    others.sort(key=lambda trial: ((trial.metrics or {}).get(WINNER_METRIC) or float("inf"), trial.number))
    if len(others) > MAX_OTHERS:
        page.text(f"Below: the first {MAX_OTHERS} besides the winner, by `{WINNER_METRIC}`.", "note")
    for trial in others[:MAX_OTHERS]:
        page.heading(trial.trial_key, 3)
        _pictures(page, results, trial, drawings, artefacts)


def _pictures(page: Page, results: StudyResults, trial: Trial, drawings: Drawings, artefacts: Artefacts) -> None:
    """Put a trial's reliability diagrams and its set on the page, where the store still has them."""
    run = Run(results, trial)
    try:
        if "evaluate" in (trial.keys or {}):
            draw_reliability(run, f"reliability-{trial.trial_key}", trained_on(trial.config), drawings, artefacts)
        draw_set(run, drawings, artefacts, "The first images of every class of its set, as pictures.")
    except (Lost, StoreError, BadInput) as error:  # BadInput: a study of another ddcal
        page.gaps([str(error)])


def _command(results: StudyResults, trial: Trial | None = None) -> str:
    if trial is not None:
        return replay_command(Run(results, trial), results.directory)
    return f"ddcal export {shlex.quote(str(results.directory))} --trial NUMBER --to OUT && ddcal replay OUT"


def _outcomes(results: StudyResults) -> str:
    counts: dict[str, int] = {}
    for trial in results.records:
        outcome = (trial.outcome or "unfinished").replace("_", " ")
        counts[outcome] = counts.get(outcome, 0) + 1
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no trials"


def _failures(trials: Sequence[Trial]) -> list[str]:
    return [
        f"{trial.trial_key} {(trial.outcome or 'unfinished').replace('_', ' ')}: "
        f"{(trial.error or 'no reason given').splitlines()[0]}"
        for trial in trials
    ]
