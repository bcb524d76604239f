"""What a prompt and a notebook show of a study and a trial: a line, and a small page with pictures. No torch."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal.config.calibrations import reported
from ddcal.config.places import is_url
from ddcal.errors import BadInput, StoreError
from ddcal.pipeline.compute.diagram import DIAGRAM
from ddcal.study.record.chance import chance_warning
from ddcal.untrusted import Untrusted, read_bytes

if TYPE_CHECKING:
    from ddcal.study.record.results import StudyResults, Trial

SHOWN_METRICS = {"ece": "ECE", "nll": "NLL", "accuracy": "accuracy"}
FIGURES = ("pareto.png", "history.png", "importance.png")
DISTILLED = "distilled.png"
MOST_BYTES = 2_000_000
"""A larger picture is left out: it would be kept in the notebook's file."""


class ShownTrial:
    """A trial's line, and its page: its values, its calibrations, its reliability diagram and distilled images."""

    def __repr__(self: Trial) -> str:  # type: ignore[misc]
        metrics = self.metrics or {}
        shown = "".join(f", {name} {metrics[name]:.4g}" for name in ("val/nll", "val/ece") if name in metrics)
        return f"<Trial {self.trial_key}: {self.outcome or 'unfinished'}{shown}>"

    def _repr_html_(self: Trial) -> str:  # type: ignore[misc]
        metrics = self.metrics or {}
        split = "test" if "test/ece" in metrics else "val"
        rows = []
        own = self.config.calibrate.method if split == "test" else "not calibrated yet"
        for name, prefix in reported(own).items():
            if f"{split}/{prefix}ece" in metrics:
                label = f"{name} (this trial)" if split == "test" and not prefix else name
                rows.append([label, *(metrics.get(f"{split}/{prefix}{metric}") for metric in SHOWN_METRICS)])
        warning = chance_warning(self)
        return "".join(
            (
                _paragraph(f"<b>{_text(self.trial_key)}</b>: {_text(self.outcome or 'unfinished')}"),
                _paragraph(_text(self.error)) if self.error else "",
                _table(("name", "value"), [[name, value] for name, value in self.values.items()]),
                _table((f"on {split}", *SHOWN_METRICS.values()), rows) if rows else "",
                _paragraph(_text(warning)) if warning else "",
                *_pictures(_trial_pictures(self)),
            )
        )


class ShownStudy:
    """A study's line, and its page: how it ended, its front, its winner and its pictures."""

    def __repr__(self: StudyResults) -> str:  # type: ignore[misc]
        finished = sum(trial.outcome is not None for trial in self.records)
        best = self.best
        winner = "no winner" if best is None else f"winner {best.trial_key}"
        return f"<Study {self.study.name}: {finished} of {self.study.search.trials} trials finished, {winner}>"

    def _repr_html_(self: StudyResults) -> str:  # type: ignore[misc]
        best = self.best
        names = list(dict.fromkeys((*self.study.objectives, "val/nll", "test/ece")))
        rows = []
        for trial in self.pareto:
            mark = " (winner)" if best is not None and trial.number == best.number else ""
            values = [trial.values.get(name) for name in self.study.space]
            rows.append([trial.trial_key + mark, *values, *((trial.metrics or {}).get(name) for name in names)])
        folder = self.directory / "figures"
        return "".join(
            (
                _paragraph(_text(repr(self).strip("<>"))),
                _paragraph(_text(self.study.description)) if self.study.description else "",
                _table(("Pareto front", *self.study.space, *names), rows) if rows else "",
                _paragraph(_text(self.no_winner)) if best is None else "",
                *_pictures(folder / name for name in FIGURES),
            )
        )


def _trial_pictures(trial: Trial) -> Iterable[Path]:
    """Yield a trial's pictures that lie on this machine: none is drawn, none is fetched."""
    from ddcal.store.opening import open_store

    if trial.home is None or trial.keys is None:
        return
    directory, store = trial.home
    if trial.keys.get("evaluate", "").isalnum() and store and not is_url(store) and Path(store).is_dir():
        try:
            diagram = open_store(store).file("evaluate", trial.keys["evaluate"], DIAGRAM)
        except (BadInput, StoreError, OSError):
            diagram = None
        if diagram is not None:
            yield diagram
    if trial.keys.get("distill", "").isalnum():
        yield directory / "figures" / "distilled" / trial.keys["distill"][:16] / DISTILLED


def _pictures(paths: Iterable[Path]) -> Iterable[str]:
    for path in paths:
        try:
            data = base64.b64encode(read_bytes(path, MOST_BYTES)).decode()
        except (OSError, Untrusted):
            continue
        yield f'<img alt="{_text(path.stem)}" style="max-width: 100%" src="data:image/png;base64,{data}"><br>'


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = ["".join(f"<th>{_text(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _paragraph(content: str) -> str:
    return f"<p>{content}</p>"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
