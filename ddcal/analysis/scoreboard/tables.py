"""The tables of a scoreboard: recipes, accuracy and scores, calibration, soft labels against hard ones, and MTS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ddcal.analysis.labels import method_label
from ddcal.analysis.report.page import Entry, Number, Page
from ddcal.analysis.scoreboard.measured import Measured, difference
from ddcal.analysis.scoreboard.results import (
    CALIBRATIONS,
    HARD,
    LABELS,
    PLAIN,
    SOFT,
    BoardResults,
    SetResults,
)
from ddcal.analysis.scoreboard.scores import EVEN
from ddcal.statistics import MARKED_SEEDS

Rows = list[list[Entry]]

SCORES: Mapping[str, tuple[str, float]] = {
    "accuracy": ("accuracy, %", 100.0),
    "plain_accuracy": ("without augmentation, %", 100.0),
    "label_robust_score": ("label-robust", 100.0),
    "augmentation_robust_score": ("augmentation-robust", 100.0),
}
"""Columns of the first table: name → its head, and what its numbers are multiplied by."""

OTHERS = ("raw", "ts_cv", "ts_val")
"""The calibrations that MTS is held against."""

MTS = "mts"


def score_numbers(board: BoardResults, one: SetResults, labels: str) -> dict[str, Measured]:
    """Return the numbers of `SCORES` of a set under these labels."""
    return {
        "accuracy": one.accuracy(labels),
        "plain_accuracy": one.accuracy(labels, PLAIN),
        "label_robust_score": board.label_robust(one, labels),
        "augmentation_robust_score": board.augmentation_robust(one, labels),
    }


def labels_of(one: SetResults, labels: str) -> str:
    """Return what labels are called: those of a set that has soft ones of its own are not hard."""
    return ("its own" if labels == HARD else "by experts") if one.soft_itself else labels


def compared(one: SetResults) -> str:
    """Return what a row of soft less hard labels is called: of a set with soft labels of its own it compares others."""
    return f"{one.one.row.title}, by experts less its own" if one.soft_itself else one.one.row.title


def put_recipes(page: Page, board: BoardResults) -> None:
    """Put on the page which recipe each set got under each kind of labels, by which number of ``val``."""
    rows: Rows = []
    for one in board.sets:
        for labels, source in LABELS.items():
            found = one.chosen.get(source)
            if found is not None:
                recipe = ", ".join(f"{_short(name)} {_value(value)}" for name, value in found.recipe)
                second = "–" if found.second is None else f"{100 * found.second:.2f}"
                numbers = [Number(f"{100 * found.value:.2f}"), Number(second)]
                tried = [Number(str(found.others + 1)), Number(str(found.seeds))]
                rows.append([one.one.row.title, labels_of(one, labels), recipe, *numbers, *tried])
    columns = ["set", "labels", "chosen recipe", "accuracy on val, %", "second best, %", "tried", "seeds"]
    page.table(columns, rows, caption="What was chosen, by the mean accuracy on `val` alone", sortable=True)


def put_scores(page: Page, board: BoardResults) -> None:
    """Put accuracies and DD-Ranking's scores on the page."""
    full = board.full_accuracy
    rows: Rows = [["all training images", HARD, number(full, 100.0, 1), "–", "–", "–", _images(board, None)]]
    for one in board.sets:
        for labels in LABELS:
            found = score_numbers(board, one, labels)
            cells: list[Entry] = [number(found[name], scale, 1) for name, (_, scale) in SCORES.items()]
            if one.soft_itself:  # nothing is missing: it has no such score
                cells[list(SCORES).index("label_robust_score")] = "–"
            rows.append([one.one.row.title, labels_of(one, labels), *cells, _images(board, one)])
    columns = ["set", "labels", *(head for head, _ in SCORES.values()), "images a class"]
    page.table(columns, rows, caption="Accuracy on `test`, and DD-Ranking's scores in percent", sortable=True)
    page.text(
        "Mean and 95 % interval of the mean over seeds (Student's t). Label-robust score: half the improvement over "
        "random images under the same labels and augmentation, less half of what the set with hard labels lacks of all "
        "training images, put through (e^x − e^−1) / (e − e^−1). Augmentation-robust score: the mean improvement over "
        f"random images with and without augmentation, put through the same. {100 * EVEN:.1f} % is the score of terms "
        "that cancel: the augmentation-robust score of random images themselves. A seed's set is held against random "
        "images of the same seed, whose rate and epochs were chosen on `val` too; without augmentation the recipe "
        "stays, and all training images count by their mean.",
        "note",
    )
    if soft := [one.one.row.title for one in board.sets if one.soft_itself]:
        page.text(f"Without a label-robust score, as their own labels are soft: {', '.join(soft)}.", "note")


def put_calibrations(page: Page, board: BoardResults, metric: str, caption: str, scale: float, digits: int) -> None:
    """Put a metric of every cell on the page, a column a calibration; the lowest but for ``ts_val`` is bold."""
    rows: Rows = []
    for one in board.sets:
        for labels in LABELS:
            found = {name: one.number(labels, name, metric) for name in CALIBRATIONS}
            blind = {name: each.mean for name, each in found.items() if name != "ts_val" and each.mean is not None}
            best = min(blind, key=lambda name: blind[name], default=None)
            cells = [number(each, scale, digits, strong=name == best) for name, each in found.items()]
            rows.append([one.one.row.title, labels_of(one, labels), *cells])
    columns = ["set", "labels", *map(method_label, CALIBRATIONS)]
    page.table(columns, rows, caption=caption, sortable=True)


def paired(one: SetResults) -> dict[str, Measured]:
    """Return soft − hard on the same images, seed by seed: ``accuracy``, and ``ece/…`` of every calibration."""
    found = {"accuracy": difference(one.accuracy(SOFT), one.accuracy(HARD))}
    for name in CALIBRATIONS:
        found[f"ece/{name}"] = difference(one.number(SOFT, name, "ece"), one.number(HARD, name, "ece"))
    return found


def put_paired(page: Page, board: BoardResults) -> None:
    """Put soft − hard of every set on the page, and in words those of sets that have hard labels."""
    rows: Rows = [
        [
            compared(one),
            *(number(value, 100.0, 1, signed=True, strong=value.sign != 0) for value in paired(one).values()),
        ]
        for one in board.sets
    ]
    each = {one.one.row.title: paired(one) for one in board.sets if not one.soft_itself}
    columns = ["set", "accuracy", *(f"ECE, {method_label(name)}" for name in CALIBRATIONS)]
    page.table(columns, rows, caption="Soft labels less hard ones on the same images, in points", sortable=True)
    page.text(
        f"Each with its own recipe. Mean and 95 % interval over seeds; bold where that of {MARKED_SEEDS} seeds or more "
        "does not hold 0. Above 0 a soft label is more accurate; below 0 its ECE is lower.",
        "note",
    )
    page.bullets(
        [
            counted("Soft labels and accuracy", {title: found["accuracy"] for title, found in each.items()}, "higher"),
            *(
                counted(
                    f"Soft labels and ECE, {method_label(name)}",
                    {title: found[f"ece/{name}"] for title, found in each.items()},
                    "lower",
                )
                for name in CALIBRATIONS
            ),
        ]
    )


def mts_differences(one: SetResults, labels: str) -> dict[str, Measured]:
    """Return the ECE of MTS less that of each of `OTHERS`, on the same networks."""
    return {name: difference(one.number(labels, MTS, "ece"), one.number(labels, name, "ece")) for name in OTHERS}


def put_mts(page: Page, board: BoardResults) -> None:
    """Put on the page where MTS stands beside no calibration, cross-validated and val-fitted temperatures."""
    each = {
        (one.one.row.title, labels_of(one, labels)): mts_differences(one, labels)
        for one in board.sets
        for labels in LABELS
    }
    rows: Rows = [
        [title, labels, *(number(value, 100.0, 1, signed=True, strong=value.sign != 0) for value in found.values())]
        for (title, labels), found in each.items()
    ]
    columns = ["set", "labels", *(f"less {method_label(name)}" for name in OTHERS)]
    page.table(columns, rows, caption="ECE of MTS less that of others on the same networks, in points", sortable=True)
    page.text(
        f"Mean and 95 % interval over seeds; bold where that of {MARKED_SEEDS} seeds or more does not hold 0. Below 0 "
        "MTS has the lower ECE.",
        "note",
    )
    page.bullets(
        counted(f"MTS, ECE less that of {method_label(name)}",
                {f"{title} ({labels})": found[name] for (title, labels), found in each.items()}, "lower")
        for name in OTHERS
    )  # fmt: skip


def counted(what: str, found: Mapping[str, Measured], better: str) -> str:
    """Return in words on how many sets a difference is better, worse, not to be told, not to be tested, or missing.

    Args:
        what: What the difference is of.
        found: Set → its difference.
        better: ``higher`` or ``lower``, which is the better direction.
    """
    told: dict[int, list[str]] = {1: [], -1: [], 0: []}
    missing = [name for name, value in found.items() if not value.values]
    few = [name for name, value in found.items() if value.values and not value.testable]
    for name, value in found.items():
        if value.testable:
            told[value.sign].append(name)
    total = len(found)
    if len(missing) == total:
        return f"{what}: not run."
    signs: tuple[tuple[int, str], ...] = ((1, "higher"), (-1, "lower"), (0, "not told apart"))
    good = 1 if better == "higher" else -1
    ordered = sorted(signs, key=lambda sign: (sign[0] == 0, sign[0] != good))
    parts = [f"{word} on {_of(told[sign], total)}" for sign, word in ordered if told[sign]]
    parts += [f"fewer than {MARKED_SEEDS} seeds, too few for a test, on {_of(few, total)}"] if few else []
    parts += [f"missing on {_of(missing, total)}"] if missing else []
    return f"{what}: {'; '.join(parts)}."


def _of(names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return "all of them" if total > 1 else names[0]
    return f"{len(names)} of {total} ({', '.join(names)})"


def number(
    value: Measured, scale: float = 1.0, digits: int = 3, *, signed: bool = False, strong: bool = False
) -> Number:
    """Return a number for the page: the mean with its 95 % interval."""
    if value.mean is None:
        return Number("–", (), value.gaps or ("not run",))
    return Number(written(value, scale, digits, signed), tuple(value.runs), value.gaps, strong)


def written(value: Measured, scale: float, digits: int, signed: bool = False) -> str:
    """Return a number as text: the mean with its 95 % interval."""
    if value.mean is None:
        return "–"
    plain: Callable[[float], str] = lambda x: f"{round(scale * x, digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # noqa: E731
    text = plain(value.mean)
    if value.interval is not None:
        text += f" [{plain(value.interval[0])}, {plain(value.interval[1])}]"
    return text


def _images(board: BoardResults, one: SetResults | None) -> str:
    """Return how many images a class a set has, as its settings say."""
    if one is None:
        return "all"
    run = next(iter(one.runs), None)
    if run is None:
        return "–"
    ipc, factor = run.settings["distill.ipc"], run.settings.get("distill.formation.factor", 1)
    return str(ipc) if factor == 1 else f"{ipc}, decoded to {ipc * factor**2}"


def _short(name: str) -> str:
    return name.removeprefix("train.").removeprefix("labels.")


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
