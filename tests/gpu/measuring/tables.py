"""What was measured as text: Markdown that reads as it is in a terminal of 80 columns, and goes into a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from measuring.sections import SECTIONS, Section

WIDTH = 80


def page_of(measured: dict[str, Any]) -> str:
    """Return everything that was measured so far."""
    parts = [head_of(measured)]
    found = measured["sections"]
    parts += [section_text(section, found[section.name]) for section in SECTIONS if section.name in found]
    return "\n".join(parts)


def head_of(measured: dict[str, Any]) -> str:
    """Return on what, when and with what it was measured."""
    machine, versions = measured["machine"], measured["machine"]["versions"]
    memory = f", {machine['memory'] / 2**30:.0f} GiB" if machine.get("memory") else ""
    said = (
        f"{machine['gpu']}{memory}, driver {machine['driver'] or 'unknown'}; {machine['cpus']} CPUs, {machine['cpu']}; "
        f"Python {machine['python']}, torch {versions['torch']} (CUDA {machine['torch_cuda']}, cuDNN "
        f"{machine.get('cudnn', 'unknown')}), ddcal {machine['commit'] or 'unknown'}; {measured['began']}, "
        f"{measured['minutes']:g} minutes; data: {measured['data'] or 'noise'}. Median (lowest-highest)."
    )
    if measured["pretended"]:
        said += " The device is pretended: these are no measurements of a GPU."
    return "\n".join(textwrap.wrap(said, WIDTH)) + "\n"


def section_text(section: Section, found: dict[str, Any]) -> str:
    """Return one section's table, with what there was no time for and what went wrong."""
    lines = [f"### {section.title}", ""]
    rows = [row for row in found["rows"] if "note" not in row]
    if rows:
        lines += table([list(section.columns), *[[show(row) for show in section.columns.values()] for row in rows]])
    said = [f"{row['name']}: {row['note']}" for row in found["rows"] if "note" in row]
    if found["left_out"]:
        said.append(f"No time for: {', '.join(found['left_out'])}.")
    if found["status"] == "failed":
        said.append(f"FAILED: {found['error'].splitlines()[-1]}")
    for one in said:
        lines += ["", *textwrap.wrap(one, WIDTH)] if rows or one is not said[0] else textwrap.wrap(one, WIDTH)
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the first of them headings, as lines of Markdown whose columns are aligned and at most `WIDTH`."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    over = sum(widths) + 3 * len(widths) + 1 - WIDTH
    if over > 0:
        widest = widths.index(max(widths))
        widths[widest] -= over
    lines = []
    for row in rows:
        cells = [
            cell if len(cell) <= width else f"{cell[: width - 1]}…" for cell, width in zip(row, widths, strict=True)
        ]
        first, *others = (cell for cell in cells)
        shown = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(shown)} |")
        if len(lines) == 1:
            lines.append(f"|-{'-|-'.join('-' * width for width in widths)}-|")
    return lines


def shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
