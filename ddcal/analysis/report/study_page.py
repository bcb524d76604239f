"""The page of any study: its trials, Pareto front, importances, and what its winners are; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddcal.analysis.figures.study_figures import draw_study
from ddcal.analysis.report.artefacts import Artefacts, Lost
from ddcal.analysis.report.cells import Run, per_class
from ddcal.analysis.report.drawings import Drawings
from ddcal.analysis.report.network_figures import draw_reliability, draw_set
from ddcal.analysis.report.page import Entry, Number, Page
from ddcal.analysis.report.runs_table import put_runs
from ddcal.errors import BadInput, StoreError
from ddcal.study.record.chance import chance_warning
from ddcal.study.record.results import PARETO, TRIALS, WINNER_METRIC, StudyResults, Trial

REPORT = "report"
MAX_WINNERS = 6
"""Members of the front with pictures of their own, by `WINNER_METRIC`; the table has all."""

CAPTIONS = {
    "pareto.png": "Every trial in the plane of the first two objectives; the front is what no other beats in both.",
    "history.png": "Every trial by number. Marks below the axis: trials without a result.",
    "importance.png": "The share of an objective's variance over the search that each name explains (fANOVA), with its "
    "80 % interval.",
}


def study_report(results: StudyResults, output: Path | None = None) -> Path:
    """Write ``index.html`` of a study with its pictures beside it, and return its path.

    Args:
        results: The study, finished or not.
        output: The folder of the page; default: ``report/`` in the study's folder.

    Raises:
        BadInput: if ``output`` is a file.
    """
    folder = (output or results.directory / REPORT).absolute()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output {output}: is a file; give a folder")
    page = Page(f"Study {results.study.name}", folder)
    _introduction(page, results)
    page.heading("Objectives and trials")
    results.write()
    for path in draw_study(results, folder / "figures"):
        caption = CAPTIONS.get(path.name, "Every complete trial as a line over the searched names; darker is better.")
        page.picture(path, f"{path.stem} of {results.study.name}", caption)
    page.heading("Pareto front")
    _front(page, results)
    page.heading("Winners")
    _winners(page, results, Drawings(folder / "figures", page))
    page.heading("Trials")
    put_runs(page, [results])
    return page.write()


def _introduction(page: Page, results: StudyResults) -> None:
    if results.study.description:
        page.text(results.study.description)
    summary = results.summary()
    counts = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in sorted(summary["outcomes"].items()))
    best = results.best
    seconds = "" if results.seconds is None else f" in {results.seconds:.0f} s"
    facts = [
        f"{counts or 'no trials'}{seconds}; the store saved {summary['cache']['saved_seconds']:.0f} s of computing"
    ]
    if results.interrupted:
        facts.append("the study was interrupted, or is running: what follows is what it has so far")
    if best is not None:
        confirmed = "confirmed" if results.confirmed(best) else "not confirmed"
        facts.append(f"winner: {best.trial_key}, the feasible member of the front with the lowest {WINNER_METRIC}; "
                     f"{confirmed} on fresh seeds")  # fmt: skip
        if warning := chance_warning(best):
            page.text(f"Beware: {warning}.", "reduced")
    else:
        facts.append(results.no_winner)
    environment = results.started["environment"]
    facts.append(", ".join(f"{name} {value}" for name, value in environment.items()))
    page.bullets(facts)


def _front(page: Page, results: StudyResults) -> None:
    study, best = results.study, results.best
    names = list(dict.fromkeys((*study.objectives, WINNER_METRIC, "test/accuracy", "test/raw/ece", "test/ece")))
    rows: list[list[Entry]] = []
    for trial in results.pareto:
        run = Run(results, trial)
        mark = " (winner)" if best is not None and trial.number == best.number else ""
        settings = [_text(trial.values.get(name, "")) for name in study.space]
        numbers: list[Entry] = [_number(run, name) for name in names]
        rows.append([f"{trial.trial_key}{mark}", *settings, *numbers])
    if rows:
        files = [results.directory / PARETO, results.directory / TRIALS]
        page.table(["trial", *study.space, *names], rows, caption="What no other feasible trial beats", files=files)
    else:
        page.gaps(_failures(results.records) or ["no trial has come to its end"])


def _winners(page: Page, results: StudyResults, drawings: Drawings) -> None:
    front = sorted(
        results.pareto, key=lambda trial: ((trial.metrics or {}).get(WINNER_METRIC, float("inf")), trial.number)
    )
    if len(front) > MAX_WINNERS:
        page.text(f"The first {MAX_WINNERS} of {len(front)} members of the front, by {WINNER_METRIC}.", "note")
    artefacts = Artefacts()
    for trial in front[:MAX_WINNERS]:
        run = Run(results, trial)
        page.heading(trial.trial_key, 3)
        try:
            if "evaluate" in (trial.keys or {}):
                draw_reliability(run, f"reliability-{trial.trial_key}", _title(trial), drawings, artefacts)
            draw_set(run, drawings, artefacts, "The first images of every class of its set, as pictures.")
        except (Lost, StoreError) as error:
            page.gaps([str(error)])
    if not front:
        page.text("There is none.")


def _title(trial: Trial) -> str:
    config = trial.config
    return f"{config.data.name}, {config.distill.backbone}, {per_class(config.distill.ipc)}"


def _number(run: Run, name: str) -> Number:
    value = (run.trial.metrics or {}).get(name)
    return Number("–" if value is None else f"{value:.4f}", (run,))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _failures(trials: Sequence[Trial]) -> list[str]:
    return [
        f"{trial.trial_key} {(trial.outcome or 'unfinished').replace('_', ' ')}: "
        f"{(trial.error or 'no reason given').splitlines()[0]}"
        for trial in trials
    ]
