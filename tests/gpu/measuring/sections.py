"""The sections in their order, with their share of the time and the columns of their tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MB = 1e6


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: Its name in the JSON, and on the command line.
        module: Its module, whose ``measure`` yields its rows.
        title: The heading of its table.
        share: Its part of the time.
        columns: Heading → what a row shows there.
    """

    name: str
    module: str
    title: str
    share: float
    columns: dict[str, Callable[[dict[str, Any]], str]]


def verdict(row: dict[str, Any]) -> str:
    """Return whether a row that is checked is right."""
    return {True: "yes", False: "NO"}.get(row.get("right"), "")  # type: ignore[arg-type]


def time_of(found: dict[str, Any] | None) -> str:
    """Return a spread of seconds, as milliseconds where they are few: median (lowest-highest)."""
    if found is None:
        return ""
    unit, scale = ("ms", 1e3) if found["median"] < 1.0 else ("s", 1.0)
    middle, low, high = (three_figures(scale * found[name]) for name in ("median", "min", "max"))
    return f"{middle} ({low}-{high}) {unit}"


def three_figures(value: float) -> str:
    """Return a number with three figures, without an exponent where it is from 0.01 on."""
    if 0.01 <= abs(value) < 1000.0:
        return f"{value:.3g}" if abs(value) < 100.0 else f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 1000.0 else f"{value:.1e}"


def _replayed(row: dict[str, Any]) -> str:
    differing = row["differing"]
    return f"{len(differing)}: {differing[0]}" if differing else "0"


def _rate(row: dict[str, Any]) -> str:
    whole = three_figures(row["seconds"]) + " s"
    return whole if row["epochs"] == row["of"] else f"{whole} (by {row['epochs']})"


def _goal(row: dict[str, Any]) -> str:
    if row.get("goal") is None:
        return ""
    return f"{row['goal']:g} s: {'yes' if row['seconds'] <= row['goal'] else 'missed'}"


SECTIONS = (
    Section(
        "correctness",
        "measuring.correctness",
        "Beside the CPU: the first loss, and what is changed or predicted",
        0.14,
        {
            "": lambda row: row["name"],
            "loss, error": lambda row: "" if row["loss_error"] is None else f"{row['loss_error']:.1e}",
            "values, error": lambda row: f"{row['error']:.1e}",
            "tolerance": lambda row: f"{row['tolerance']:g}",
            "right": verdict,
        },
    ),
    Section(
        "replay",
        "measuring.replays",
        "The same trial twice, in two processes",
        0.14,
        {
            "": lambda row: row["name"],
            "files": lambda row: str(row["files"]),
            "metrics": lambda row: str(row["metrics"]),
            "differing": _replayed,
            "right": verdict,
        },
    ),
    Section(
        "evaluation",
        "measuring.evaluation",
        "Evaluation: 100 images, DSA's augmentation, ConvNet-3",
        0.14,
        {
            "": lambda row: row["name"],
            "ddcal": lambda row: _rate(row) if "epochs" in row else time_of(row["own"]),
            "plain torch": lambda row: time_of(row.get("plain")),
            "MB": lambda row: f"{row['own_bytes'] / MB:.0f}" if "own_bytes" in row else "",
            "goal": _goal,
        },
    ),
    Section(
        "steps",
        "measuring.steps",
        "An iteration, 10 classes of 10, width 128, beside plain torch",
        0.22,
        {
            "": lambda row: row["name"],
            "ddcal": lambda row: time_of(row["own"]),
            "plain torch": lambda row: time_of(row["plain"]),
            "MB": lambda row: f"{row['own_bytes'] / MB:.0f}",
            "plain MB": lambda row: f"{row['plain_bytes'] / MB:.0f}",
        },
    ),
    Section(
        "modes",
        "measuring.modes",
        "TF32 and compiled loops beside float32",
        0.16,
        {
            "": lambda row: row["name"],
            "takes": lambda row: time_of(row["seconds"]),
            "faster": lambda row: f"{row['times_faster']:.2f}",
            "first call": lambda row: "" if row["first"] is None else f"{three_figures(row['first'])} s",
        },
    ),
    Section(
        "waits",
        "measuring.waits",
        "What an iteration makes the host wait for, and kernels",
        0.08,
        {
            "": lambda row: row["name"],
            "waits": lambda row: str(row["waits"]),
            "to the GPU": lambda row: str(row["to_device"]),
            "from it": lambda row: str(row["to_host"]),
            "kernels": lambda row: str(row["kernels"]),
            "GPU busy": lambda row: "" if row["busy"] is None else f"{100 * row['busy']:.0f} %",
        },
    ),
    Section(
        "packing",
        "measuring.packing",
        "Trials on one GPU: one after the other, and side by side",
        0.12,
        {
            "": lambda row: row["name"],
            "one by one": lambda row: time_of(row["one_by_one"]),
            "side by side": lambda row: time_of(row["side_by_side"]),
            "faster": lambda row: f"{row['times_faster']['median']:.2f}",
            "MB each": lambda row: f"{row['reserved_bytes'] / MB:.0f}",
        },
    ),
)
