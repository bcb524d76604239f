"""What a study on many nodes costs its driver: a simulated cluster of 8 raylets, and the driver alone with up to 1,000
trials at once.

Run it as a script:

    python tests/benchmarks/bench_nodes.py                          # all of it, about 15 minutes on 2 cores
    python tests/benchmarks/bench_nodes.py --parts driver --help    # one part; what can be set

The cluster is real Ray with a token: raylets of one CPU each, with ports and object stores of their own, all on this
machine. Its trials sleep, so that 8 of them take 8 CPUs of Ray's and next to none of the machine's. The driver alone
is the real one with its real ledger, Optuna journal and MLflow; its trials are played: the reports of one real trial,
again and again.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))

from bench_study import resident_megabytes, spread, thread_seconds, ticks
from nodes import Cluster, members

from ddcal.config import StudyConfig
from ddcal.pipeline import Environment
from ddcal.study import run_study
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.mlflow.opening import make_mirror
from ddcal.study.record.ledger import LEDGER, Ledger, read_ledger
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.references import Reference
from ddcal.study.record.results import StudyResults
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.hold_back import HoldBack
from ddcal.study.run.runner import Hooks
from ddcal.study.search.search import StudySearch
from ddcal.versions import package_versions

SPEC = """
from ddcal.config.backbones import Backbone, Config


class NapSettings(Config):
    seconds: float = 1.0


class Nap(Backbone):
    name = "nap"
    distiller = "napping.images:Nap"
    settings = NapSettings
    learns = False


SPEC = Nap()
"""
IMAGES = """
import time

from ddcal.distill.real import RandomRealSubset


class Nap(RandomRealSubset):
    def __init__(self, dataset, config, seed, device):
        super().__init__(dataset, config, seed, device)
        self.seconds = config.spec.own(config).seconds

    def step(self):
        time.sleep(self.seconds)
        return super().step()
"""
TINY = {
    "network.width": 4,
    "distill.ipc": 1,
    "distill.probe.epochs": 1,
    "train.epochs": 2,
    "train.lr": 0.1,
    "train.augment": "none",
    "train.networks": 1,
}


def settings(name: str, space: dict[str, Any], search: dict[str, Any], **sections: Any) -> StudyConfig:
    """Return a study of tiny trials."""
    objectives = {"val/ece": "min", "val/accuracy": "max"}
    base = TINY | sections.pop("base", {"distill.backbone": "real"})
    values = {"name": name, "base": base, "space": space, "objectives": objectives, "search": search, **sections}
    return StudyConfig.model_validate(values)


# The cluster


def cluster_part(options: argparse.Namespace, root: Path) -> None:
    """Run a study of sleeping trials on 8 raylets of one CPU."""
    packages = root / "packages" / "napping"
    packages.mkdir(parents=True)
    (packages / "__init__.py").touch()
    (packages / "spec.py").write_text(SPEC)
    (packages / "images.py").write_text(IMAGES)
    sys.path.insert(0, str(packages.parent))
    os.environ["PYTHONPATH"] = f"{packages.parent}:{os.environ.get('PYTHONPATH', '')}"  # the raylets' workers have it
    study = settings(
        "nodes",
        {"seed": {"choice": list(range(options.trials))}},  # nothing is shared
        {"searcher": "random", "trials": options.trials, "concurrency": options.nodes},
        base={"distill.backbone": "napping.spec:SPEC", "distill.settings.seconds": options.seconds},
        resources={"cpu": 1, "threads": 1},
    )
    os.environ["RAY_AUTH_MODE"] = "token"
    busy: list[tuple[float, float]] = []  # CPU seconds of the driver and of MLflow's thread after each trial

    def on_finished(_: Any) -> None:
        mirror = max(map(thread_seconds, (t for t in threading.enumerate() if t.name == "ddcal-mlflow")))
        busy.append((time.process_time() - mirror, mirror))

    with Cluster(options.nodes) as cluster:
        results = run_study(study, output=root, address=cluster.address, hooks=Hooks(on_finished=on_finished))
        gcs = sum(
            ticks(Path(f"/proc/{pid}/stat"))
            for pid in members(cluster.sessions[0])
            if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    begins, ends = {}, {}
    for event in read_ledger(results.directory):
        if event.event == "trial_started":
            begins[event.number] = event.time / 1000
        elif event.event == "trial_finished":
            ends[event.number] = event.time / 1000
    assert all(trial.outcome in ("complete", "infeasible") for trial in results.records)
    count, nodes, skip = options.trials, options.nodes, 2 * options.nodes  # workers import torch, all on the same cores
    in_order = sorted(ends.values())
    walls = [ends[number] - begins[number] for number in sorted(ends, key=ends.__getitem__)]
    whole = max(ends.values()) - min(begins.values())
    middle = (count - skip - nodes) / (in_order[-nodes - 1] - in_order[skip - 1])
    print(f"\n== cluster: {count} trials that sleep {options.seconds:g} s, {nodes} raylets of 1 CPU")
    print(f"   nodes that ran trials       {len({trial.node for trial in results.records})}")
    print(f"   first hand-out to last record {whole:.1f} s: efficiency {options.seconds * count / nodes / whole:.3f}")
    print(f"   without the first {skip} and the last {nodes}: efficiency {middle * options.seconds / nodes:.3f}")
    print(f"   hand-out to record          {spread(walls[skip:])}")
    driver, mirror = ((busy[-1][i] - busy[skip - 1][i]) / (count - skip) for i in (0, 1))
    print(
        f"   CPU seconds a trial, without the first {skip}: driver {driver:.4f}, MLflow's thread {mirror:.4f}", end=""
    )
    print(f"; the head's GCS, of all {gcs / count:.4f}; driver's memory {resident_megabytes():.0f} MB")


# The driver alone


@dataclass
class Played:
    """What a driver's work took, in CPU seconds of its thread.

    Attributes:
        trials: How many ended.
        events: Lines in its ledger.
        bytes: Their length.
        seconds: CPU seconds of everything.
        parts: Part → CPU seconds.
    """

    trials: int = 0
    events: int = 0
    bytes: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


PARTS_OF_A_DRIVER = {
    "ask": (StudySearch, "ask"),
    "tell": (StudySearch, "tell"),
    "ledger": (Ledger, "append"),
    "hold back": (HoldBack, "blocked"),
    "references": (Reference, "write"),
    "tables": (StudyResults, "write"),
}
"""What is timed → the class and the method."""


@contextmanager
def timed(parts: dict[str, float]) -> Iterator[None]:
    """Add the CPU seconds of the driver's parts to ``parts``."""

    def clocked(part: str, method: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*arguments, **named)
            finally:
                parts[part] += time.thread_time() - began

        return call

    before = {part: getattr(owner, name) for part, (owner, name) in PARTS_OF_A_DRIVER.items()}
    for part, (owner, name) in PARTS_OF_A_DRIVER.items():
        setattr(owner, name, clocked(part, before[part]))
    try:
        yield
    finally:
        for part, (owner, name) in PARTS_OF_A_DRIVER.items():
            setattr(owner, name, before[part])


def one_real_trial(root: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the points and the record of one trial that was run."""
    results = run_study(
        settings("real", {"calibrate.mask.ratio": [0.5]}, {"trials": 1}, tracking={"uri": "none"}),
        output=root,
        debug=True,
    )
    points: list[dict[str, Any]] = []
    record: dict[str, Any] = {}
    for event in read_ledger(results.directory):
        if event.event == "trial_points":
            points += event.points
        elif event.event == "trial_finished":
            record = event.model_dump(exclude_unset=True, exclude={"event", "time", "number"})
    return points, record


def play(
    root: Path, at_once: int, trials: int, searcher: str, points: list[dict[str, Any]], record: dict[str, Any]
) -> tuple[Played, Path]:
    """Run a driver over trials that are played, ``at_once`` of them at a time; no MLflow."""
    study = settings(
        f"played-{searcher}-{at_once}",
        {"calibrate.mask.ratio": {"uniform": [0.0, 0.95]}, "train.lr": {"loguniform": [0.01, 0.3]}},
        {"searcher": searcher, "trials": trials, "concurrency": at_once, "startup": 10},
    )
    directory = root / study.name
    directory.mkdir(parents=True)
    done, parts = Played(), defaultdict(float)
    driver = StudyDriver(study, directory, Environment("cpu", 1), Tracking(None), DriverLock(directory), gpus=0.0)
    running: deque[tuple[int, int]] = deque()
    with timed(parts):
        began = time.thread_time()
        while not driver.exhausted or running:
            while driver.running < at_once and (assignment := driver.next_assignment()) is not None:
                running.append((assignment.number, 0))
            number, at = running.popleft()  # all at the same pace
            result = {"points": points[at : at + 1], "gpu": []}
            if at + 1 < len(points):
                running.append((number, at + 1))
            else:
                metrics = {name: value * (1 + number % 97 / 97) for name, value in record["metrics"].items()}
                mine = {"keys": driver._running[number].keys, "metrics": metrics}
                result |= {"records": [record | mine]}
            driver.on_result(number, result)
        done.seconds = time.thread_time() - began
    done.trials, done.parts = driver.finished, dict(parts)
    driver.close()
    content = (directory / LEDGER).read_bytes()
    done.events, done.bytes = content.count(b"\n"), len(content)
    return done, directory


def mirror_cost(directory: Path, at_once: int, limit: float) -> tuple[int, float, float]:
    """Send a ledger to MLflow's SQLite, for ``limit`` seconds after the first ``at_once`` trials have begun.

    Returns:
        events, their CPU seconds, their wall seconds.
    """
    from ddcal.study.record.results import load_study

    mirror = make_mirror(load_study(directory).study, directory)
    assert mirror is not None
    while len(mirror.cursor.runs) < at_once - 1 and mirror.advance():
        pass
    events, cpu, wall = 0, time.thread_time(), time.monotonic()
    while time.monotonic() - wall < limit and mirror.advance():
        events += 1
    return events, time.thread_time() - cpu, time.monotonic() - wall


def driver_part(options: argparse.Namespace, root: Path) -> None:
    """Play trials to a driver, 8, 100 and 1,000 at once, and let MLflow follow."""
    points, record = one_real_trial(root)
    for searcher in options.searchers:
        print(f"\n== driver alone: {options.played} played trials, searcher {searcher}; milliseconds of CPU a trial")
        for at_once in options.at_once:
            done, directory = play(root, at_once, options.played, searcher, points, record)
            a_trial = {part: 1000 * seconds / done.trials for part, seconds in done.parts.items()}
            rest = 1000 * done.seconds / done.trials - sum(a_trial.values())
            shown = "  ".join(f"{part} {value:.2f}" for part, value in a_trial.items())
            each, length = done.events / done.trials, done.bytes / done.trials / 1000
            print(f"   {at_once:>5} at once  {1000 * done.seconds / done.trials:6.2f}  ({shown}  rest {rest:.2f})")
            print(f"      ledger: {each:.1f} events and {length:.1f} kB a trial; ", end="")
            print(f"{done.events / done.seconds:.0f} events a CPU second")
            if searcher == options.searchers[0]:
                events, cpu, wall = mirror_cost(directory, at_once, options.mirror_seconds)
                print(
                    f"      MLflow (SQLite): {events / wall:.0f} events a second: {events / wall / each:.1f} trials; ",
                    end="",
                )
                print(f"{1000 * cpu / events:.2f} ms of CPU an event, {1000 * cpu / events * each:.0f} a trial")


PARTS = {"driver": driver_part, "cluster": cluster_part}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=96, help="of the cluster")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a trial of the cluster sleeps")
    parser.add_argument("--played", type=int, default=2000, help="trials of the driver alone")
    parser.add_argument("--at-once", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--searchers", nargs="+", choices=("random", "tpe", "nsga2"), default=["random", "tpe"])
    parser.add_argument("--mirror-seconds", type=float, default=20.0)
    options = parser.parse_args()
    versions = package_versions()
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ray", "optuna", "mlflow"))
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; {shown}; load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(prefix="ddcal-") as folder:
        os.environ["HOME"] = folder  # Ray's token lies there
        for part in options.parts:
            PARTS[part](options, Path(folder) / part)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
