"""Tables for a console of any width: one that does not fit turns on its side, and nothing in it is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNBOUNDED = 100_000


@dataclass(frozen=True)
class Sheet:
    """A table of text, to be printed on a console.

    Where it is wider than the console its rows become columns, and where that is too wide too, blocks: a heading and
    below it a line for each column.

    Attributes:
        title: Above it; nothing where empty.
        columns: Names.
        rows: Text, as many cells as columns each; a cell may have several lines.
        right: Which columns are numbers, set to the right.
        heads: How many columns, from the first on, say what a row is of: the heading of its block.
        packed: In blocks, as many columns on a line as fit.
        sideways: Rows are columns wherever that fits.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    heads: int = 1
    packed: bool = False
    sideways: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield what fits into the width."""
        shapes = (self._transposed,) if self.sideways else (self._table, self._transposed)
        for shape in shapes:
            table = shape()
            if _width(console, table) <= options.max_width:
                yield table
                return
        yield from self._blocks(options.max_width)

    def _table(self) -> Table:
        table = Table(title=self.title and Text(self.title), title_justify="left")
        for name in self.columns:
            table.add_column(Text(name), justify="right" if name in self.right else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def _transposed(self) -> Table:
        table = Table(title=self.title and Text(self.title), title_justify="left")
        table.add_column(Text(" ".join(self.columns[: self.heads])), no_wrap=True)
        for row in self.rows:
            table.add_column(Text("\n".join(row[: self.heads])), no_wrap=True)
        for place in range(self.heads, len(self.columns)):
            table.add_row(Text(self.columns[place]), *(Text(row[place]) for row in self.rows))
        return table

    def _blocks(self, width: int) -> Iterator[RenderableType]:
        if self.title:
            yield Text(self.title, style="italic")
        short = shortened(self.columns, max(8, width // 2 - 4))
        for row in self.rows:
            yield Text("  ".join(cell for cell in row[: self.heads] if cell), style="bold")
            fields = [
                (short[name], ", ".join(cell.splitlines()))
                for name, cell in zip(self.columns[self.heads :], row[self.heads :], strict=True)
                if cell
            ]
            yield _indented(packed(fields, width - 2)) if self.packed else _lines(fields)


def packed(fields: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return lines of ``name value`` with two spaces between them, as many on a line as fit into ``width``."""
    lines: list[str] = []
    for name, cell in fields:
        field = f"{name} {cell}".strip()
        if lines and len(lines[-1]) + 2 + len(field) <= width:
            lines[-1] += f"  {field}"
        else:
            lines.append(field)
    return lines


def shortened(names: Sequence[str], width: int) -> dict[str, str]:
    """Return name → the name in at most ``width`` characters, cut in its middle where it is longer.

    Different names stay different: where no cut of that width keeps them apart they stay whole.
    """
    found = {name: name if len(name) <= width else _cut(name, width, (width - 1) // 2) for name in names}
    for end in (*range((width - 1) // 2 + 1, width - 1), *range((width - 1) // 2 - 1, 0, -1)):
        counts = Counter(found.values())
        twice = [name for name, short in found.items() if counts[short] > 1 and len(name) > width]
        if not twice:
            return found
        found |= {name: _cut(name, width, end) for name in twice}
    counts = Counter(found.values())
    return {name: name if counts[short] > 1 else short for name, short in found.items()}


def _cut(name: str, width: int, end: int) -> str:
    """Return the beginning of a name, an ellipsis and its last ``end`` characters."""
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _width(console: Console, table: Table) -> int:
    options = console.options.update(width=UNBOUNDED, max_width=UNBOUNDED)
    widest = max((len(line) for line in str(table.title or "").splitlines()), default=0)
    return max(Measurement.get(console, options, table).maximum, min(widest, console.width))


def _lines(fields: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, cell in fields:
        grid.add_row("", Text(name), Text(cell))
    return grid


def _indented(lines: Sequence[str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row("", Text(line))
    return grid
