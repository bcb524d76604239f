"""The token that protects a Ray: nobody but its owner may read it, since whoever has it runs code on the cluster."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import uuid
from pathlib import Path

from ddcal.errors import ResourceError

logger = logging.getLogger(__name__)

FILE_RIGHTS, FOLDER_RIGHTS = 0o600, 0o700


def token_file() -> Path | None:
    """Return the file that Ray reads its token from; None if the token itself is in the environment."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def guard_token(*, make: bool) -> None:
    """See to it that the token file is its owner's alone, before Ray reads or makes it.

    Ray itself writes the file with the rights that the umask leaves, mostly readable for everybody. A file of this
    user is tightened; one of somebody else, for example a mounted secret, must not be readable for everybody.

    Args:
        make: Make the file if Ray would: where a Ray is about to start on this machine.

    Raises:
        ResourceError: naming the file and the command that mends it.
    """
    path = token_file()
    if path is None:
        return
    ours = not os.environ.get("RAY_AUTH_TOKEN_PATH")  # the default place: Ray makes none elsewhere
    if make and ours and not path.exists():
        _make(path)
    try:
        status = path.stat()
    except OSError:  # Ray says what it misses
        return
    if status.st_uid != os.geteuid():
        if status.st_mode & stat.S_IRWXO:
            raise ResourceError(
                f"{path}: every user of this machine can read this token, and whoever has it can run code as you; it "
                f"belongs to another user (uid {status.st_uid}), who can mend that: chmod o-rwx {path}"
            )
        return
    _tighten(path, FILE_RIGHTS)
    if ours:
        _tighten(path.parent, FOLDER_RIGHTS)


def _make(path: Path) -> None:
    """Write a new token as Ray would (64 hexadecimal digits); one that another process makes meanwhile stays."""
    try:
        path.parent.mkdir(mode=FOLDER_RIGHTS, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_RIGHTS)
        try:
            with open(descriptor, "w") as stream:
                stream.write(secrets.token_hex(32))
                stream.flush()
                os.fsync(descriptor)
            try:
                os.link(temporary, path)  # whole from the first moment on
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{path}: the token that protects Ray cannot be written: {error.strerror or error}; "
            "name another file in RAY_AUTH_TOKEN_PATH, or give the token itself in RAY_AUTH_TOKEN"
        ) from error


def _tighten(path: Path, rights: int) -> None:
    status = path.stat()
    if status.st_uid != os.geteuid() or not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    try:
        path.chmod(rights)
    except OSError as error:
        raise ResourceError(
            f"{path}: other users can reach this token of Ray, and whoever has it can run code as you; its rights "
            f"cannot be changed here ({error.strerror or error}): chmod {rights:o} {path}"
        ) from error
    logger.warning("%s: other users could reach it; its rights are %o now", path, rights)
