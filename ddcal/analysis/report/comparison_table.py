"""All calibrations beside each other on the same networks, and in words where MTS wins and where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddcal.analysis.figures.table_figure import plot_table
from ddcal.analysis.labels import REDUCED_NOTE
from ddcal.analysis.report.artefacts import Artefacts
from ddcal.analysis.report.cells import Cell, Collected, Run, per_class
from ddcal.analysis.report.curves import BACKBONES
from ddcal.analysis.report.methods import BY_NAME, METHODS, TUNED, method_cell, real_labels
from ddcal.analysis.report.numbers import Row, labels_used, number, write_rows
from ddcal.analysis.report.page import Entry, Number, Page
from ddcal.analysis.report.tables import val_images
from ddcal.config.calibrations import calibration
from ddcal.pictures import save_figure
from ddcal.statistics import MARKED_SEEDS, mean_interval

STEM = "calibration"

NAMES = {"real": "random real images", "dsa": "DSA"}
MTS_KINDS = ("mts", "mts_distilled", TUNED)
OVERVIEW = ("raw", "mts", "mts_distilled", "ts_cv", "ts_val")
"""The columns of the overview."""

LOWEST, HIGHEST = "lower", "higher"


@dataclass(frozen=True)
class Difference:
    """How the ECE of one method differs from another's on the same seeds.

    Attributes:
        mean: First less second, a fraction.
        low: Lower end of the 95 % interval of that mean (Student's t over seeds); None for one seed.
        high: Upper end.
        seeds: How many seeds both have.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def verdict(self) -> str:
        """``lower``, ``higher``, or ``not told apart``: from `MARKED_SEEDS` on by the interval, else by the mean."""
        if self.seeds >= MARKED_SEEDS and self.low is not None and self.high is not None and self.low <= 0 <= self.high:
            return "not told apart"
        return LOWEST if self.mean < 0 else HIGHEST if self.mean > 0 else "not told apart"


def paired_difference(first: Cell, second: Cell) -> Difference | None:
    """Return the paired difference of two cells over the seeds that both have; None if there are none."""
    values = [{run.seed: value for run, value in zip(cell.runs, cell.values, strict=True)} for cell in (first, second)]
    shared = sorted(values[0].keys() & values[1].keys())
    if not shared:
        return None
    each = [values[0][seed] - values[1][seed] for seed in shared]
    return Difference(*mean_interval(each), len(each))


def comparison_rows(found: Collected, backbone: str, ipc: int, metric: str, artefacts: Artefacts) -> list[Row]:
    """Return a row a method, the best first; those without a number last, in the order of `METHODS`."""
    val = val_images(found, STEM, artefacts)
    rows = []
    for method in METHODS:
        cell = method_cell(found, STEM, method, metric, {"distill.backbone": backbone, "distill.ipc": ipc})
        used = real_labels(method, backbone, val)
        rows.append(Row(found.dataset, backbone, ipc, method.name, method.label, cell, used))
    return sorted(rows, key=lambda row: math.inf if row.cell.mean is None else row.cell.mean)


def settings(found: Collected) -> Iterator[tuple[str, int]]:
    """Yield (backbone, images per class) of the networks that the calibrations were compared on."""
    there = {(run.settings["distill.backbone"], run.settings["distill.ipc"]) for run in found.runs(STEM)}
    for backbone in BACKBONES:
        yield from ((backbone, ipc) for one, ipc in sorted(there) if one == backbone)


def verdict_sentences(rows: Sequence[Row]) -> list[str]:
    """Return where each kind of MTS has a lower ECE than the methods that are no MTS, and where it has not.

    Args:
        rows: Of `comparison_rows` with the metric ``ece``.
    """
    by_name = {row.method: row for row in rows if row.cell.runs}
    sentences = []
    for kind in MTS_KINDS:
        if kind not in by_name:
            continue
        differences = {
            row.label: difference
            for name, row in by_name.items()
            if name not in MTS_KINDS and (difference := paired_difference(by_name[kind].cell, row.cell)) is not None
        }
        if differences:
            cell = by_name[kind].cell
            assert cell.mean is not None
            parts = [_told(differences, seeds) for seeds in sorted({one.seeds for one in differences.values()})[::-1]]
            sentences.append(f"{BY_NAME[kind].label}: ECE {100 * cell.mean:.1f} %, {'; '.join(parts)}.")
    return sentences


def _told(differences: Mapping[str, Difference], seeds: int) -> str:
    """Return what is told of the differences over so many seeds, and on what ground."""
    words = {LOWEST: "lower than", HIGHEST: "higher than", "not told apart": "not told apart from"}
    parts = []
    for verdict, word in words.items():
        found = {name: one for name, one in differences.items() if (one.seeds, one.verdict) == (seeds, verdict)}
        if found:
            parts.append(f"{word} {_listed([f'{name} ({_points(one.mean)})' for name, one in found.items()])}")
    ground = (
        f"95 % interval of the paired difference over {seeds} seeds"
        if seeds >= MARKED_SEEDS
        else f"mean of {seeds} seed{'s' * (seeds != 1)}, too few for a test"
    )
    return f"{'; '.join(parts)} (points of ECE; {ground})"


def accuracy_sentences(found: Collected, backbone: str, ipc: int) -> list[str]:
    """Return whether the calibrations that claim to keep the accuracy have kept it in every trial, and which not."""
    runs = [run for run in found.select(STEM, {"distill.backbone": backbone, "distill.ipc": ipc}) if run.gap is None]
    kept = [run for run in runs if calibration(run.settings["calibrate.method"]).keeps_accuracy]
    moved = [run for run in kept if _metric(run, "test/accuracy") != _metric(run, "test/raw/accuracy")]
    if not kept:
        return []
    methods = _listed(list(dict.fromkeys(run.settings["calibrate.method"] for run in kept)))
    if moved:
        names = _listed([run.trial.trial_key for run in moved])
        return [f"The accuracy is not that of the raw network in {names}, though the calibration claims to keep it."]
    return [f"The accuracy before and after calibration is equal in all {len(kept)} trials of {methods}."]


def _metric(run: Run, name: str) -> float | None:
    return (run.trial.metrics or {}).get(name)


def put_comparison(page: Page, found: Collected, artefacts: Artefacts, folder: Path, *, reduced: bool) -> None:
    """Put the comparison of one dataset on the page, a table for each kind of set and number of images."""
    there = list(settings(found))
    if not there:
        page.gaps([f"no calibrations were compared on {found.dataset}"])
    for backbone, ipc in there:
        ece = comparison_rows(found, backbone, ipc, "ece", artefacts)
        nll = {row.method: row for row in comparison_rows(found, backbone, ipc, "nll", artefacts)}
        accuracy = {row.method: row for row in comparison_rows(found, backbone, ipc, "accuracy", artefacts)}
        page.heading(f"{found.dataset}: {NAMES.get(backbone, backbone)}, {per_class(ipc)}", 3)
        name = f"calibrations-{found.dataset}-{backbone}-{ipc}"
        every = [row for one in ece for row in (one, nll[one.method], accuracy[one.method])]
        files = [write_rows(every, folder / f"{name}.csv", reduced=reduced, published=[None] * len(every))]
        title = f"Calibrations of {found.dataset}, {NAMES.get(backbone, backbone)}, {per_class(ipc)}, by ECE"
        files += _picture(ece, nll, folder / f"{name}.png", title, reduced)
        best = next((row.method for row in ece if row.real_labels == 0 and row.cell.runs), None)
        entries: list[list[Entry]] = [
            [
                f"{row.label}: {BY_NAME[row.method].note}",
                number(row, interval=True, strong=row.method == best),
                number(nll[row.method], interval=True),
                number(accuracy[row.method]),
                labels_used(row),
                str(len(row.cell.runs)),
            ]
            for row in ece
            if row.cell.runs
        ]
        columns = ["calibration", "ECE, %", "NLL", "accuracy, %", "real labels used", "seeds"]
        page.table(columns, entries, caption=title, files=files)
        page.gaps(missing_rows(ece))
        if reduced:
            page.text(f"{REDUCED_NOTE}; the paper publishes no such table.", "reduced")
        page.bullets([*verdict_sentences(ece), *accuracy_sentences(found, backbone, ipc)])


def put_overview(page: Page, found: Sequence[Collected], artefacts: Artefacts) -> None:
    """Put a row a kind of set on the page: the ECE of a few calibrations, and the lowest that needs no real label."""
    entries: list[list[Entry]] = []
    for one in found:
        for backbone, ipc in settings(one):
            rows = comparison_rows(one, backbone, ipc, "ece", artefacts)
            by_name = {row.method: row for row in rows}
            best = next((row for row in rows if row.real_labels == 0 and row.cell.runs), None)
            lowest: list[Entry] = ["–", ""] if best is None else [_first(number(best, strong=True)), best.label]
            shown = [by_name[name] for name in OVERVIEW]
            numbers = [_first(number(row)) if row.cell.runs else "–" for row in shown]
            entries.append([one.dataset, backbone, str(ipc), *numbers, *lowest])
    if entries:
        columns = [
            "dataset",
            "set",
            "IPC",
            *(BY_NAME[name].label for name in OVERVIEW),
            "lowest without real labels",
            "which is",
        ]
        page.table(columns, entries, caption="ECE in percent, mean ± standard deviation over seeds")


def _picture(ece: Iterable[Row], nll: dict[str, Row], path: Path, title: str, reduced: bool) -> list[Path]:
    import pandas

    rows = [
        {
            "calibration": row.label,
            "ECE (%)": number(row, interval=True).text,
            "NLL": number(nll[row.method], interval=True).text,
            "real labels": labels_used(row),
            "seeds": str(len(row.cell.runs)),
        }
        for row in ece
        if row.cell.runs
    ]
    if not rows:
        return []
    footnote = "Mean and 95 % interval over seeds (Student's t)."
    return [save_figure(plot_table(pandas.DataFrame(rows), title=title, footnote=footnote, reduced=reduced), path)]


def missing_rows(rows: Iterable[Row]) -> list[str]:
    """Return the reasons why rows have no number, each once, with the rows that have it."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not row.cell.runs:
            reason = "; ".join(row.cell.gaps) or "not run at this scale for these networks"
            reasons.setdefault(reason, []).append(row.label)
    return [f"{'; '.join(labels)}: {reason}" for reason, labels in reasons.items()]


def _first(whole: Number) -> Number:
    """Return a number that links to its first trial alone; the tables below it have the others."""
    return replace(whole, runs=whole.runs[:1])


def _points(difference: float) -> str:
    """Return a difference of fractions in points, with its sign."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # + 0.0 makes 0 of -0


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
