"""A table as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddcal.analysis.labels import MAX_WIDTH, REDUCED_NOTE

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

TITLE, TEXT, SMALL = 11.0, 9.0, 8.0
"""Points."""

ROW, LINE, TITLE_LINE, MARGIN, GAP, NARROWEST = 0.25, 0.17, 0.25, 0.2, 0.28, 4.0
"""Inches: heights of a row, of a line of text and of a title's; around the table; between two columns; least width."""


def plot_table(cells: pandas.DataFrame, *, title: str = "", footnote: str = "", reduced: bool = False) -> Figure:
    """Return a picture of a table of text, its columns as wide as their longest words.

    The first column's values are written once where they repeat, with a line between them; columns of numbers stand to
    the right.

    Args:
        cells: Strings; the columns' names may have line breaks.
        title: Written above.
        footnote: Written below, wrapped.
        reduced: Write that the scale is not the paper's.

    Raises:
        ValueError: if there are no rows, or they do not fit into `MAX_WIDTH` inches.
    """
    from matplotlib.figure import Figure

    if cells.empty:
        raise ValueError("cells is empty; give at least one row")
    names = [str(name) for name in cells.columns]
    columns = [[str(one) for one in cells[name]] for name in cells.columns]
    widths = [
        max(_inches(line, TEXT) for line in (*name.split("\n"), *column))
        for name, column in zip(names, columns, strict=True)
    ]
    table = sum(widths) + GAP * (len(widths) - 1)
    if table + 2 * MARGIN > MAX_WIDTH:
        raise ValueError(f"the table is {table:.1f} inches wide; {MAX_WIDTH - 2 * MARGIN:.1f} can be read")
    heading = [*([title] if title else []), *([f"({REDUCED_NOTE})"] if reduced else [])]
    inside = max(table, NARROWEST, *(_inches(line, TITLE) for line in heading))
    notes = _wrapped(footnote, inside)
    head = LINE * max(len(name.split("\n")) for name in names) + 0.12
    top = MARGIN + TITLE_LINE * len(heading) + (0.1 if heading else 0.0)
    height = top + head + ROW * len(cells) + LINE * len(notes) + 0.12 + MARGIN
    figure = Figure(figsize=(inside + 2 * MARGIN, height))
    sheet = _Sheet(figure, height)
    for place, line in enumerate(heading):
        sheet.word(MARGIN, MARGIN + TITLE_LINE * (place + 0.5), line, size=TITLE)
    lefts = [MARGIN + sum(widths[:place]) + GAP * place for place in range(len(widths))]
    for place, (name, column, left, width) in enumerate(zip(names, columns, lefts, widths, strict=True)):
        numbers = all(_is_number(one) for one in column)
        x, side = (left + width, "right") if numbers else (left, "left")
        lines = name.split("\n")
        for up, line in enumerate(reversed(lines)):
            sheet.word(x, top + head - 0.12 - LINE * (up + 0.4), line, side=side, weight="bold")
        for row, text in enumerate(column):
            if place == 0 and row and column[row - 1] == text:
                continue
            sheet.word(x, top + head + ROW * (row + 0.5), text, side=side)
    sheet.line(MARGIN, MARGIN + table, top + head, 1.0)
    for row in range(1, len(cells)):
        if columns[0][row] != columns[0][row - 1]:
            sheet.line(MARGIN, MARGIN + table, top + head + ROW * row, 0.5)
    sheet.line(MARGIN, MARGIN + table, top + head + ROW * len(cells), 1.0)
    for place, line in enumerate(notes):
        sheet.word(
            MARGIN, top + head + ROW * len(cells) + 0.12 + LINE * (place + 0.5), line, size=SMALL, colour="#555555"
        )
    return figure


class _Sheet:
    """Places words and lines in inches from a figure's upper left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        self._figure, self._height = figure, height

    def word(
        self, x: float, y: float, text: str, *, side: str = "left", size: float = TEXT, weight: str = "normal",
        colour: str = "black",
    ) -> None:  # fmt: skip
        self._figure.text(
            x, self._height - y, text, transform=self._figure.dpi_scale_trans, ha=side, va="center_baseline",
            fontsize=size, fontweight=weight, color=colour, parse_math=False,
        )  # fmt: skip

    def line(self, left: float, right: float, y: float, width: float) -> None:
        from matplotlib.lines import Line2D

        height = self._height - y
        self._figure.add_artist(
            Line2D((left, right), (height, height), transform=self._figure.dpi_scale_trans, color="black", lw=width)
        )


def _inches(text: str, size: float) -> float:
    """Return the width of a line of text, bold, for that is the widest."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text.replace("$", "\\$"), size=size, prop=FontProperties(weight="bold"))
    return float(path.get_extents().width) / 72


def _wrapped(text: str, inches: float) -> list[str]:
    """Return a small text in lines that are at most so wide."""
    lines: list[str] = []
    for word in text.split():
        if lines and _inches(f"{lines[-1]} {word}", SMALL) <= inches:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _is_number(text: str) -> bool:
    """Return whether a cell is a number, or stands for a missing one."""
    return text.strip("–0123456789.,%/ ±") == ""
