"""Studies on one store: two at once, on S3, on a store that cannot be written, and on a disk that is full."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from stores import KINDS_OF_STUDIES
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import trial_from
from ddcal.pipeline import DatasetCache, Environment, TrialRunner, open_store
from ddcal.pipeline.upkeep import verify_store
from ddcal.store.lock_holder import Holder
from ddcal.study import load_study, run_study
from ddcal.study.record.references import Reference, kept_for_notes, referred_keys
from ddcal.study.run.worker import Assignment, Worker

DDCAL = [sys.executable, "-c", "from ddcal.cli import main; main()"]
SPACE = {"calibrate.mask.ratio": {"choice": [0.25, 0.5]}}
SEARCH = {"searcher": "random", "trials": 2, "enqueue": [{"calibrate.mask.ratio": ratio} for ratio in (0.25, 0.5)]}


def ddcal(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def storage(place):
    return {"store": str(place.where)} | ({} if place.kind == "folder" else {"cache": str(place.cache)})


def computed(directory):
    """Stage → how often one of a study's trials computed it, from their logs."""
    logs = "".join(path.read_text() for path in (directory / "logs").iterdir())
    return Counter({stage: logs.count(f"{stage}: done in") for stage in ("distill", "train", "calibrate", "evaluate")})


@pytest.mark.slow
def test_two_studies_at_once_compute_every_stage_once(write_study, tmp_path):
    """Real processes on one folder; the trials are the same ones, so every stage is wanted by both."""
    file = write_study(base={"train.epochs": 1500}, space=SPACE, search=SEARCH)
    common = [*DDCAL, "run", str(file), "--debug", "--output", str(tmp_path / "runs"), "--set"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*common, f"name={name}"], env=environment, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    printed = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    one, two = (load_study(tmp_path / "runs" / name) for name in ("one", "two"))
    assert [trial.metrics for trial in one.records] == [trial.metrics for trial in two.records]
    assert [trial.keys for trial in one.records] == [trial.keys for trial in two.records]
    counts = computed(one.directory) + computed(two.directory)
    assert counts == {"distill": 1, "train": 1, "calibrate": 2, "evaluate": 2}
    for results, text in zip((one, two), printed, strict=True):
        waited = results.summary()["cache"]["waited_seconds"]
        assert ("for stages that others computed" in text) == (waited >= 0.05)
    assert list((tmp_path / "runs" / "store" / "leases").iterdir()) == []


@KINDS_OF_STUDIES
def test_a_study_in_debug_mode_and_its_export(place, tiny_study, tmp_path):
    study = tiny_study(space=SPACE, search=SEARCH, storage=storage(place), tracking={})
    results = run_study(study, output=tmp_path / "runs", debug=True)
    assert [trial.cache_hits for trial in results.records] == [(), ("distill", "train")]
    assert [fault for _, _, fault in verify_store(place.open())] == [None] * 8  # masked logits among them
    cold = study.model_copy(update={"name": "again", "storage": type(study.storage)(**storage(place))})
    again = run_study(cold, output=tmp_path / "runs", debug=True)
    assert [len(trial.cache_hits) for trial in again.records] == [4, 4]
    assert [trial.metrics for trial in again.records] == [trial.metrics for trial in results.records]
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    for run in client.search_runs([client.get_experiment_by_name("again").experiment_id]):
        if run.data.tags["ddcal.role"] == "trial":
            assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
                "config.yaml",
                "distilled.png",
                "metrics.json",
                "reliability.png",
            ]
            assert float(run.data.tags["ddcal.saved_seconds"]) > 0 == float(run.data.tags["ddcal.saved_gpu_seconds"])
            assert run.data.tags["ddcal.waited_seconds"] == "0.000"
    assert ddcal("export", tmp_path / "runs" / "tiny", "--trial", "0", "--to", tmp_path / "best").exit_code == 0
    if place.kind == "s3":  # as replaying and the verbs of the store find it by its URL
        os.environ["XDG_CACHE_HOME"], before = str(tmp_path / "home"), os.environ.get("XDG_CACHE_HOME")
        try:
            replayed = ddcal("replay", tmp_path / "best", "--use-store", place.where)
            listed = ddcal("store", "ls", place.where)
        finally:
            os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)
        assert replayed.exit_code == 0, replayed.output
        assert "8 artefacts" in listed.output and "digits real ipc 2" in listed.output


@pytest.mark.slow
@KINDS_OF_STUDIES
def test_prune_spares_what_studies_here_and_elsewhere_refer_to(place, tiny_study, tmp_path, monkeypatch):
    store = place.open()
    here = run_study(
        tiny_study(space=SPACE, search=SEARCH, storage=storage(place)), output=tmp_path / "runs", debug=True
    ).records
    for key in ("e" * 64, "f" * 64):
        store.publish("distill", key, lambda folder: {"seconds": 1.0, "curve": []})
    with monkeypatch.context() as patch:
        patch.setattr("ddcal.study.record.references._machine", lambda: "another 0123")
        reference = Reference(store, "study", Path("/there/runs/tiny"), Path("/there/runs"), "id")
        reference.add(["e" * 64])
        reference.write()
        reference.add(f"{number:064d}" for number in range(1100))
        reference.write()
    keys = referred_keys(place.open())
    assert set(keys) == {k for t in here for k in t.keys.values()} | {"e" * 64} | {f"{n:064d}" for n in range(1100)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert ddcal("store", "prune", place.where, "--dry-run").stdout.startswith("would remove 1 artefacts")
    pruned = ddcal("store", "prune", place.where)
    assert (
        "removed 1 artefacts" in pruned.output and "/there/runs/tiny of another machine (another 0123)" in pruned.output
    )
    shutil.rmtree(tmp_path / "runs" / "tiny")
    assert ddcal("store", "prune", place.where, "--forget", "/there").exit_code == 2
    gone = ("--forget", "/there/runs/tiny", "--forget", str(tmp_path / "runs" / "tiny"))
    last = ddcal("store", "prune", place.where, *gone)
    assert "removed 9 artefacts" in last.output and "--forget" not in last.output
    assert kept_for_notes(place.open()) == [] and [*verify_store(place.open())] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", [["--debug"], []], ids=["debug", "ray"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:1", "it cannot be reached"),
        ("s3://missing-bucket/x?scheme=http&endpoint_override={endpoint}", "there is no bucket missing-bucket"),
    ],
    ids=["unreachable", "missing"],
)
def test_a_store_that_cannot_be_used_is_refused_before_any_trial(write_study, tmp_path, s3_endpoint, url, said, mode):
    file = write_study(storage={"store": url.format(endpoint=s3_endpoint)})
    result = ddcal("run", file, "--output", tmp_path / "runs", *mode)
    assert result.exit_code == 2 and "storage.store: " in result.output and said in result.output, result.output
    assert not (tmp_path / "runs").exists()
    for verb in ("ls", "verify", "prune"):
        named = ddcal("store", verb, url.format(endpoint=s3_endpoint))
        assert (named.exit_code, f"storage.store: {named.output}") == (2, result.output)


def test_credentials_that_are_refused_or_may_only_read(write_study, tiny_study, tmp_path, s3_endpoint, monkeypatch):
    import boto3
    import moto.settings
    from stores import make_bucket

    bucket = "guarded"
    make_bucket(s3_endpoint, bucket)
    url = f"s3://{bucket}/store?scheme=http&endpoint_override={s3_endpoint}&region=us-east-1"
    place = {"store": url, "cache": str(tmp_path / "cache")}
    run_study(tiny_study(space=SPACE, search={**SEARCH, "trials": 1}, storage=place), output=tmp_path, debug=True)
    identities = boto3.client("iam", endpoint_url=f"http://{s3_endpoint}", region_name="us-east-1")
    identities.create_user(UserName="reader")
    may_read = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:HeadBucket"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may_read]})
    identities.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    key = identities.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    file = write_study(space=SPACE, search=SEARCH, storage=place)
    refused = ddcal("run", file, "--output", tmp_path / "refused", "--debug")
    assert refused.exit_code == 2 and "the credentials are refused" in refused.output
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    result = ddcal("run", file, "--output", tmp_path / "reader", "--debug")
    assert result.exit_code == 1
    assert "cannot be written: the credentials are refused" in result.output and "Make it writable" in result.output
    cached, other = load_study(tmp_path / "reader" / "tiny").records
    assert cached.outcome == "complete" and len(cached.cache_hits) == 4
    assert other.outcome is None, "it can go on with other credentials"
    log = (tmp_path / "reader" / "tiny" / other.log).read_text()
    assert "distill: cached" in log and "train: cached" in log and "begins (" not in log


MOUNTED = """
import os, subprocess, sys
from pathlib import Path
from ddcal.config import TrialConfig
from ddcal.errors import StoreError
from ddcal.pipeline import Environment, TrialRunner, open_store
from ddcal.pipeline.upkeep import verify_store

root, case = Path(sys.argv[1]), sys.argv[2]
BASE = {"network": {"width": 8}, "distill": {"backbone": "real", "ipc": 2, "probe": {"epochs": 1}},
        "train": {"epochs": 4, "lr": 0.1, "augment": "none", "networks": 1}}

def run(**calibrate):
    config = TrialConfig.model_validate({**BASE, "calibrate": {"method": "mts", **calibrate}})
    runner = TrialRunner(config, open_store(root / "store"), Environment("cpu", 1))
    try:
        while not runner.done:
            runner.advance()
    finally:
        runner.close()
    return runner

def refused(said):
    try:
        run(t_max=9.0)
    except StoreError as error:
        assert said in str(error) and "cannot be written" in str(error), error
    else:
        raise SystemExit("nothing was refused")

def left():
    store = open_store(root / "store")
    assert all(fault is None for _, _, fault in verify_store(store)), list(verify_store(store))
    return [path.name for folder in ("tmp", "partial", "leases") for path in (root / "store" / folder).glob("*")]

first = run()
assert first.cache_hits == []
if case == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    again = run()
    assert again.metrics == first.metrics and len(again.cache_hits) == 4
    refused("Read-only file system; stages that it holds can be used")
else:
    filler = root / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            pass
    assert run().metrics == first.metrics
    refused("No space left on device")
    assert left() == [], left()
    filler.unlink()
    more = run(t_max=9.0)
    assert more.cache_hits == ["distill", "train"] and left() == []
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["read-only", "full"])
def test_a_disk_that_takes_nothing(case, tmp_path):
    """On a small file system of its own; needs the right to mount in a namespace."""
    mount = f'mount -t tmpfs -o size=2m tmpfs "{tmp_path}" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh"]
    tried = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, timeout=300)
    if not tried or tried.returncode:
        pytest.skip(f"no right to mount: {tried.stderr.decode().strip() if tried else 'no unshare here'}")
    result = subprocess.run(
        [*command, sys.executable, "-c", MOUNTED, str(tmp_path), case], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0 and result.stdout.endswith("done\n"), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_waits_reports_so_that_it_can_be_stopped(tiny_study, tmp_path, monkeypatch):
    """Without points; with a scheduler, which would take such a report for a point, it waits inside its step."""
    monkeypatch.setattr("ddcal.study.run.worker.WAIT_REPORT_SECONDS", 0.3)
    trial = trial_from(tiny_study().base, {})
    runner = TrialRunner(trial, open_store(tmp_path / "store"), Environment("cpu", 1))
    lease = tmp_path / "store" / "leases" / f"{runner.keys['distill']}.json"
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({**vars(Holder.here()), "host": "elsewhere", "token": "t"}))
    assignment = Assignment(trial=trial.model_dump(mode="json"), store=str(tmp_path / "store"), gpu=0.5)
    worker = Worker(replace(assignment, bundle_cached=True), DatasetCache(), catch=False)
    for _ in range(2):
        report = worker.step()
        assert report["points"] == [] and report["progress"] == 0.0 and "done" not in report
    patient = Worker(assignment, DatasetCache(), catch=False)
    threading.Timer(1.0, lease.unlink).start()
    assert patient.step()["points"] != []
    patient.close()
    while "done" not in report:
        report = worker.step()
    (record,) = report["records"]
    assert record["waited_seconds"] >= 0.6 and record["outcome"] == "complete"
    assert record["stage_gpus"] == dict.fromkeys(record["keys"], 0.5)
