"""Who may read what a study writes: its user alone, a group, or whoever the umask lets (``storage.access``).

Rights are given as folders are made, and a folder keeps out whoever may not enter it, whatever is in it. What is there
already keeps the rights that it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ddcal.config.study import Access
from ddcal.errors import REFUSED, BadInput

_GROUP = 0o070
_SETGID = 0o2000  # what is made inside belongs to the folder's group


def make_folder(folder: Path, access: Access, *, shared: bool = False) -> None:
    """Make a folder with the rights that ``storage.access`` gives it; one that is there keeps its own.

    Args:
        folder: The folder.
        access: Who is to have it.
        shared: Whether other studies and users use it too: it is open as far as the umask lets.

    Raises:
        OSError: if it cannot be made, except where it is there.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(0o700 if access == "private" and not shared else 0o777)
    except FileExistsError:
        return
    if access == "group":
        rights = folder.stat().st_mode & 0o777 if shared else 0o700
        folder.chmod(rights | _GROUP | _SETGID)


def file_rights(access: Access) -> int | None:
    """Return the rights of a file that lies beside other studies'; None: as the umask lets."""
    return {"private": 0o600, "group": 0o660}.get(access)


def let_group_write() -> int:
    """Let the group write what this process makes from now on, and return the umask as it was."""
    before = os.umask(0o077)
    os.umask(before & ~_GROUP)
    return before


@contextmanager
def as_access_says(access: Access) -> Iterator[None]:
    """Make files that the group may write meanwhile, if ``storage.access`` says so."""
    if access != "group":
        yield
        return
    before = let_group_write()
    try:
        yield
    finally:
        os.umask(before)


def where_allowed(write: Callable[[], None]) -> bool:
    """Write, and return whether that was allowed: many may look at a study who may not write into its folder.

    Raises:
        OSError: for any other reason why it cannot be written.
    """
    try:
        write()
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return False
    return True


@contextmanager
def or_elsewhere(option: str) -> Iterator[None]:
    """Say which option takes a folder of one's own, where one may not write.

    Raises:
        BadInput: instead of an OSError by which that is refused.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise BadInput(f"{error.filename}: {error.strerror}: give a folder of your own with {option}") from error
