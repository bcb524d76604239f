"""Components that a config names: ddcal's own, and those of a user, by import path or by entry point.

A user's backbone, calibrator or network needs no change of ddcal: its name in a config is an import path
(``my_lab.herding:SPEC``), or the name of an entry point in the group ``ddcal.backbones``, ``ddcal.calibrators`` or
``ddcal.networks``. Importing it runs the code of a package that is installed here, as any import does.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from ddcal.config.problems import suggestion
from ddcal.errors import BadInput

Kind = Literal["backbone", "calibrator", "network", "dataset"]
T = TypeVar("T")


class ComponentError(BadInput):
    """A name that is no component of its kind; the message says what is missing and what would be right."""


def find_component(kind: Kind, name: str, known: Mapping[str, T], of: type[T]) -> T:
    """Return the component that a config names.

    Args:
        kind: What it is, for the messages and the group of entry points.
        name: One of ``known``, an import path ``package.module:NAME``, or the name of an entry point.
        known: ddcal's own: name → component.
        of: What a component of this kind is an instance of.

    Raises:
        ComponentError: if there is none of that name, its package is missing, or it is something else.
    """
    if name in known:
        return known[name]
    path = name if ":" in name else _entry_points(kind).get(name)
    if path is None:
        names = [*known, *_entry_points(kind)]
        raise ComponentError(
            f"{name!r} is no {kind}: it must be one of {', '.join(names)}, or the import path of your own "
            f"(package.module:NAME){suggestion(name, names)}"
        )
    found = imported_object(kind, name, path)
    if not isinstance(found, of):
        raise ComponentError(
            f"{name!r} is no {kind}: it is of type {type(found).__name__}, and must be a {of.__name__}"
        )
    return found


@functools.cache  # what was imported is what computes, whatever happens to the file later
def source_of(kind: Kind, name: str, *others: str) -> dict[str, Any]:
    """Return what tells one version of a user's component from another: part of stage keys and of exports.

    Nothing is imported.

    Args:
        kind: What it is.
        name: As in a config.
        others: Import paths of what belongs to it and may lie in other modules.

    Returns:
        ``path`` (the import path), ``others``, ``sha256`` of the source of all their modules in hex, and, where a
        package is installed, ``package`` and ``version``.

    Raises:
        ComponentError: if a module cannot be found.
    """
    path = name if ":" in name else _entry_points(kind).get(name, name)
    module = path.partition(":")[0]
    digest = hashlib.sha256()
    for one in dict.fromkeys(place.partition(":")[0] for place in (path, *others) if place):
        source = _source(one)
        if source is None:
            raise ComponentError(
                f"{name!r}: there is no {one} here: install the package of this {kind}, or put its folder on PYTHONPATH"
            )
        digest.update(source)
    told = {"path": path, "others": list(others), "sha256": digest.hexdigest()}
    package = packages_distributions().get(module.partition(".")[0])
    return told | ({"package": package[0], "version": version(package[0])} if package else {})


def _source(module: str) -> bytes | None:
    """Return the source of a module, b"" of one that has none, and None if there is no such module."""
    found, folders, parts = None, None, module.split(".")
    for size in range(1, len(parts) + 1):
        name = ".".join(parts[:size])
        found = next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, folders))), None)
        if found is None:
            return None
        folders = found.submodule_search_locations
    file = found.origin if found is not None else None
    return Path(file).read_bytes() if file and Path(file).is_file() else b""


@functools.cache
def _entry_points(kind: Kind) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"ddcal.{kind}s")}


def is_imported(kind: Kind, name: str) -> bool:
    """Return whether asking for a user's component would run no code: its module is imported already."""
    path = name if ":" in name else _entry_points(kind).get(name, "")
    return path.partition(":")[0] in sys.modules


def imported_object(kind: Kind, name: str, path: str) -> Any:
    """Return what an import path ``package.module:NAME`` names.

    Args:
        kind: What it belongs to, for the messages.
        name: What a config calls that.
        path: The import path.

    Raises:
        ComponentError: if the module cannot be imported or has nothing of that name.
    """
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ComponentError(
            f"{name!r}: {module} cannot be imported ({error}): install the package of this {kind}, or put its folder "
            "on PYTHONPATH"
        ) from error
    except Exception as error:
        raise ComponentError(f"{name!r}: {module} cannot be imported ({type(error).__name__}: {error})") from error
    try:
        return functools.reduce(getattr, attribute.split("."), found)
    except AttributeError as error:
        raise ComponentError(f"{name!r}: {module} has no {attribute}") from error
