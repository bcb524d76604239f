"""Studies beside each other: what they searched, what their winners reach, and whether that can be compared."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddcal.config import TrialConfig, resolve
from ddcal.config.checks.notes import has_effect, probe_bins
from ddcal.config.trial import flatten
from ddcal.errors import BadInput
from ddcal.study.record.confirmation import confirmed_word
from ddcal.study.record.ledger import LEDGER, begun
from ddcal.study.record.results import UNREADABLE, WINNER_METRIC, StudyResults, Trial, load_study

TEST_FACTS = {
    "test accuracy": "accuracy",
    "test ECE": "ece",
    "test NLL": "nll",
}

FRESH = "fresh seeds "
"""Of a confirmation: a metric's mean; its 95 % interval has the same name with `ENDS`."""

ENDS = (" low", " high")

GROUPS = ("", "searched ", "val/", "test ", FRESH)
"""How facts' names begin, in the order of the table."""


@dataclass(frozen=True)
class Comparison:
    """Studies beside each other.

    Attributes:
        facts: Study's label → fact → value (text, number, or None where a study does not have it); every study has
            the same facts in the same order.
        warnings: Why numbers of these studies cannot be compared, a sentence each.
    """

    facts: dict[str, dict[str, Any]]
    warnings: list[str]


def find_studies(places: Sequence[Path]) -> list[StudyResults]:
    """Return the studies at ``places``, each a study's folder or an output root that has some; none twice.

    Confirmations (`ddcal confirm`) are folded into the study whose leaders they run: it has what they found. In an
    output root, what a driver has left that was killed as it began is passed over.

    Raises:
        BadInput: if a place is neither, or is the confirmation of a study that is not beside it.
    """
    found: dict[Path, StudyResults] = {}
    for place in places:
        if (place / LEDGER).is_file():
            there = [_confirmed_study(load_study(place), place)]
        else:
            folders = sorted(path.parent for path in place.glob(f"*/{LEDGER}") if begun(path.parent))
            there = [results for folder in folders if (results := load_study(folder)).confirms is None]
        if not there:
            raise BadInput(f"{place} is not a study's folder (it has no {LEDGER}), nor an output root with studies")
        for results in there:
            found.setdefault(results.directory.resolve(), results)
    return list(found.values())


def _confirmed_study(results: StudyResults, place: Path) -> StudyResults:
    """Return the study that a confirmation confirms; any other as it is."""
    if results.confirms is None:
        return results
    folder = results.directory.parent / results.confirms
    if not (folder / LEDGER).is_file():
        raise BadInput(f"{place} is the confirmation of {results.confirms}, which is not beside it: compare that study")
    return load_study(folder)


def compare_studies(studies: Sequence[StudyResults]) -> Comparison:
    """Return the facts of studies beside each other, and why they cannot be compared."""
    labels = _labels(studies)
    searched = dict.fromkeys(name for results in studies for name in results.study.space)
    facts = {label: _facts(results, searched) for label, results in zip(labels, studies, strict=True)}
    names: list[str] = []
    for group in GROUPS:
        for one in facts.values():
            names += [n for n in one if n not in names and (_group(n) == group)]
    complete = {label: {name: one.get(name) for name in names} for label, one in facts.items()}
    return Comparison(complete, _warnings(labels, studies))


def shown_facts(found: Comparison) -> dict[str, dict[str, str]]:
    """Return study's label → fact → its value as text; the ends of an interval stand beside what it is of."""
    return {
        label: {
            name.removeprefix("searched "): _shown(one, name)
            for name in one
            if not (name.startswith(FRESH) and name.endswith(ENDS))
        }
        for label, one in found.facts.items()
    }


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the facts as CSV, one row a study."""
    rows = [{"label": label, **one} for label, one in found.facts.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise BadInput(f"--csv {path}: cannot be written: {error.strerror or error}") from error


def _labels(studies: Sequence[StudyResults]) -> list[str]:
    """Return the studies' names, with their output root's where two have the same."""
    names = Counter(results.study.name for results in studies)
    labels: list[str] = []
    for results in studies:
        name = results.study.name
        label = name if names[name] == 1 else f"{results.directory.parent.name}/{name}"
        if label in labels:
            label = str(results.directory)
        labels.append(label)
    return labels


def _group(name: str) -> str:
    return next((prefix for prefix in GROUPS[1:] if name.startswith(prefix)), "")


def _facts(results: StudyResults, searched: Iterable[str]) -> dict[str, Any]:
    """Return what a study is compared by, with its winner's value of each name that it or another one searched."""
    best = results.best
    outcomes = Counter(trial.outcome or "unfinished" for trial in results.records)
    facts: dict[str, Any] = {
        "trials": "\n".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none",
        "seconds": None if results.seconds is None else round(results.seconds, 1),
        "winner": None if best is None else best.trial_key,
        "confirmed": None if best is None else confirmed_word(results.confirmed(best)),
        "fresh seeds": None,
    }
    if best is None:
        return facts
    config, metrics = _config(best), best.metrics or {}
    probed = results.study.trial == "distill"  # a probe is not calibrated
    facts["calibration"] = None if config is None or probed else config.calibrate.method
    fixed = {} if config is None else _fixed(config, [name for name in searched if name not in results.study.space])
    facts |= {
        f"searched {name}": (best.values if name in results.study.space else fixed).get(name) for name in searched
    }
    facts |= {name: metrics.get(name) for name in dict.fromkeys((*results.study.objectives, WINNER_METRIC))}
    for fact, metric in TEST_FACTS.items():
        if metric == "accuracy":
            facts[fact] = metrics.get(f"test/{metric}")
            continue
        facts |= {f"{fact} raw": metrics.get(f"test/raw/{metric}"), f"{fact} calibrated": metrics.get(f"test/{metric}")}
        if metric == "ece":
            facts[f"{fact} noise floor"] = metrics.get("test/ece_noise_floor")
    for one in results.confirmed(best) or ():
        facts["fresh seeds"] = one["seeds"]
        ends = zip(("", *ENDS), (one["mean"], one["low"], one["high"]), strict=True)
        facts |= {f"{FRESH}{one['metric']}{end}": value for end, value in ends}
    return facts


def _fixed(config: TrialConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return the values that a trial has of names which its study did not search; of those that it reads alone."""
    try:
        values = flatten(resolve(config).model_dump(mode="json")) if names else {}
        return {name: values[name] for name in names if name in values and has_effect(config, name)}
    except (BadInput, *UNREADABLE):  # the package of a user's own component is not here
        return {}


def _config(trial: Trial) -> TrialConfig | None:
    try:
        return trial.config
    except BadInput:  # a study of another ddcal
        return None


def _warnings(labels: Sequence[str], studies: Sequence[StudyResults]) -> list[str]:
    identities = {label: _identity(results) for label, results in zip(labels, studies, strict=True)}
    warnings = []
    for fact in next(iter(identities.values()), {}):
        values = {label: one[fact] for label, one in identities.items() if one[fact] is not None}
        if len(set(values.values())) > 1:
            by_value: dict[str, list[str]] = {}
            for label, value in values.items():
                by_value.setdefault(str(value), []).append(label)
            shown = "; ".join(f"{value} ({', '.join(who)})" for value, who in by_value.items())
            warnings.append(f"{fact} differ: {shown}")
    return warnings


def _identity(results: StudyResults) -> dict[str, str | None]:
    """Return what must be the same for two studies' numbers to be compared, of the winner or the first trial."""
    trial: Trial | None = results.best or next((t for t in results.records if t.fingerprint), None)
    environment = results.started.get("environment", {})
    facts: dict[str, str | None] = {
        "networks measured": "the probe of a distilled set" if results.study.trial == "distill" else "trained networks",
        "devices": environment.get("device"),
        "precisions": environment.get("precision"),
        "settings of compile": str(environment.get("compile", False)).lower(),
    }
    config = None if trial is None else _config(trial)
    names = ("datasets", "val splits", "test images", "ECE bins", "networks a trial")
    if trial is None or config is None:
        return facts | dict.fromkeys(names)
    data, bins, probes = config.data, config.evaluate.bins, results.study.trial == "distill"
    fingerprint = (trial.fingerprint or "")[:8]
    side = f" at {data.resolution} px" if data.resolution else ""
    identity = (
        f"{data.name} {fingerprint}".strip(),
        f"{data.resolved_validation_fraction:g} of the training images of {data.name}",
        f"test of {data.name} {fingerprint}{side}",
        str(probe_bins(bins) if probes else bins),
        None if probes else str(config.train.networks),
    )
    return facts | dict(zip(names, identity, strict=True))


def _shown(facts: dict[str, Any], name: str) -> str:
    """Return a fact as the table has it, the mean over fresh seeds with its interval."""
    low, high = (facts.get(name + end) for end in ENDS)
    interval = f" [{_cell(low)}, {_cell(high)}]" if name.startswith(FRESH) and low is not None else ""
    return _cell(facts[name]) + interval


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
