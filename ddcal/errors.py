"""Errors that several floors raise and that have a meaning of their own for a trial's outcome.

No message of theirs holds a password: addresses are masked as it is made.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from ddcal.credentials import masked

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
LOST = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN})

GO_ON = 75
"""Exit code (``EX_TEMPFAIL``) of a study that a scheduler stopped and that goes on when it is started again."""

MAKE_WRITABLE = "make it writable"


def printable(text: str) -> str:
    """Return text without what a terminal would obey: control characters of names that somebody else chose."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """Return `printable` text with its line breaks spelt out: names of files and names in them are anybody's."""
    return printable(text).replace("\n", "\\n")


def cut(text: str, most: int) -> str:
    """Return text in at most so many characters; of a longer one the middle is left out: a path ends with a name."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: most - 3 - end]}...{text[len(text) - end :]}"


class BadInput(ValueError):
    """The user gave something that cannot be used; the message says what and what would be right (exit code 2)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(printable(message)))


class DivergedError(ArithmeticError):
    """A loss or a learned value is not finite or has exploded; the message says where and which setting to lower."""


class Terminated(KeyboardInterrupt):
    """A signal other than SIGINT ended the program, in the way in which Ctrl-C does.

    Attributes:
        signum: The signal's number.
        exit_code: What the program is to end with: `GO_ON` where it has saved everything and is to be started again,
            else 128 more than the signal's number.
    """

    def __init__(self, signum: int, *, goes_on: bool = False) -> None:
        """Note the signal, and whether the same command goes on with the work."""
        super().__init__(signum)
        self.signum = signum
        self.exit_code = GO_ON if goes_on else 128 + signum


class StoreError(RuntimeError):
    """A place where results are kept cannot be read or written; the message names the path and the cause.

    It is no trial's fault: it stops a study, which goes on when the place takes something again.
    """

    def __init__(self, message: str, cure: str | None = None) -> None:
        """Say what is wrong; without ``cure`` it follows from the `OSError` that is the cause."""
        super().__init__(masked(printable(message)))
        self._cure = cure

    @property
    def cure(self) -> str:
        """Return what to do first."""
        return self._cure or cure_of(disk_error(self, FULL | REFUSED | LOST))


class TrackingError(RuntimeError):
    """MLflow cannot be reached or refuses; the message names the URI and the cause."""

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(printable(message)))


class ResourceError(BadInput):
    """Something was asked of a machine or cluster that it does not have; the message names the key and the value."""


def disk_error(error: BaseException, kinds: frozenset[int] = FULL | LOST | {errno.EROFS}) -> OSError | None:
    """Return the OSError of these kinds behind an error (itself, or a cause of it), or None.

    By default: those by which a place takes nothing more from anybody, whatever wrote there.
    """
    return next((one for one in _chain(error) if isinstance(one, OSError) and one.errno in kinds), None)


NO_MEMORY = ("cannot allocate memory", "failed to map segment", "not enough memory", "can't allocate memory")
"""What the loader, the kernel and torch say where a limit on memory is too low, in whichever kind of error."""


def memory_error(error: BaseException) -> BaseException | None:
    """Return the error behind an error that says that this process, or one that it started, gets no memory; or None."""
    for one in _chain(error):
        told = isinstance(one, ImportError | OSError | RuntimeError) and any(t in str(one).lower() for t in NO_MEMORY)
        if isinstance(one, MemoryError) or told or (isinstance(one, OSError) and one.errno == errno.ENOMEM):
            return one
    return None


def cure_of(error: OSError | None) -> str:
    """Return what to do about a place that takes nothing."""
    if error is not None and error.errno in FULL:
        return "free space there (`df -h`, or `df -i` if there are too many files)"
    if error is not None and error.errno in REFUSED:
        return MAKE_WRITABLE
    return "see that it can be read and written again"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
