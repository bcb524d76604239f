"""A pseudo-terminal for a command, and what its screen shows: enough of a terminal for what rich writes."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

MOST_SECONDS = 600
_ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([a-zA-Z])")


def run_in_terminal(arguments, columns=80, lines=24, *, when=None, environment=None):
    """Run Python with ``arguments`` on a terminal and return (what it wrote, its exit code).

    ``when`` maps a pattern to keys, pressed as soon as the output has it.
    """
    waiting = dict(when or {})
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        names = os.environ.keys() - {"RAY_ADDRESS", "COLUMNS", "LINES"}
        inherited = {name: os.environ[name] for name in names} | {"TERM": "xterm", "LC_ALL": "C.UTF-8"}
        command = [sys.executable, *map(str, arguments)]
        os.execve(sys.executable, command, inherited | (environment or {}))  # readline adds COLUMNS to what C has
    written, deadline = b"", time.monotonic() + MOST_SECONDS
    while True:
        assert time.monotonic() < deadline, written.decode(errors="replace")
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # nobody writes any more
            break
        written += piece
        for pattern in [pattern for pattern in waiting if re.search(pattern, written.decode(errors="replace"))]:
            os.write(terminal, waiting.pop(pattern).encode())
        if not piece:
            break
    os.close(terminal)
    assert not waiting, (waiting, written.decode(errors="replace"))
    return written.decode(errors="replace"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def screen(written, columns=80):
    """Return the lines that a terminal shows in the end, those that have scrolled away too."""
    rows, row, column, place = [""], 0, 0, 0
    while place < len(written):
        found = _ESCAPE.match(written, place)
        if found:
            place = found.end()
            count = int(found[1]) if found[1].isdigit() else 1
            if found[2] == "A":
                row = max(0, row - count)
            elif found[2] == "K":
                assert found[1] == "2", found[0]
                rows[row] = ""
            else:
                assert found[2] in "mhl", found[0]
            continue
        letter, place = written[place], place + 1
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row].ljust(column)[:column] + letter + rows[row][column + 1 :]
            column += 1
        rows += [""] * (row + 1 - len(rows))
    return [line.rstrip() for line in rows]
