"""Stores and output roots that take nothing more: the study stops, and goes on to what it would have been."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import assert_same, trials_of
from disks import no_file_above, small_disk
from rich.console import Console
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.cli.progress import StudyProgress
from ddcal.config import trial_from
from ddcal.errors import StoreError
from ddcal.pipeline import DatasetCache
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import read_ledger
from ddcal.study.run.runner import Hooks, resume_study
from ddcal.study.run.unusable import stops_the_study
from ddcal.study.run.worker import Assignment, Worker

IPC = [1, 2, 3, 4]
SPACE = {"distill.ipc": {"choice": IPC}}
SEARCH = {"searcher": "random", "trials": len(IPC), "enqueue": [{"distill.ipc": ipc} for ipc in IPC]}
MAKE_ROOM = "Free space there (`df -h`, or `df -i` if there are too many files), then go on with `ddcal resume "


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_study):
    study = tiny_study(space=SPACE, search=SEARCH)
    return run_study(study, output=tmp_path_factory.mktemp("undisturbed"), debug=True)


def after(count, do):
    """Hooks that ``do`` something as the ``count``-th trial has finished."""
    finished = []

    def on_finished(trial):
        finished.append(trial)
        if len(finished) == count:
            do()

    return Hooks(on_finished=on_finished)


def stopped(study, output, hooks, said, **settings):
    """Run a study that must stop after two of its trials; returns the error."""
    with pytest.raises(StoreError) as found:
        run_study(study, output=output, hooks=hooks, **{"debug": True, **settings})
    assert said in str(found.value) and str(found.value).count("\n") == 1, found.value
    results = load_study(output / "tiny")
    assert [trial.outcome for trial in results.records][:2] == ["complete"] * 2
    assert {trial.outcome for trial in results.records[2:]} <= {None}, "no trial has failed"
    assert "(2 of 4 trials are finished, the others go on later)" in str(found.value)
    assert not (output / "tiny" / "driver.lock").exists()
    return str(found.value)


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("store", "full"),
        ("cache", "full"),
        ("root", "full"),
        ("root", "no inodes"),
        ("store", "read-only"),
        pytest.param("store", "no inodes", marks=pytest.mark.slow),
        pytest.param("cache", "no inodes", marks=pytest.mark.slow),
        pytest.param("cache", "read-only", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_takes_no_more(tiny_study, undisturbed, tmp_path, place, how):
    with small_disk(tmp_path / "disk", "8m", inodes=600) as disk:
        storage = {"store": str(tmp_path / "store"), "cache": str(tmp_path / "cache")}
        storage |= {place: str(tmp_path / "disk" / place)} if place != "root" else {}
        root = tmp_path / "disk" / "runs" if place == "root" else tmp_path / "runs"
        study = tiny_study(space=SPACE, search=SEARCH, storage=storage)
        do = {"full": disk.fill, "no inodes": disk.fill_inodes, "read-only": lambda: disk.remount("ro")}[how]
        said = "Read-only file system" if how == "read-only" else "No space left on device"
        message = stopped(study, root, after(2, do), said)
        assert str(tmp_path / "disk" / ("runs" if place == "root" else place)) in message
        cure = "Make it writable, then go on with `ddcal resume " if how == "read-only" else MAKE_ROOM
        assert f"{cure}{root / 'tiny'}`" in message
        with pytest.raises(StoreError, match=said):  # it is not mended yet
            resume_study(root / "tiny", debug=True)
        disk.remount("rw") if how == "read-only" else disk.free()
        results = resume_study(root / "tiny", debug=True)
        assert trials_of(results) == trials_of(undisturbed)
        assert not list((Path(storage["store"]) / "tmp").iterdir()), "nothing half-written is left"


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "ddcal resume {}"),
        ({"address": "10.0.0.7:6379"}, "ddcal resume {} --address 10.0.0.7:6379"),
        ({"debug": True}, "ddcal resume {} --debug"),
        ({"command": ["ddcal", "confirm", "runs/a b"], "debug": True}, "ddcal confirm 'runs/a b' --debug"),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_was_given(tiny_study, undisturbed, options, command):
    hooks = StudyProgress(Console(), **options).hooks
    with pytest.raises(StoreError) as found, stops_the_study(undisturbed.directory, hooks.command):
        raise StoreError("the store is full", "free space there")
    assert str(found.value).endswith(f"Free space there, then go on with `{command.format(undisturbed.directory)}`")


def test_a_root_that_is_read_only_is_told_at_once(tiny_study, tmp_path):
    """While a study runs it cannot be mounted so: its ledger is open."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        study = tiny_study(storage={"store": str(tmp_path / "store")})
        run_study(study, output=tmp_path / "disk", debug=True)
        disk.remount("ro")
        for verb in (
            ["resume", tmp_path / "disk" / "tiny", "--debug", "--trials", 3],
            ["export", tmp_path / "disk" / "tiny"],
        ):
            to = ["--to", tmp_path / "disk" / "best"] if verb[0] == "export" else []
            result = CliRunner().invoke(app, [str(part) for part in [*verb, *to]])
            assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), result.exception
            assert "Read-only file system" in result.output and len(result.output.splitlines()) <= 3, result.output


@pytest.mark.slow
def test_mlflow_on_the_disk_that_is_full(tiny_study, tmp_path):
    """Its database, the ledger and its cursor all lie there."""
    study = tiny_study(space=SPACE, search=SEARCH, tracking={})
    expected = run_study(study, output=tmp_path / "undisturbed", debug=True)
    with small_disk(tmp_path / "disk", "20m") as disk:
        stopped(study, tmp_path / "disk" / "runs", after(2, disk.fill), "No space left on device")
        disk.free()
        assert_same(resume_study(tmp_path / "disk" / "runs" / "tiny", debug=True), expected)


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_moment(write_study, tmp_path):
    """From a disk too small for a first trial to one too small for the tables: every size is told in one sentence."""
    file = write_study(space=SPACE, search=SEARCH)
    sizes = [24, 60, 100, 150, 200, 260, 320, 380, 440, 500]
    stops = 0
    for size in sizes:
        with small_disk(tmp_path / f"disk{size}", f"{size}k") as disk:
            result = CliRunner().invoke(app, ["run", str(file), "--debug", "--output", str(disk.folder / "runs")])
            assert "Traceback" not in result.output and result.exit_code in (0, 1), result.output
            stops += result.exit_code
            assert ("the study stops" in result.output) == (result.exit_code == 1), result.output
            disk.remount("size=20m")
            folder = disk.folder / "runs" / "tiny"
            again = ["resume", str(folder)] if "ddcal resume" in result.output else None
            again = again or ["run", str(file), "--output", str(disk.folder / "runs")]
            if result.exit_code:
                result = CliRunner().invoke(app, [*again, "--debug"])
                assert result.exit_code == 0, result.output
            assert [trial.outcome for trial in load_study(folder).records] == ["complete"] * len(IPC)
    assert stops >= len(sizes) // 2


# Without the right to mount


def in_place_of(folder):
    """Put a file where a folder is; returns what undoes it."""
    moved = folder.with_name(f"{folder.name}.moved")
    folder.rename(moved)
    folder.write_text("")

    def undo():
        folder.unlink()
        moved.rename(folder)

    return undo


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["store/tmp", "tiny/logs"])
def test_a_folder_that_became_a_file(tiny_study, undisturbed, tmp_path, folder):
    undo = []
    study = tiny_study(space=SPACE, search=SEARCH)
    hooks = after(2, lambda: undo.append(in_place_of(tmp_path / folder)))
    message = stopped(study, tmp_path, hooks, "cannot be written")
    assert str(tmp_path / folder.partition("/")[0]) in message
    undo[0]()
    assert trials_of(resume_study(tmp_path / "tiny", debug=True)) == trials_of(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("room", [300, 20_000])
def test_files_that_may_not_grow(tiny_study, undisturbed, tmp_path, room):
    """As with ``ulimit -f``: the ledger, or a file of the store, meets the limit in the middle of a write."""
    limits = []

    def limit():
        limits.append(no_file_above((tmp_path / "tiny" / "ledger.jsonl").stat().st_size + room))
        limits[0].__enter__()

    study = tiny_study(space=SPACE, search=SEARCH)
    try:
        with pytest.raises(StoreError, match=r"(?s)the study stops .*: File too large.*\nFree space there"):
            run_study(study, output=tmp_path, debug=True, hooks=after(2, limit))
    finally:
        limits[0].__exit__(None, None, None)
    assert {trial.outcome for trial in load_study(tmp_path / "tiny").records} <= {"complete", None}
    assert [*read_ledger(tmp_path / "tiny")], "no line is torn"
    assert trials_of(resume_study(tmp_path / "tiny", debug=True)) == trials_of(undisturbed)


@pytest.mark.slow
def test_s3_that_goes_away(tiny_study, undisturbed, tmp_path, monkeypatch):
    from moto.server import ThreadedMotoServer
    from stores import AWS, make_bucket

    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        make_bucket(f"{host}:{port}", "leaving")
        url = f"s3://leaving/store?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        storage = {"store": url, "cache": str(tmp_path / "cache")}
        study = tiny_study(space=SPACE, search=SEARCH, storage=storage)
        message = stopped(study, tmp_path, after(2, server.stop), "it cannot be reached")
        assert "See that it can be read and written again, then go on with" in message
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        assert trials_of(resume_study(tmp_path / "tiny", debug=True)) == trials_of(undisturbed)
    finally:
        server.stop()


def test_a_worker_says_that_it_cannot_go_on_and_ends_no_trial(tiny_study, tmp_path):
    trial = trial_from(tiny_study().base, {})
    assignment = Assignment(trial=trial.model_dump(mode="json"), store=str(tmp_path / "store"))
    for spoiled in (replace(assignment, log=str(tmp_path / "file" / "x.log")), assignment):
        (tmp_path / "file").write_text("")
        worker = Worker(spoiled, DatasetCache())
        if spoiled.log is None:
            (tmp_path / "store").write_text("")
        report = worker.step()
        assert report["done"] and "records" not in report and report["points"] == []
        said, cure = report["unusable"]
        assert str(tmp_path) in said and cure == "see that it can be read and written again"
        worker.close()


@pytest.fixture
def data(tmp_path):
    """Data of its own: 10 classes of 10 images each to train and to test."""
    images, labels = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8), np.arange(100) % 10
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return tmp_path / "own.npz"


def test_data_that_is_not_there_for_a_later_trial_fails_none(tiny_study, tmp_path, data):
    """The driver has seen it as the study began; the mount of another machine may lack it, or lose it."""
    study = tiny_study(base={"data": {"name": "npz", "root": str(data)}}, space=SPACE, search=SEARCH)
    away = data.with_name("away.npz")
    message = stopped(study, tmp_path, after(2, lambda: data.rename(away)), "tiny-0002 cannot begin: DataError: ")
    assert str(data) in message and "\nSee that every machine of the study has its data, " in message
    away.rename(data)
    results = resume_study(tmp_path / "tiny", debug=True)
    assert [trial.outcome for trial in results.records] == ["complete"] * len(IPC)


@pytest.mark.parametrize("what", ["data", "settings"])
def test_a_trial_that_a_machine_cannot_begin_has_no_record(tiny_study, tmp_path, data, what):
    trial = trial_from(tiny_study().base, {"data.name": "npz", "data.root": str(data)}).model_dump(mode="json")
    if what == "data":
        data.unlink()
    else:
        trial["train"]["of_a_later_ddcal"] = 1
    worker = Worker(Assignment(trial=trial, store=str(tmp_path / "store")), DatasetCache(), node="there/1")
    report = worker.step()
    assert report["done"] and "records" not in report and report["points"] == [] and report["node"] == "there/1"
    said, cure = report["unusable"]
    assert said.startswith("trial cannot begin: ") and (str(data) if what == "data" else "of_a_later_ddcal") in said
    assert "\n" not in said and cure.startswith("see that every machine of the study has its data")
    worker.close()


def test_a_log_on_a_full_disk_prints_nothing(tmp_path):
    """Python's logging prints a traceback for every message that it cannot write."""
    program = """
import sys
from pathlib import Path
from ddcal.errors import StoreError
from ddcal.study.run.trial_log import TrialLog
log = TrialLog(Path("/dev/full"))
import logging
for _ in range(3):
    logging.getLogger("ddcal").info("hello")
try:
    log.check()
except StoreError as error:
    print(error, error.cure)
log.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.stderr == ""
    assert done.stdout.startswith("the log /dev/full cannot be written: No space left on device free space there")


# On Ray


def on_ray(ray_session, study, output, hooks, said):
    message = stopped(study, output, hooks, said, debug=False)
    assert "killed" not in message
    return message


@pytest.mark.slow
def test_a_store_that_takes_nothing_stops_a_study_on_ray(tiny_study, undisturbed, tmp_path, ray_session):
    undo = []
    hooks = after(2, lambda: undo.append(in_place_of(tmp_path / "store" / "tmp")))
    on_ray(ray_session, tiny_study(space=SPACE, search=SEARCH), tmp_path, hooks, "cannot be written")
    undo[0]()
    assert trials_of(resume_study(tmp_path / "tiny")) == trials_of(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["store", "root"])
@pytest.mark.parametrize("how", ["full", "no inodes"])
def test_a_disk_that_takes_no_more_on_ray(tiny_study, undisturbed, tmp_path, ray_session, capfd, place, how):
    with small_disk(tmp_path / "disk", "8m", inodes=600) as disk:
        store = tmp_path / ("disk" if place == "store" else ".") / "store"
        root = tmp_path / ("disk" if place == "root" else ".") / "runs"
        study = tiny_study(space=SPACE, search=SEARCH, storage={"store": str(store)})
        do = disk.fill if how == "full" else disk.fill_inodes
        on_ray(ray_session, study, root, after(2, do), "No space left on device")
        assert "Traceback" not in "".join(capfd.readouterr())
        disk.free()
        assert trials_of(resume_study(root / "tiny")) == trials_of(undisturbed)
