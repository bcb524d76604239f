"""Ledgers as plain JSON, to change what is in them: written back, they are ledgers of an earlier version."""

import json

CHAIN = ("line", "after", "check")


def plain_events(path):
    """The events of a ledger as dictionaries, without number and checksums."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in event.items() if name not in CHAIN} for event in events]


def write_plain(path, events):
    """Write events as an earlier version did."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
