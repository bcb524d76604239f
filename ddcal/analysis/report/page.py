"""One self-contained HTML page: text, tables and pictures; nothing from the network, and a script only to sort."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddcal.analysis.report.cells import Run

STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1b1b1b; background: #fff;
  max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.8rem; line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
h3 { margin-top: 2rem; } p, li { max-width: 52rem; } code { font: 0.85em ui-monospace, Menlo, Consolas, monospace; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.92rem; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #444; } th.number { text-align: right; }
td.number { text-align: right; white-space: nowrap; } td.number sup.trials { white-space: normal; }
tr:target { background: #fff3b0; } caption { text-align: left; font-weight: 600; padding: 0.4rem 0; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .note { color: #333; font-size: 0.92rem; max-width: 52rem; }
.reduced { background: #fdf0d5; border-left: 4px solid #c77700; padding: 0.4rem 0.8rem; max-width: 52rem; }
.gap { color: #8a1c1c; } .best { font-weight: 700; } sup a { text-decoration: none; } nav li { max-width: none; }
code span { white-space: nowrap; } .within { font-size: 0.9rem; margin-left: 0.8rem; white-space: nowrap; }
td.command { white-space: nowrap; } td { overflow-wrap: break-word; }
@media (max-width: 900px) { body { padding: 0.6rem; } table { font-size: 0.8rem; }
  th, td { padding: 0.15rem 0.3rem; } }
.sortable { font-size: 0.85rem; } .sortable th, .sortable td { padding: 0.2rem 0.45rem; }
.sortable td:not(.number) { overflow-wrap: anywhere; min-width: 3.5em; }
.sortable td:first-child:not(.number) { overflow-wrap: normal; }
.sortable th { cursor: pointer; vertical-align: bottom; } .sortable th:hover { background: #eef3f8; }
.sortable th::after { content: "\\2195"; color: #999; padding-left: 0.2rem; font-weight: 400; }
.sortable th[aria-sort=ascending]::after { content: "\\2191"; color: #000; }
.sortable th[aria-sort=descending]::after { content: "\\2193"; color: #000; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const valueOf = (row, place) => row.cells[place].textContent.trim();
  const numberOf = (row, place) =>  // of "-0.8 [-1.2, -0.4] 2 3", a mean with its interval and links, it is the mean
    row.cells[place].classList.contains("number") ? parseFloat(valueOf(row, place)) : Number(valueOf(row, place));
  const sort = (head, place) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(one => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const missing = text => text === "" || text.startsWith("\u2013");
    const order = (a, b) => {
      const x = valueOf(a, place), y = valueOf(b, place);
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const p = numberOf(a, place), q = numberOf(b, place);
      const by = isNaN(p) || isNaN(q) ? x.localeCompare(y, "en", {numeric: true}) : p - q;
      return down ? -by : by;
    };
    body.append(...[...body.rows].sort(order));
  };
  heads.forEach((head, place) => {
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", () => sort(head, place));
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(head, place); });
  });
}
"""
"""Sorts a table by the column whose head is clicked; missing values come last. Without it the table is as it is."""


FEW_TRIALS = 6
"""Of so many trials of a study each is linked below a figure, of more the first and the last."""


@dataclass(frozen=True)
class Number:
    """A number in a table, with the trials that it is from.

    Attributes:
        text: As it is written, for example ``4.50 ± 0.21``; a dash where there is none.
        runs: The trials.
        gaps: Why some or all of its trials are missing.
        strong: Written bold.
    """

    text: str
    runs: tuple[Run, ...] = ()
    gaps: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Link:
    """A file in a table under a short name."""

    text: str
    path: Path


Entry = str | Number | Path | Link
"""What a table's cell holds: text, a number, or a file, which is linked."""


@dataclass
class Page:
    """A page that is put together from top to bottom.

    Attributes:
        title: Its title.
        folder: Where it lies; links to files are relative to it.
        reload: After how many seconds a browser loads it again; None for never.
    """

    title: str
    folder: Path
    reload: float | None = None
    _body: list[str] = field(default_factory=list)
    _contents: list[tuple[int, str, str]] = field(default_factory=list)
    missing: int = 0
    _headings: int = 0
    _sortable: bool = False

    def heading(self, text: str, level: int = 2, *, listed: bool = True) -> None:
        """Begin a section.

        Args:
            text: Its title.
            level: 2, or 3 for a section within the last one of 2.
            listed: Whether it is in the table of contents.
        """
        self._headings += 1
        anchor = f"{self._headings}-{re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')}"
        if listed:
            self._contents.append((level, text, anchor))
        self._body.append(f'<h{level} id="{anchor}">{html.escape(text)}</h{level}>')

    def text(self, text: str, kind: str = "") -> None:
        """Add a paragraph.

        Args:
            text: Plain text; what stands between backticks is set as code.
            kind: A class of the style: ``note``, ``reduced``, ``gap``.
        """
        self._body.append(f"<p{_class(kind)}>{rich_text(text)}</p>")

    def bullets(self, lines: Iterable[str], kind: str = "") -> None:
        """Add a list of lines; nothing where there are none."""
        items = "".join(f"<li>{rich_text(line)}</li>" for line in lines)
        if items:
            self._body.append(f"<ul{_class(kind)}>{items}</ul>")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Entry]],
        *,
        caption: str = "",
        files: Sequence[Path] = (),
        anchors: Sequence[str] = (),
        sortable: bool = False,
    ) -> None:
        """Add a table.

        Args:
            columns: Names.
            rows: Text, numbers and files; every gap in them is told below the table, and counted.
            caption: Above it.
            files: The table as files, linked below.
            anchors: The id of each row, for links to it.
            sortable: A click on a column's head sorts by it.
        """
        self._sortable |= sortable
        right = [any(isinstance(row[place], Number) for row in rows) for place in range(len(columns))]
        head = "".join(f"<th{_class('number' if side else '')}>{_breakable(name)}</th>"
                       for name, side in zip(columns, right, strict=True))  # fmt: skip
        gaps: list[str] = []
        lines = []
        for index, row in enumerate(rows):
            cells = "".join(
                f"<td{_class(_alignment(entry) if side else '')}>{self._entry(entry, gaps)}</td>"
                for entry, side in zip(row, right, strict=True)
            )
            identity = f' id="{html.escape(anchors[index], quote=True)}"' if anchors else ""
            lines.append(f"<tr{identity}>{cells}</tr>")
        title = f"<caption>{rich_text(caption)}</caption>" if caption else ""
        body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        self._body.append(
            f'<div class="wide"><table{_class("sortable" if sortable else "")}>{title}{body}</table></div>'
        )
        self._gaps(gaps)
        self._files(files)

    def picture(
        self, png: Path, alt: str, caption: str, *, runs: Sequence[Run] = (), files: Sequence[Path] = ()
    ) -> None:
        """Add a picture.

        Args:
            png: The file, which becomes a part of the page.
            alt: What it shows, for those who do not see it.
            caption: What is seen, as `text`.
            runs: The trials that it is made of.
            files: Its numbers, linked below.
        """
        data = base64.b64encode(png.read_bytes()).decode()
        links = f" Trials: {self._links(runs)}." if runs else ""
        self._body.append(
            f'<figure><img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{rich_text(caption)}{links}</figcaption></figure>"
        )
        self._files((png, *files))

    def gaps(self, reasons: Iterable[str]) -> None:
        """Say what is missing and why."""
        self._gaps(list(reasons))

    def write(self, name: str = "index.html") -> Path:
        """Write the page and return its path."""
        contents = ""
        for level, text, anchor in self._contents:  # a line a section, with those within it beside its title
            link = f'<a href="#{anchor}">{html.escape(text)}</a>'
            contents += f"</li><li>{link}" if level == 2 else f' <span class="within">{link}</span>'
        contents = f"{contents.removeprefix('</li>')}</li>" if contents else ""
        first, rest = self._split()
        text = (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{_reload(self.reload)}'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head><body>"
            f"<h1>{html.escape(self.title)}</h1>\n{first}\n<nav><h2>Contents</h2><ul>{contents}</ul></nav>\n{rest}\n"
            f"{f'<script>{SCRIPT}</script>' if self._sortable else ''}</body></html>\n"
        )
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
        return path

    def _split(self) -> tuple[str, str]:
        """Return what stands before the first heading, and the rest."""
        place = next((i for i, part in enumerate(self._body) if part.startswith("<h2")), len(self._body))
        return "\n".join(self._body[:place]), "\n".join(self._body[place:])

    def _entry(self, entry: Entry, gaps: list[str]) -> str:
        if isinstance(entry, str):
            return rich_text(entry)
        if isinstance(entry, Path):
            return f'<a href="{self.link(entry)}">{html.escape(entry.name)}</a>'
        if isinstance(entry, Link):
            return f'<a href="{self.link(entry.path)}">{html.escape(entry.text)}</a>'
        mark = ""
        if entry.gaps:
            gaps.append("; ".join(dict.fromkeys(entry.gaps)))
            mark = f'<sup class="gap">gap {len(gaps)}</sup>'
        if not entry.runs:
            return f"{html.escape(entry.text)}{mark}"
        first, *others = entry.runs
        more = "".join(
            f' <a href="#{run_anchor(run)}" title="{html.escape(run.trial.trial_key, quote=True)}">{place}</a>'
            for place, run in enumerate(others, start=2)
        )
        more = f'<sup class="trials">{more}</sup>' if more else ""
        key = html.escape(first.trial.trial_key, quote=True)
        return f'<a href="#{run_anchor(first)}" title="{key}">{html.escape(entry.text)}</a>{more}{mark}'

    def _links(self, runs: Sequence[Run]) -> str:
        """Return links to all of few trials; of many, each study's first and last, and how many there are."""
        shown: list[str] = []
        of_study: dict[str, list[Run]] = {}
        for run in dict.fromkeys(runs):
            of_study.setdefault(str(run.study.directory), []).append(run)
        for found in of_study.values():
            ordered = sorted(found, key=lambda run: run.trial.number)
            if len(ordered) > FEW_TRIALS:
                shown.append(f"{_link(ordered[0])} to {_link(ordered[-1])} ({len(ordered)} trials)")
            else:
                shown += map(_link, ordered)
        return ", ".join(shown)

    def _gaps(self, gaps: list[str]) -> None:
        self.missing += len(gaps)
        if gaps:
            items = "".join(f"<li>gap {place}: {rich_text(text)}</li>" for place, text in enumerate(gaps, start=1))
            self._body.append(f'<ul class="gap">{items}</ul>')

    def _files(self, files: Sequence[Path]) -> None:
        if files:
            links = ", ".join(f'<a href="{self.link(path)}">{html.escape(path.name)}</a>' for path in files)
            self._body.append(f'<p class="note">Files: {links}</p>')

    def link(self, path: Path) -> str:
        """Return the relative address of a file, for an attribute."""
        relative = os.path.relpath(path.absolute(), self.folder.absolute())
        return html.escape("/".join(map(_quoted, Path(relative).parts)), quote=True)


def run_anchor(run: Run) -> str:
    """Return the id of a trial's row."""
    return html.escape(f"run-{run.trial.trial_key}", quote=True)


def _link(run: Run) -> str:
    return f'<a href="#{run_anchor(run)}">{html.escape(run.trial.trial_key)}</a>'


def rich_text(text: str) -> str:
    """Return text as HTML: everything escaped, what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without a partner
        return html.escape(text)
    return "".join(_code(part) if i % 2 else html.escape(part) for i, part in enumerate(parts))


def _code(text: str) -> str:
    """Return code as HTML; a line is not broken within a command's option, which browsers do after each dash."""
    words = (html.escape(word) for word in text.split(" "))
    return f"<code>{' '.join(f'<span>{word}</span>' if word.startswith('-') else word for word in words)}</code>"


def _breakable(text: str) -> str:
    """Return a column's name as HTML that may be broken after the dots and slashes of a dotted name."""
    if "`" in text:
        return rich_text(text)
    return re.sub(r"([./])(?=\w)", r"\1<wbr>", html.escape(text))


def _alignment(entry: Entry) -> str:
    return "number best" if isinstance(entry, Number) and entry.strong else "number"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _quoted(part: str) -> str:
    from urllib.parse import quote

    return quote(part)


def without_reload(path: Path) -> None:
    """Make a page that was written stay as it is: a browser loads it once more and then no more."""
    text = path.read_text(encoding="utf-8")
    if (found := _RELOAD.search(text)) is not None:
        _replace(path, text[: found.start()] + text[found.end() :])


_RELOAD = re.compile(r'<meta http-equiv="refresh" content="\d+">')


def _reload(seconds: float | None) -> str:
    return "" if seconds is None else f'<meta http-equiv="refresh" content="{max(1, round(seconds))}">'


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
