"""Whether the datasets that a trial names as out of its distribution are such."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ddcal.config.datasets import DATASETS, is_data_place, other_label
from ddcal.config.problems import suggestion

if TYPE_CHECKING:
    from ddcal.config.trial import TrialConfig

KEY = "evaluate.shift.datasets"

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What metrics may be called after a dataset."""


def shift_problems(trial: TrialConfig) -> list[str]:
    """Return what is wrong with ``evaluate.shift.datasets``, each as a sentence that names the key."""
    problems, labels = list[str](), dict[str, str]()
    named = tuple(name for name, spec in DATASETS.items() if not spec.root)
    for entry in trial.evaluate.shift.datasets:
        label = other_label(entry)
        if not is_data_place(entry) and entry not in named:
            problems.append(
                f"{KEY} has {entry!r}; it must be one of {', '.join(named)}, or the path of an .npz or of a folder of "
                f"images that holds train/ and test/ (./PATH){suggestion(entry, named)}"
            )
        elif entry == (trial.data.root if is_data_place(entry) else trial.data.name):
            problems.append(f"{KEY} has {entry!r}, on which the trial is trained: name other data")
        elif not _LABEL.fullmatch(label):
            problems.append(
                f"{KEY} has {entry!r}, after which metrics are called: rename it, to letters, digits, '-', '_' and '.'"
            )
        elif label in labels:
            other = "twice" if labels[label] == entry else f"and {labels[label]!r}, which metrics would call the same"
            problems.append(f"{KEY} has {entry!r} {other}: keep one, or rename it")
        labels.setdefault(label, entry)
    return problems
