"""Ctrl-C on the command line: real processes, and SIGINT to the whole process group as a terminal sends it."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import mlflow
import pytest

from ddcal.errors import GO_ON, BadInput, Terminated
from ddcal.study import load_study, run_study
from ddcal.study.record.status import study_status
from ddcal.study.run.interrupt import SCHEDULERS, Interrupts, interruptible, stopped_before
from ddcal.study.run.runner import Hooks, resume_study

MODES = pytest.mark.parametrize("mode", [["--debug"], pytest.param([], marks=pytest.mark.slow)], ids=["debug", "ray"])
"""On Ray each takes more than 10 seconds."""

LONG = {"train.epochs": 20_000, "train.networks": 2}
"""Training that takes minutes, with a first point after a quarter of it."""


@pytest.fixture
def start(tmp_path, write_study):
    """start(mode, base, **sections) -> the process of `ddcal run` once its first trial trains."""
    processes = []

    def begin(mode, base=LONG, **sections):
        settings = {"search": {"trials": 3, "enqueue": [{"distill.ipc": 1}, {"distill.ipc": 2}]}, "tracking": {}}
        file = write_study(base, space={"distill.ipc": {"choice": [1, 2]}}, **{**settings, **sections})
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", "from ddcal.cli import main; main()", "run", str(file), *mode]
        with (tmp_path / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [*command, "--output", str(tmp_path / "runs")],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
            )  # fmt: skip
        processes.append(process)
        log = tmp_path / "runs" / "tiny" / "logs" / "tiny-0000.log"
        wait_for(lambda: log.is_file() and "train: begins" in log.read_text(), process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def press(process, signum=signal.SIGINT):
    os.killpg(process.pid, signum)


def group(session):
    """Pids that belong to the session of a process and are alive."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stream:
                fields = stream.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(name))
    return found


def statuses(root):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    return {run.data.tags.get("ddcal.trial_key"): run.info.status for run in runs}


def recorded(root):
    """How many runs MLflow's database has, which may be about to be made."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{root}/mlflow.db?mode=ro", uri=True)) as database:
            return database.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_the_first_saves_everything_and_says_how_to_go_on(start, tmp_path, mode, signum):
    """All processes get it, Ray's too: from a terminal, by `timeout`, SLURM and systemd."""
    process = start(mode)
    wait_for(lambda: recorded(tmp_path / "runs") == 2, process)  # or a busy machine ends before MLflow has begun
    press(process, signum)
    assert process.wait(timeout=600) == (GO_ON if signum in SCHEDULERS else 128 + signum)
    said = (tmp_path / "output.txt").read_text()
    assert (
        "Traceback" not in said and f"ddcal resume {tmp_path}/runs/tiny" in said and "trials save their state" in said
    )
    directory = tmp_path / "runs" / "tiny"
    assert {path.name for path in directory.iterdir()}.isdisjoint({"driver.lock", "stop"})
    results = load_study(directory)
    assert results.interrupted and [trial.outcome for trial in results.records] == [None]
    assert statuses(tmp_path / "runs") == {None: "KILLED", "tiny-0000": "KILLED"}
    assert list((tmp_path / "runs" / "store" / "partial").glob("*.pt")), "training goes on from here"
    assert group(process.pid) == []


@MODES
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_second_stops_at_once(start, tmp_path, mode, signum):
    process = start(mode, tracking={"uri": "http://127.0.0.1:9"})  # the end waits for MLflow for seconds
    press(process, signum)
    wait_for(lambda: "stopping" in (tmp_path / "output.txt").read_text(), process)
    time.sleep(1.1 if signum == signal.SIGTERM else 0.0)  # two at once are one
    press(process, signum)
    assert process.wait(timeout=600) == 128 + signum
    said = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in said and "stopped at once; go on with:\n  ddcal resume" in said
    deadline = time.monotonic() + 600
    while group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert group(process.pid) == [], "Ray's processes end with the one that started them"
    directory = tmp_path / "runs" / "tiny"
    assert (directory / "driver.lock").exists(), "nobody waited for MLflow"
    status = study_status(directory)
    assert status.state == "dead" and status.next_command.startswith("ddcal resume")
    with pytest.raises(KeyboardInterrupt):  # it can be resumed: the lock of the dead process is no obstacle
        resume_study(directory, debug=True, hooks=Hooks(on_trial=lambda _: signal.raise_signal(signal.SIGINT)))


@pytest.mark.slow
def test_a_trial_that_was_stopped_in_the_middle_goes_on_to_the_same_bits(start, tmp_path, tiny_study):
    """Wherever Ctrl-C hits, what is saved is a state between two steps."""
    base = {"train.epochs": 1500, "train.networks": 2}
    search = {"trials": 1, "enqueue": [{"distill.ipc": 1}]}
    process = start(["--debug"], base, search=search)
    press(process)
    assert process.wait(timeout=600) == 130
    resumed = resume_study(tmp_path / "runs" / "tiny", debug=True)
    log = (tmp_path / "runs" / "tiny" / "logs" / "tiny-0000.log").read_text()
    assert "train: goes on from its checkpoint" in log
    study = tiny_study(base, space={"distill.ipc": {"choice": [1, 2]}}, search=search)
    undisturbed = run_study(study, output=tmp_path / "undisturbed", debug=True)
    assert resumed.records[0].metrics == undisturbed.records[0].metrics


def test_outside_of_a_deferred_part_it_is_an_ordinary_interrupt():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_deferred_part_it_waits_for_a_check_and_the_second_does_not():
    seen, then = [], []
    with interruptible(lambda count, _: seen.append(count)) as interrupts:
        interrupts.check()
        with interrupts.deferred(lambda: then.append(1)):
            os.kill(os.getpid(), signal.SIGINT)
            assert (interrupts.pressed, seen, then) == (1, [1], [1])
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    assert seen == [1, 2] and then == [1]


def test_off_the_main_thread_the_handler_stays():
    import threading

    found = []

    def work():
        with interruptible() as interrupts:
            found.append((type(interrupts), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(Interrupts, signal.getsignal(signal.SIGINT))]


@pytest.mark.parametrize(
    ("signum", "other", "code"),
    [
        (signal.SIGTERM, signal.SIGHUP, GO_ON),
        (signal.SIGUSR1, signal.SIGTERM, GO_ON),
        (signal.SIGHUP, signal.SIGTERM, 128 + signal.SIGHUP),
    ],
)
def test_signals_are_told_by_their_exit_code_and_two_at_once_are_one(signum, other, code):
    before = {one: signal.getsignal(one) for one in (signum, other)}
    seen = []
    with (
        pytest.raises(Terminated) as found,
        interruptible(lambda *what, seen=seen: seen.append(what)) as interrupts,
        interrupts.deferred(),
    ):
        for repeated in (signum, signum, other):  # `timeout` sends it twice, systemd SIGHUP after SIGTERM
            os.kill(os.getpid(), repeated)
        interrupts.check()
    assert found.value.signum == signum and found.value.exit_code == code and seen == [(1, signum)]
    assert {one: signal.getsignal(one) for one in before} == before


def test_a_study_stops_before_the_time_limit_of_its_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
    with pytest.raises(BadInput, match=r"this SLURM job ends in 3[56]"), stopped_before(3700.0):
        raise AssertionError("a study that could never do anything would be queued again and again")
    with interruptible() as interrupts, interrupts.deferred():
        with stopped_before(3599.0):
            deadline = time.monotonic() + 600
            while not interrupts.pressed:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert interrupts.error().exit_code == GO_ON
    with stopped_before(10.0), stopped_before(None):
        pass
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    with stopped_before(10.0):  # in no job: nothing to stop before
        pass


def test_a_sighup_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_terminal_that_is_gone_is_not_written_to(tmp_path, write_study):
    """A pseudo-terminal is closed while a trial trains."""
    import pty

    file = write_study(LONG, space={"distill.ipc": {"choice": [1, 2]}}, search={"trials": 1})
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-c", "from ddcal.cli import main; main()", "run", str(file), "--debug"]
        os.execv(sys.executable, [*command, "--output", str(tmp_path / "runs")])
    log = tmp_path / "runs" / "tiny" / "logs" / "tiny-0000.log"
    deadline = time.monotonic() + 600
    while not (log.is_file() and "train: begins" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.close(terminal)
    ended = 0
    while not ended:
        assert time.monotonic() < deadline
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(status) == 129
    results = load_study(tmp_path / "runs" / "tiny")
    assert results.interrupted and not (results.directory / "driver.lock").exists()
    assert list((tmp_path / "runs" / "store" / "partial").glob("*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "1 node", "1/1"])
def test_sigterm_before_the_first_trial_while_ray_starts_and_at_the_end(tmp_path, write_study, moment):
    """All processes get it as soon as the output says so."""
    file = write_study(space={"distill.ipc": {"choice": [1, 2]}}, search={"trials": 1})
    output = tmp_path / "output.txt"
    command = [sys.executable, "-c", "from ddcal.cli import main; main()", "run", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with output.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--output", str(tmp_path / "runs")],
            stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
        )  # fmt: skip
    try:
        wait_for(lambda: moment in output.read_text(), process)
        time.sleep(2.0 if moment == "starting" else 0.0)
        press(process, signal.SIGTERM)
        code = process.wait(timeout=600)
    finally:
        for pid in group(process.pid):
            os.kill(pid, signal.SIGKILL)
    said = output.read_text()
    assert "Traceback" not in said and "*** SIGTERM" not in said
    assert not (tmp_path / "runs" / "tiny" / "driver.lock").exists()
    assert code == GO_ON or (code == 0 and moment == "1/1"), said
    stopping = "stopping: trials save their state; SIGTERM again"  # as Ray starts, nothing can be saved
    assert code == 0 or ((stopping in said or moment == "starting") and "stopped by SIGTERM" in said)
