"""Paths in a study: relative to its file, and in what a study writes below its output root relative to its folder.

So a study file works from any folder, and a root that was moved or copied is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.config.datasets import is_data_place
from ddcal.config.places import is_url

TRIAL_PLACES = ("data.root", "distill.file.images", "distill.file.labels")
NAMES_OR_PLACES = "evaluate.shift.datasets"
"""A list in which what is no dataset's name is a path."""

NO_TEXT = ("", "none", "null", "nil", "false", "no", "off")
"""What other languages write for nothing."""

SQLITE = "sqlite:///"

Change = Callable[[str], str]
"""Path → the same place said in another way."""


def from_folder(folder: Path | str) -> Change:
    """Return a change that makes relative paths, those of ``folder``, absolute; URLs stay."""
    start = os.path.abspath(folder)

    def change(path: str) -> str:
        expanded = os.path.expanduser(path)
        if is_url(path) or path.strip().lower() in NO_TEXT or os.path.isabs(expanded):
            return expanded
        whole = os.path.join(start, expanded)
        plain = os.path.normpath(whole)  # not where a link leads to other parents
        return plain if os.path.realpath(plain) == os.path.realpath(whole) else whole

    return change


def within(root: Path, folder: Path) -> Change:
    """Return a change that makes absolute paths below ``root`` relative to ``folder``, which is below it."""

    def change(path: str) -> str:
        if not os.path.isabs(path) or not Path(path).is_relative_to(root):
            return path
        relative = os.path.relpath(path, folder)
        return f"./{relative}" if relative.startswith("~") else relative

    return change


def with_trial_paths(trial: Any, change: Change, before: str = "") -> Any:
    """Return a (partial) trial's values, nested or dotted, with its paths changed; anything else stays as it is."""
    if not isinstance(trial, dict):
        return trial
    changed = {}
    for key, value in trial.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            changed[key] = with_trial_paths(value, change, f"{name}.")
        else:
            changed[key] = _changed_of(name, value, change)
    return changed


def with_study_paths(study: dict[str, Any], change: Change, *, space: bool = True) -> dict[str, Any]:
    """Return a study's values with its paths changed; what is not of the right type stays as it is.

    Args:
        study: As a study file has it; whatever else it holds is not looked at.
        change: What to do with a path.
        space: Whether paths that are searched are changed, too: not in a study that has begun, whose journal has them.
    """
    changed = {**study, "base": with_trial_paths(study.get("base"), change)}
    if isinstance(storage := study.get("storage"), dict):
        places = {name: _changed(storage[name], change) for name in ("output", "store", "cache") if name in storage}
        changed["storage"] = storage | places
    if isinstance(tracking := study.get("tracking"), dict) and "uri" in tracking:
        changed["tracking"] = tracking | {"uri": _with_uri(tracking["uri"], change)}
    if space and isinstance(domains := study.get("space"), dict):
        changed["space"] = {name: _with_domain(name, domain, change) for name, domain in domains.items()}
    search = study.get("search")
    if space and isinstance(search, dict) and isinstance(search.get("enqueue"), list | tuple):
        changed["search"] = search | {"enqueue": [with_trial_paths(one, change) for one in search["enqueue"]]}
    return {name: value for name, value in changed.items() if name in study}


def _with_domain(name: str, domain: Any, change: Change) -> Any:
    if not isinstance(domain, dict):
        return domain
    changed = dict(domain)
    if "choice" in domain:
        changed["choice"] = _changed_of(name, domain["choice"], change)
    if isinstance(when := domain.get("when"), dict):
        changed["when"] = with_trial_paths(when, change)
    return changed


def _with_uri(uri: Any, change: Change) -> Any:
    path = uri.removeprefix(SQLITE) if isinstance(uri, str) else ""
    if path == uri or path in ("", ":memory:") or path.startswith("file:"):
        return uri
    return f"{SQLITE}{change(path)}"


def _changed_of(name: str, value: Any, change: Change) -> Any:
    """Return the value of a setting of a trial, changed if it is a path."""
    if name == NAMES_OR_PLACES:
        return _changed(value, lambda entry: change(entry) if is_data_place(entry) else entry)
    return _changed(value, change) if name in TRIAL_PLACES else value


def _changed(value: Any, change: Change) -> Any:
    if isinstance(value, list | tuple):
        return [_changed(one, change) for one in value]
    return change(value) if isinstance(value, str) else value
