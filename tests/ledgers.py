"""Ledgers as plain JSON, to change what is in them: written back, they are ledgers of an earlier version."""

import json

from ddcal.study.record.chain import seal
from ddcal.study.record.events import StudyFinished, StudyStarted, TrialFinished, TrialStarted
from ddcal.study.record.ledger import Ledger, numbered

CHAIN = ("line", "after", "check")


def plain_events(path):
    """The events of a ledger as dictionaries, without number and checksums."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in event.items() if name not in CHAIN} for event in events]


def write_plain(path, events):
    """Write events as an earlier version did."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def write_failed(root, study):
    """Write the folder of a study whose every trial has failed."""
    folder = root / study.name
    folder.mkdir(parents=True)
    ledger = Ledger(folder)
    environment = {"device": "cpu", "threads": 1, "precision": "float32"}
    ledger.append(StudyStarted, study=study.model_dump(mode="json"), environment=environment, store=str(root / "store"))
    for number in range(study.search.trials):
        ledger.append(TrialStarted, number=number, trial_key=f"{study.name}-{number:04d}", values={}, config={})
        ledger.append(TrialFinished, number=number, outcome="failed", metrics={}, error="no memory", seconds=1.0)
    ledger.append(StudyFinished, seconds=9.0, interrupted=False)
    ledger.close()


def add_session(path, **sections):
    """Add what whoever can write to a ledger may: that a driver went on with other sections of the study."""
    events = plain_events(path)
    resumed = {"event": "study_resumed", "time": events[-1]["time"], "study": events[0]["study"] | sections}
    write_plain(path, [*events, resumed | {"paths": "folder"}])


def write_sealed(path, events):
    """Write events as a version of ddcal does that knows them, each with its number and chained to the one before."""
    check, written = "", b""
    for number, event in enumerate(events, start=1):
        line, check = seal(check, numbered(json.dumps(event).encode(), number))
        written += line
    path.write_bytes(written)
