"""Who holds a lock or a lease: a process, and whether it is proved to have ended."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from ddcal.untrusted import parse_json

GONE, UNKNOWN = -1, 0
EXTRA = frozenset({"token", "job"})
"""What a lease and a driver's lock say besides."""
MAX_TEXT = 10_000
"""How large the text is at most that names a holder."""


@dataclass(frozen=True)
class Holder:
    """A process on a machine since its last boot.

    Attributes:
        host: The machine's name.
        boot: An identifier of the machine's present boot.
        pid: The process id.
        started: When the process started, in clock ticks since boot: tells a process id that was given out again.
        namespace: In which space of process ids that is: containers of one machine have their own.
    """

    host: str
    boot: str
    pid: int
    started: int
    namespace: str = ""

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        return cls(socket.gethostname(), _boot_id(), os.getpid(), _start_ticks(os.getpid()), _namespace())

    @classmethod
    def parse(cls, content: bytes | str) -> Holder:
        """Return the process that a lock or a lease names.

        Raises:
            ValueError: if it names none, saying what is wrong.
        """
        values = parse_json(content, max_bytes=MAX_TEXT)
        fields = {"host": str, "boot": str, "pid": int, "started": int, "namespace": str}
        if not isinstance(values, dict):
            raise ValueError("is not a mapping")
        values = {"namespace": "", **values}
        for name, kind in fields.items():
            if type(values.get(name)) is not kind:
                raise ValueError(f"has no {name}")
        if values.keys() - fields.keys() - EXTRA or values["pid"] < 1:
            raise ValueError("has keys or values that no holder has")
        return cls(**{name: values[name] for name in fields})

    @property
    def dead(self) -> bool:
        """Whether it is proved that this process has ended; of another machine or container nothing can be proved."""
        if self.elsewhere:
            return False
        return self.boot != _boot_id() or _start_ticks(self.pid) not in (self.started, UNKNOWN)

    @property
    def elsewhere(self) -> bool:
        """Whether nothing can be seen of this process from here: it is on another machine or in another container."""
        if self.host != socket.gethostname():
            return True
        return self.boot == _boot_id() and self.namespace not in ("", _namespace())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_ticks(pid: int) -> int:
    """Return when a process started (field 22 of its stat), ``GONE`` if there is none, ``UNKNOWN`` without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return GONE if fields[0] in "ZX" else int(fields[19])  # a zombie has ended, though nobody has asked for it
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return GONE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return GONE
    except PermissionError:
        pass
    return UNKNOWN
