"""What the store saves a study, what the platform costs a trial, whether a long study stays as fast as it began, and
whether twice as many trials at once as there are CPUs take longer.

Run it as a script:

    python tests/benchmarks/bench_study.py                          # all of it, about 12 minutes on 2 cores
    python tests/benchmarks/bench_study.py --parts overhead --help  # one part; what can be set

Every study runs on real Ray, two trials at a time, MLflow's SQLite mirror on, as users have it. Times come from the
studies' own ledgers: a trial's wall is from its hand-out to its record.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.study import run_study
from ddcal.study.mlflow.cursor import CURSOR
from ddcal.study.record.ledger import LEDGER, read_ledger
from ddcal.study.run.ray_executor import ray_runtime
from ddcal.study.run.runner import Hooks
from ddcal.study.search.search import JOURNAL, StudySearch
from ddcal.versions import package_versions

SLOTS = 2
TICKS = os.sysconf("SC_CLK_TCK")
TINY = {
    "network": {"width": 8},
    "distill": {"backbone": "real", "ipc": 2, "probe": {"epochs": 1}},
    "train": {"epochs": 4, "lr": 0.1, "augment": "none", "networks": 3},
    "calibrate": {"method": "mts"},
}
"""A trial that computes next to nothing: what is left is the platform."""


class Measured:
    """A study that is run once, and what its ledger and the operating system say about it.

    Attributes:
        results: Its results.
        seconds: Wall time of `run_study`, Ray being there already.
        closing: Seconds from the end of the last trial to the end of `run_study`: tables, MLflow's rest, Ray's actors.
        walls: Seconds from hand-out to record, in the order of the records.
        ends: When each trial was recorded, in seconds.
        computed: Seconds of the stages that a trial computed itself, in the same order.
        cpu: Whose processes → CPU seconds while it ran; ``mirror`` is a part of ``driver``.
        driver: The driver's CPU seconds after each trial, without MLflow's thread.
        memory: The driver's resident memory in MB after each trial.
        unsent: How many trials MLflow did not have yet when the last one ended.
        sampler: Seconds of each ``ask`` and each ``tell`` of Optuna.
    """

    def __init__(self, settings: dict[str, Any], root: Path) -> None:
        """Run the study of ``settings`` under ``root``."""
        study = StudyConfig.model_validate(settings)
        self.memory: list[float] = []
        self.driver: list[float] = []
        self.sampler: dict[str, list[float]] = defaultdict(list)
        self.unsent, mirror, last = 0, 0.0, 0.0

        def on_finished(_: Any) -> None:
            nonlocal mirror, last
            self.memory.append(resident_megabytes())
            mirror = max([mirror, *map(thread_seconds, (t for t in threading.enumerate() if t.name == "ddcal-mlflow"))])
            self.driver.append(time.process_time() - mirror)
            if len(self.memory) % 10 == 0:
                processes.sample()
            if len(self.memory) == study.search.trials:
                last, self.unsent = time.monotonic(), unsent_trials(root / study.name)

        processes, began = Processes(), time.monotonic()
        with timed_sampler(self.sampler):
            self.results = run_study(study, output=root, hooks=Hooks(on_finished=on_finished))
        self.seconds, self.closing = time.monotonic() - began, time.monotonic() - last
        self.cpu = processes.seconds() | {"mirror": mirror}
        records = {trial.number: trial for trial in self.results.records}
        handed_out: dict[int, float] = {}
        self.walls, self.ends, self.computed = [], [], []
        for event in read_ledger(self.results.directory):
            if event.event == "trial_started":
                handed_out[event.number] = event.time / 1000
            elif event.event == "trial_finished":
                trial = records[event.number]
                assert trial.outcome in ("complete", "infeasible"), (trial.trial_key, trial.outcome, trial.error)
                self.ends.append(event.time / 1000)
                self.walls.append(self.ends[-1] - handed_out[trial.number])
                self.computed.append(sum((trial.stage_seconds or {}).values()) - trial.saved_seconds)

    def hits(self, stages: int) -> None:
        """Check that every trial found at least so many of its stages in the store."""
        short = [trial.trial_key for trial in self.results.records if len(trial.cache_hits) < stages]
        assert not short, f"not cached: {short}"


def study(name: str, space: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a study's settings: two trials at a time, random unless ``search`` says otherwise."""
    search = {"searcher": "random", "concurrency": SLOTS} | sections.pop("search")
    base = sections.pop("base", TINY)
    objectives = {"val/ece": "min", "val/accuracy": "max"}
    return {"name": name, "base": base, "space": space, "objectives": objectives, "search": search, **sections}


def store_part(options: argparse.Namespace, root: Path) -> None:
    """32 trials over calibrate.* and train.* with 4 distilled sets, and the same work with nothing shared."""
    base = {
        "network": {"width": 32},
        "distill": {
            "backbone": "dsa",
            "iterations": options.iterations,
            "matching": {"outer": 2, "inner": 5, "real_batch": 64},
            "probe": {"epochs": 20},
        },
        "train": {"epochs": options.epochs, "lr": 0.1, "weight_decay": 0.0, "augment": "none", "networks": 1},
        "calibrate": {"method": "mts"},
    }
    sets = [{"distill.ipc": ipc, "distill.mask.ratio": mask} for ipc in (1, 2) for mask in (0.0, 0.1)]
    space: dict[str, Any] = {
        "distill.ipc": {"choice": [1, 2]},
        "distill.mask.ratio": {"choice": [0.0, 0.1]},
        "train.weight_decay": {"choice": [0.0, 5e-4]},
        "calibrate.mask.ratio": {"uniform": [0.0, 0.95]},
    }
    trials = options.store_trials
    points = [
        {
            **sets[i % 4],
            "train.weight_decay": (0.0, 5e-4)[i // 4 % 2],
            "calibrate.mask.ratio": round(0.95 * i / trials, 4),
        }
        for i in range(trials)
    ]
    search = {"trials": trials, "enqueue": points}
    alone = {**space, "seed": {"choice": list(range(trials))}}  # a seed a trial: the same work, and no key twice
    separate = {"trials": trials, "enqueue": [{**point, "seed": i} for i, point in enumerate(points)]}
    shared = Measured(study("shared", space, base=base, search=search), root)
    apart = Measured(study("apart", alone, base=base, search=separate, storage={"store": str(root / "apart")}), root)
    distinct = {stage: len({(t.keys or {})[stage] for t in shared.results.records}) for stage in ("distill", "train")}
    assert not any(trial.cache_hits for trial in apart.results.records)
    print(
        f"\n== store: {trials} trials on digits, {distinct['distill']} distilled sets, {distinct['train']} train stages"
    )
    print(f"   DSA {options.iterations} iterations, ipc 1 and 2, width 32, train {options.epochs} epochs, MTS")
    for name, one in (("store shared", shared), ("nothing shared", apart)):
        print(f"   {name:<15} {one.seconds:7.1f} s wall   {sum(one.cpu.values()) - one.cpu['mirror']:7.1f} s CPU")
    print(f"   ratio           {apart.seconds / shared.seconds:7.2f} (target: at least 5)")
    overhead_line("computed (apart)", apart, skip=SLOTS)


def packing_part(options: argparse.Namespace, root: Path) -> None:
    """The same computed trials, as many at once as there are CPUs and twice as many, taking turns."""
    base = {
        "network": {"width": 32},
        "distill": {
            "backbone": "dc",
            "ipc": 2,
            "iterations": options.iterations // 3,
            "matching": {"outer": 2, "inner": 5, "real_batch": 64},
            "probe": {"epochs": 20},
        },
        "train": {"epochs": options.epochs, "lr": 0.1, "weight_decay": 0.0, "augment": "none", "networks": 1},
        "calibrate": {"method": "mts"},
    }
    trials, cpus = options.packing_trials, os.cpu_count() or 1
    space = {"seed": {"choice": list(range(trials))}}
    points = [{"seed": i} for i in range(trials)]
    seconds: dict[int, list[float]] = {cpus: [], 2 * cpus: []}
    print(f"\n== packing: {trials} computed trials on {cpus} CPUs, resources.cpu 0.5, threads 1, a store of their own")
    for turn in range(options.packing_turns):
        for at_once, taken in seconds.items():
            name = f"at-once-{at_once}-{turn}"
            settings = study(
                name,
                space,
                base=base,
                search={"trials": trials, "enqueue": points, "concurrency": at_once},
                resources={"cpu": 0.5, "threads": 1},
                storage={"store": str(root / f"store-{name}")},
            )
            taken.append(Measured(settings, root).seconds)
    for at_once, taken in seconds.items():
        print(f"   search.concurrency {at_once:<3} {'  '.join(f'{one:.1f}' for one in taken)} s")
    few, many = (statistics.mean(taken) for taken in seconds.values())
    print(f"   ratio of the means {many / few:.2f} (target: at most 1)")


def overhead_part(options: argparse.Namespace, root: Path) -> None:
    """The platform's seconds a trial for cached trials; those of computed ones belong to the part ``store``."""
    space = {"calibrate.mask.ratio": {"uniform": [0.0, 0.95]}, "calibrate.t_max": {"uniform": [1.5, 20.0]}}
    Measured(study("warm-up", space, search={"trials": 1, "seed": 1}), root)
    print(f"\n== overhead: {options.overhead_trials} trials each; wall from hand-out to record, seconds")
    half = Measured(study("half-cached", space, search={"trials": options.overhead_trials}), root)
    half.hits(2)
    overhead_line("new calibrate.*", half, skip=2 * SLOTS)
    whole = Measured(study("all-cached", space, search={"trials": options.overhead_trials}), root)
    whole.hits(4)
    overhead_line("all cached", whole, skip=2 * SLOTS)


def overhead_line(name: str, one: Measured, skip: int) -> None:
    """Print a study's overhead, without the first ``skip`` trials, in which actors start and import torch."""
    walls, computed = one.walls[skip:], one.computed[skip:]
    over = [wall - seconds for wall, seconds in zip(walls, computed, strict=True)]
    slot = SLOTS * (one.ends[-1] - one.ends[skip - 1]) / len(walls)
    print(f"   {name}")
    print(f"     wall             {spread(walls)}")
    print(f"     stages computed  {spread(computed)}")
    share = f"   {100 * sum(over) / sum(computed):.1f} % of the stages" if sum(computed) else ""
    print(f"     wall - stages    {spread(over)}{share}")
    print(f"     a slot's seconds a trial (study wall x {SLOTS} / trials): {slot:.3f}")
    cpu_line(one)


def long_part(options: argparse.Namespace, root: Path) -> None:
    """Many fully cached trials with random and with TPE."""
    ratios, tops = [round(0.09 * k, 2) for k in range(11)], [5.0, 10.0, 20.0]
    space = {
        "calibrate.mask.ratio": {"choice": ratios},
        "calibrate.t_max": {"choice": tops},
        "distill.mask.ratio": {"uniform": [0.0, 0.5]},  # means nothing for `real`: no two trials alike, all cached
    }
    points = [
        {"calibrate.mask.ratio": ratio, "calibrate.t_max": top, "distill.mask.ratio": 0.0}
        for ratio, top in product(ratios, tops)
    ]
    Measured(study("fill", space, search={"trials": len(points), "enqueue": points}), root)
    for searcher in options.searchers:
        settings = study(f"long-{searcher}", space, search={"searcher": searcher, "trials": options.long_trials})
        long_lines(searcher, Measured(settings, root))


def long_lines(searcher: str, one: Measured) -> None:
    """Print how a long study's cost and memory grew."""
    one.hits(4)
    count, skip = len(one.ends), 2 * SLOTS
    window = min(100, (count - skip) // 2)
    ends = one.ends
    first, last = (ends[skip + window - 1] - ends[skip - 1]) / window, (ends[-1] - ends[-1 - window]) / window
    rest = one.memory[window - 1 :]
    print(f"\n== long: {count} fully cached trials, searcher {searcher}, {one.seconds:.0f} s")
    print(f"   seconds of the study a trial: first {window} {first:.4f}, last {window} {last:.4f}", end="")
    print(f" (the first {skip} left out); last / first = {last / first:.2f} (target: at most 1.5)")
    busy = one.driver
    early, late = (busy[skip + window - 1] - busy[skip - 1]) / window, (busy[-1] - busy[-1 - window]) / window
    print(f"   CPU seconds of the driver a trial, without MLflow's thread: first {window} {early:.4f}, ", end="")
    print(f"last {window} {late:.4f}; last / first = {late / early:.2f}")
    eighths = [ends[(k + 1) * (count - 1) // 8] - ends[k * (count - 1) // 8] for k in range(8)]
    print(f"   by eighths of the study: {'  '.join(f'{8 * seconds / count:.4f}' for seconds in eighths)}")
    print(f"   wall of a trial  {spread(one.walls[skip:])}")
    asks, tells = one.sampler["ask"], one.sampler["tell"]
    early = sum(asks[skip : skip + window] + tells[skip : skip + window]) / window
    late = sum(asks[-window:] + tells[-window:]) / window
    print(f"   sampler a trial  ask {statistics.mean(asks):.4f} s   tell {statistics.mean(tells):.4f} s; ", end="")
    print(f"first {window} {early:.4f}, last {window} {late:.4f}; ", end="")
    print(f"without it last / first = {(last - late) / (first - early):.2f}")
    growth = (rest[-1] - rest[0]) / max(1, len(rest) - 1)
    print(f"   driver's memory  {rest[0]:.0f} MB after {window} trials, {rest[-1]:.0f} MB at the end: ", end="")
    print(f"{growth:.3f} MB a trial (target: at most 0.1)")
    print(f"   MLflow           {one.unsent} trials behind at the end; closing took {one.closing:.1f} s")
    files = [f"{name} {(one.results.directory / name).stat().st_size / 1e6:.1f} MB" for name in (LEDGER, JOURNAL)]
    print(f"   files            {', '.join(files)}")
    cpu_line(one)


def cpu_line(one: Measured) -> None:
    """Print CPU seconds a trial by process."""
    shown = "   ".join(f"{whose} {seconds / len(one.walls):.4f}" for whose, seconds in one.cpu.items())
    print(f"     CPU seconds a trial: {shown}  (mirror: MLflow's thread, a part of the driver)")


def spread(values: Sequence[float]) -> str:
    """Return median, quartiles and extremes."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"median {middle:.3f}   quartiles {low:.3f} {high:.3f}   from {min(values):.3f} to {max(values):.3f}"


@contextmanager
def timed_sampler(seconds: dict[str, list[float]]) -> Iterator[None]:
    """Note the seconds of every `StudySearch.ask` and `tell`."""

    def timed(method: Callable[..., Any], noted: list[float]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                noted.append(time.perf_counter() - began)

        return call

    methods = {name: getattr(StudySearch, name) for name in ("ask", "tell")}
    for name, method in methods.items():
        setattr(StudySearch, name, timed(method, seconds[name]))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(StudySearch, name, method)


def unsent_trials(directory: Path) -> int:
    """Return how many ended trials lie beyond the mirror's cursor."""
    try:
        offset = json.loads((directory / CURSOR).read_text())["offset"]
    except (FileNotFoundError, ValueError):
        offset = 0
    with (directory / LEDGER).open("rb") as stream:
        stream.seek(offset)
        return sum(json.loads(line)["event"] == "trial_finished" for line in stream)


def resident_megabytes() -> float:
    """Return this process's resident memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def thread_seconds(thread: threading.Thread) -> float:
    """Return the CPU seconds of a thread of this process, 0 if it has just ended."""
    try:
        return ticks(Path(f"/proc/self/task/{thread.native_id}/stat"))
    except OSError:
        return 0.0


class Processes:
    """CPU seconds of this process (``driver``), of Ray's workers and of Ray's own processes, the ended ones too."""

    def __init__(self) -> None:
        """Begin to count."""
        self._first: dict[int, float] = {}
        self._last: dict[int, tuple[str, float]] = {}
        self.sample()
        self._first = {process: seconds for process, (_, seconds) in self._last.items()}

    def sample(self) -> None:
        """Read the clocks; what a process used after the last sample before its end is not counted."""
        parents: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, ValueError):
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        mine, before = {os.getpid()}, 0
        while len(mine) > before:
            before = len(mine)
            mine |= {process for process, parent in parents.items() if parent in mine}
        for process in mine - {os.getpid()}:
            with suppress(OSError):
                worker = Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::")
                self._last[process] = ("workers" if worker else "ray", ticks(Path(f"/proc/{process}/stat")))
        self._last[os.getpid()] = ("driver", time.process_time())

    def seconds(self) -> dict[str, float]:
        """Return whose processes → CPU seconds since the beginning."""
        self.sample()
        used = {"driver": 0.0, "workers": 0.0, "ray": 0.0}
        for process, (whose, seconds) in self._last.items():
            used[whose] += seconds - self._first.get(process, 0.0)
        return used


def ticks(path: Path) -> float:
    """Return the user and system seconds in a ``stat`` file of /proc."""
    return sum(int(value) for value in path.read_text().rpartition(")")[2].split()[11:13]) / TICKS


PARTS = {"store": store_part, "overhead": overhead_part, "long": long_part, "packing": packing_part}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--iterations", type=int, default=150, help="of a distillation (store)")
    parser.add_argument("--epochs", type=int, default=100, help="of a training (store)")
    parser.add_argument("--store-trials", type=int, default=32)
    parser.add_argument("--packing-trials", type=int, default=8)
    parser.add_argument("--packing-turns", type=int, default=3)
    parser.add_argument("--overhead-trials", type=int, default=60)
    parser.add_argument("--long-trials", type=int, default=1000)
    parser.add_argument("--searchers", nargs="+", choices=("random", "tpe", "nsga2"), default=["random", "tpe"])
    parser.add_argument("--keep", type=Path, help="an empty folder for the studies, kept afterwards")
    options = parser.parse_args()
    versions = package_versions()
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ray", "optuna", "mlflow"))
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; {shown}; load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(prefix="ddcal-") as folder:
        os.environ["HOME"] = folder  # Ray writes its token there
        root = options.keep.absolute() if options.keep else Path(folder)
        with ray_runtime(None):
            for part in options.parts:
                PARTS[part](options, root / part)


if __name__ == "__main__":
    main()
