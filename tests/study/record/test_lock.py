import json
import os
import platform
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import disks
import pytest
from disks import FLOCK

from ddcal.errors import BadInput
from ddcal.study import run_study
from ddcal.study.record.lock import LOCK, DriverLock, Holder
from ddcal.study.run.runner import Hooks, resume_study

IMPORTS = "import sys; from pathlib import Path; from ddcal.study.record.lock import DriverLock"


def held_by(directory, holder):
    (directory / LOCK).write_text(json.dumps(asdict(holder)))


def test_a_lock_is_taken_and_given_back(tmp_path):
    lock = DriverLock(tmp_path)
    assert not lock.taken_over and Holder(**json.loads((tmp_path / LOCK).read_text())) == Holder.here()
    lock.release()
    assert not (tmp_path / LOCK).exists()
    DriverLock(tmp_path).release()


def test_a_second_driver_is_refused_with_the_first_one_s_process_and_machine(tmp_path):
    lock = DriverLock(tmp_path)
    with pytest.raises(BadInput, match=f"in use by process {os.getpid()} on {socket.gethostname()}"):
        DriverLock(tmp_path)
    assert Holder(**json.loads((tmp_path / LOCK).read_text())) == Holder.here()
    lock.release()


@pytest.fixture
def ended():
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("change", ["ended", "given out again", "rebooted"])
def test_a_dead_holder_s_lock_is_taken_over(tmp_path, ended, change):
    here = Holder.here()
    held_by(
        tmp_path,
        {
            "ended": replace(here, pid=ended),
            "given out again": replace(here, started=here.started - 1),
            "rebooted": replace(here, boot="another"),
        }[change],
    )
    lock = DriverLock(tmp_path)
    assert lock.taken_over
    with pytest.raises(BadInput, match=f"process {os.getpid()}"):
        DriverLock(tmp_path)


def test_a_killed_driver_is_dead_though_nobody_has_waited_for_it(tmp_path):
    """In a container, often nobody does."""
    code = (
        "import sys; from pathlib import Path; from ddcal.study.record.lock import DriverLock; "
        "DriverLock(Path(sys.argv[1]))"
    )
    code += "; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        with pytest.raises(BadInput, match=f"process {holder.pid}"):
            DriverLock(tmp_path)
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert DriverLock(tmp_path).taken_over


@pytest.mark.parametrize("change", [{"boot": "another"}, {"started": 1}], ids=["same name", "another container"])
def test_a_living_holder_that_looks_dead_from_here_keeps_its_lock(tmp_path, change):
    """Machines of one name on a shared folder, and containers that do not see each other's processes."""
    lock = DriverLock(tmp_path)
    held_by(tmp_path, replace(Holder.here(), **change))
    with pytest.raises(BadInput, match="in use by process"):
        DriverLock(tmp_path)
    lock.release()
    held_by(tmp_path, replace(Holder.here(), **change))
    assert DriverLock(tmp_path).taken_over


def test_a_lock_that_was_removed_lets_nobody_in_while_its_driver_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("ddcal.study.record.lock.RELEASE_SECONDS", 0.2)
    lock = DriverLock(tmp_path)
    (tmp_path / LOCK).unlink()
    with pytest.raises(BadInput, match="was removed, but its driver still runs"):
        DriverLock(tmp_path)
    assert not (tmp_path / LOCK).exists()
    lock.release()
    assert not DriverLock(tmp_path).taken_over


def test_a_driver_that_gives_its_lock_back_is_waited_for(tmp_path):
    lock = DriverLock(tmp_path)
    (tmp_path / LOCK).unlink()
    timer = threading.Timer(0.3, lock.release)
    timer.start()
    second = DriverLock(tmp_path)
    timer.join()
    assert (tmp_path / LOCK).exists() and not second.taken_over
    second.release()
    assert not (tmp_path / LOCK).exists()


def test_nobody_gives_back_the_lock_of_another(tmp_path):
    lock = DriverLock(tmp_path)
    held_by(tmp_path, replace(Holder.here(), host="elsewhere"))
    lock.release()
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("boot", ["here", "another"])
def test_another_machine_s_lock_is_never_taken_over(tmp_path, ended, boot):
    here = Holder.here()
    held_by(tmp_path, replace(here, host="elsewhere", pid=ended, boot=here.boot if boot == "here" else boot))
    with pytest.raises(BadInput, match=rf"process {ended} on elsewhere.*gone for good, remove .*{LOCK}"):
        DriverLock(tmp_path)


@pytest.mark.parametrize("content", ["", "nonsense", "[]", "3", '{"pid": 1}', '{"a": 1}'])
def test_a_file_that_is_no_lock_is_named(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(BadInput, match=rf"{LOCK} is not a lock of ddcal"):
        DriverLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == content


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in FLOCK, reason="the call's number is not known")
def test_a_folder_is_locked_on_a_file_system_without_locks(tmp_path):
    """Lustre without ``flock``, NFS without its lock daemon: the file that names the holder is there all the same."""
    code = f"""{IMPORTS}
import errno, fcntl
from ddcal.errors import BadInput
try: fcntl.flock(sys.stdin, fcntl.LOCK_SH)
except OSError as error: assert error.errno == errno.ENOLCK
else: sys.exit("it has locks")
lock = DriverLock(Path(sys.argv[1]))
try: DriverLock(Path(sys.argv[1]))
except BadInput as error: assert "in use by process" in str(error)
else: sys.exit("two have it")
lock.release()
DriverLock(Path(sys.argv[1])).release()
"""
    command = [sys.executable, "-c", f"from disks import without_flock; without_flock()\n{code}", str(tmp_path)]
    path = os.pathsep.join([str(Path(disks.__file__).parent), *sys.path])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    if "no filter" in done.stderr:
        pytest.skip("the kernel takes no filter of calls")
    assert done.returncode == 0, done.stderr


def test_of_many_drivers_that_begin_together_one_gets_the_folder(tmp_path):
    code = (
        f"{IMPORTS}; from ddcal.errors import BadInput\n"
        "sys.stdin.readline()\n"
        "try: DriverLock(Path(sys.argv[1])); print('mine', flush=True)\n"
        "except BadInput: print('refused', flush=True)\n"
        "sys.stdin.read()"
    )
    held_by(tmp_path, replace(Holder.here(), boot="another"))
    drivers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    for driver in drivers:
        driver.stdin.write(b"\n")
        driver.stdin.flush()
    said = [driver.stdout.readline().strip() for driver in drivers]
    for driver in drivers:
        driver.communicate(timeout=300)
    assert sorted(said) == [b"mine", *[b"refused"] * 5]


def test_a_study_that_runs_is_neither_run_nor_resumed_by_another(tiny_study, tmp_path):
    refused = []

    def others(trial):
        before = (tmp_path / "tiny" / "ledger.jsonl").read_bytes()
        with pytest.raises(BadInput, match=f"in use by process {os.getpid()}"):
            resume_study(tmp_path / "tiny", debug=True)
        with pytest.raises(BadInput, match="ddcal resume"):
            run_study(tiny_study(), output=tmp_path, debug=True)
        assert (tmp_path / "tiny" / "ledger.jsonl").read_bytes() == before
        refused.append(trial.number)

    run_study(tiny_study(), output=tmp_path, debug=True, hooks=Hooks(on_finished=others))
    assert refused == [0, 1] and not (tmp_path / "tiny" / LOCK).exists()


def test_the_folder_is_free_after_a_study_that_could_not_be_closed(tiny_study, tmp_path, monkeypatch):
    from ddcal.study.record.results import StudyResults

    def full(self):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StudyResults, "write", full)
        with pytest.raises(OSError, match="no space"):
            run_study(tiny_study(), output=tmp_path, debug=True)
    assert [trial.outcome for trial in resume_study(tmp_path / "tiny", debug=True).records] == ["complete"] * 2
