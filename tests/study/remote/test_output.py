"""Studies with their output on S3: killed and gone on with elsewhere, two drivers at once, S3 away for a while."""

import json
import random
import re
import signal
import time
import uuid
from pathlib import Path

import pytest
import yaml
from comparing import assert_each_trial_once, assert_same, finish, kill, start, trials_of
from stores import AWS, make_bucket
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput, ResourceError
from ddcal.store.bucket import Bucket
from ddcal.study import load_study, resume_study, run_study
from ddcal.study.mlflow.opening import make_mirror
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import LOCK
from ddcal.study.remote.parts import pack, part_name, read_parts
from ddcal.study.run.places import check_place
from ddcal.study.run.runner import Hooks

SEARCH = {"searcher": "tpe", "startup": 1, "trials": 3}
SPACE = {"distill.ipc": {"choice": [1, 2, 3]}, "calibrate.mask.ratio": {"uniform": [0.0, 0.9]}}


def ddcal(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def url(s3_endpoint):
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    make_bucket(s3_endpoint, bucket)
    return f"s3://{bucket}/runs?endpoint_override={s3_endpoint}&scheme=http&region=us-east-1"


@pytest.fixture
def study(tiny_study, url):
    return tiny_study(space=SPACE, search=SEARCH, storage={"output": url})


@pytest.fixture(scope="module")
def undisturbed(tiny_study, tmp_path_factory):
    study = tiny_study(space=SPACE, search=SEARCH)
    return run_study(study, output=tmp_path_factory.mktemp("whole"), debug=True)


def place(study):
    return Bucket.at(study.storage.output, study.name)


def ledger(results):
    return (results.directory / LEDGER).read_bytes()


def test_a_study_is_on_s3_as_it_is_in_its_folder_and_elsewhere(study, undisturbed, tmp_path, caplog):
    sent = []
    hooks = Hooks(on_finished=lambda trial: sent.append(read_parts(place(study)).count))
    results = run_study(study, output=tmp_path / "here", debug=True, hooks=hooks)
    assert results.uncopied is None and trials_of(results) == trials_of(undisturbed)
    there = read_parts(place(study))
    assert there.content == ledger(results) and 1 <= sent[0] < there.count
    names = place(study).names("files")
    assert {"files/study.yaml", "files/trials.csv", "files/summary.json"} <= set(names)
    assert len([name for name in names if name.endswith(".log")]) == 3
    assert place(study).read(LOCK) is None
    tracked = study.model_copy(update={"tracking": type(study.tracking)()})
    size, part = len(there.content), there.content.index(b"\n") + 1  # MLflow is told no more than S3 has
    assert make_mirror(tracked, results.directory).pending == size
    assert make_mirror(tracked, results.directory, lambda: part).pending == part
    with pytest.raises(ResourceError, match="has a study: `ddcal run --resume` goes on with it"):
        run_study(study, output=tmp_path / "again", debug=True)

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    ended = ddcal("run", file, "--resume", "--output", tmp_path / "elsewhere")
    assert ended.exit_code == 0 and "tiny has ended: 3 of 3 trials finished" in ended.output
    other = tmp_path / "elsewhere" / "tiny"
    assert (other / LEDGER).read_bytes() == ledger(results)
    fetched = ddcal("fetch", file, "--output", tmp_path / "third")
    assert fetched.output == f"{tmp_path / 'third' / 'tiny'}: 3 of 3 trials finished\n"
    assert [path.name for path in (tmp_path / "third" / "tiny" / "logs").iterdir()] != []
    assert ddcal("status", tmp_path / "third" / "tiny").output.startswith("tiny: finished")
    address, _, options = study.storage.output.partition("?")
    assert ddcal("fetch", f"{address}/tiny?{options}", "--output", tmp_path / "third").exit_code == 0
    extended = ddcal("run", file, "--resume", "--debug", "--output", tmp_path / "elsewhere", "--trials", "4")
    assert extended.exit_code == 0, extended.output
    assert "optuna.journal" not in caplog.text
    faults = [line for line in ddcal("verify", other).output.splitlines() if not line.endswith(": whole")]
    assert all(line.endswith("it is missing; an export computes it again") for line in faults), faults
    assert len(load_study(other).records) == 4 and read_parts(place(study)).content == (other / LEDGER).read_bytes()
    # the folder in which it began is behind now: it takes what S3 has
    assert "4 of 4 trials" in ddcal("fetch", file, "--output", tmp_path / "here").output


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_one_in_another_folder(study, undisturbed, tmp_path):
    """SIGKILL as soon as a trial's result is on S3; what goes on has an empty folder."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    process = start("run", file, "--resume", "--debug", "--output", tmp_path / "first")
    while read_parts(place(study)).content.count(b"trial_finished") < 1:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.3)
    kill(process)
    assert json.loads(place(study).read(LOCK).content)["pid"] == process.pid
    results = run_study(study, output=tmp_path / "second", debug=True, resume=True)
    assert results.sessions == 2 and read_parts(place(study)).content == ledger(results)
    assert_each_trial_once(results.directory)
    assert trials_of(load_study(results.directory)) == trials_of(undisturbed)


@pytest.mark.slow
def test_a_scheduler_s_signal_leaves_everything_on_s3(tiny_study, url, tmp_path):
    longer = {
        "base": {"train.epochs": 1500},  # a trial is still at work when the signal comes
        "space": {"train.lr": {"loguniform": [0.01, 0.3]}, "calibrate.mask.ratio": {"uniform": [0.0, 0.9]}},
        "search": {"searcher": "random", "trials": 4},
    }
    study = tiny_study(**longer, storage={"output": url})
    undisturbed = run_study(tiny_study(**longer), output=tmp_path / "whole", debug=True)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    process = start("run", file, "--resume", "--debug", "--output", tmp_path / "first")
    while read_parts(place(study)).content.count(b"trial_finished") < 1:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 75, said
    assert read_parts(place(study)).content == (tmp_path / "first" / "tiny" / LEDGER).read_bytes()
    assert place(study).read(LOCK) is None and "files/study.yaml" in place(study).names("files")
    results = run_study(study, output=tmp_path / "second", debug=True, resume=True)
    assert trials_of(results) == trials_of(undisturbed)


@pytest.mark.slow
def test_a_second_driver_is_refused_and_nothing_is_lost(study, undisturbed, tmp_path):
    refused, file = [], tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))

    def begin_another(trial):
        if trial.number:
            return
        with pytest.raises(BadInput) as raised:
            run_study(study, output=tmp_path / "second", debug=True, resume=True)
        refused.append(str(raised.value))
        fetched = ddcal("fetch", file, "--output", tmp_path / "third")
        assert (
            "1 of 3 trials finished; by s3://" in fetched.output and "a driver elsewhere is at work" in fetched.output
        )
        synced = ddcal("sync", tmp_path / "third" / "tiny")
        assert synced.exit_code == 2 and f"{place(study).url} is in use by process" in synced.output, synced.output

    hooks = Hooks(on_finished=begin_another)
    results = run_study(study, output=tmp_path / "first", debug=True, resume=True, hooks=hooks)
    (said,) = refused
    assert f"{place(study).url} is in use by process" in said
    assert trials_of(results) == trials_of(undisturbed) and read_parts(place(study)).content == ledger(results)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [None, 60.0], ids=["while it runs", "at its end"])
def test_a_driver_whose_place_another_one_took_stops(study, undisturbed, tmp_path, monkeypatch, seconds):
    """Its lock was removed by hand, although it was alive; both would write the same part, and one does."""
    if seconds is not None:  # lines that wait so long are sent only at the end
        monkeypatch.setattr("ddcal.study.remote.copying._AT_ONCE", re.compile(b"nothing of the kind"))
        monkeypatch.setattr("ddcal.study.remote.copying.POINTS_SECONDS", seconds)
    bucket, others = place(study), []

    def go_on_elsewhere(trial):
        if not others:
            bucket.delete(LOCK)
            others.append(run_study(study, output=tmp_path / "second", debug=True, resume=True))

    with pytest.raises(BadInput, match=r"was written by process \d+ on .*: another driver has gone on with this study"):
        run_study(study, output=tmp_path / "first", debug=True, resume=True, hooks=Hooks(on_finished=go_on_elsewhere))
    assert trials_of(others[0]) == trials_of(undisturbed) and read_parts(bucket).content == ledger(others[0])
    first = tmp_path / "first" / "tiny"
    again = run_study(
        study, output=tmp_path / "first", debug=True, resume=True
    )  # has what S3 has, and adds its session
    assert trials_of(again) == trials_of(undisturbed)
    assert (first / f"{LEDGER}.left-behind-1").exists() and read_parts(bucket).content == ledger(again)


@pytest.mark.slow
def test_a_folder_that_is_behind_goes_on_with_all_that_was_done_elsewhere(study, tiny_study, url, tmp_path):
    """Stopped here after a trial of three, extended to four and stopped elsewhere, and gone on with here again."""

    def stop(number):
        def hook(trial):
            if trial.number == number:
                raise KeyboardInterrupt

        return Hooks(on_finished=hook)

    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path / "here", debug=True, resume=True, hooks=stop(0))
    note = {"command": f"touch {tmp_path / 'elsewhere-told'}"}
    longer = tiny_study(space=SPACE, search=SEARCH | {"trials": 4}, storage={"output": url}, notify=note)
    with pytest.raises(KeyboardInterrupt):
        run_study(longer, output=tmp_path / "elsewhere", debug=True, resume=True, hooks=stop(2))
    (tmp_path / "elsewhere-told").unlink()
    results = resume_study(tmp_path / "here" / "tiny", debug=True)
    assert [trial.outcome for trial in results.records] == ["complete"] * 4 and results.study.search.trials == 4
    assert results.sessions == 3 and read_parts(place(study)).content == ledger(results)
    assert not (tmp_path / "elsewhere-told").exists(), "what is on S3 says nothing of what is run here"
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(longer.model_dump(mode="json"), sort_keys=False))
    ended = ddcal("run", file, "--resume", "--output", tmp_path / "elsewhere")
    assert ended.exit_code == 0 and "tiny has ended: 4 of 4 trials finished" in ended.output


@pytest.fixture
def server(monkeypatch):
    """S3 that can go away: moto keeps its buckets while its server is stopped."""
    from moto.server import ThreadedMotoServer

    for name, value in AWS.items():
        monkeypatch.setenv(name, value)

    class Server:
        def __init__(self):
            self.port, self.running = 0, None

        def begin(self):
            self.running = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
            self.running.start()
            self.port = self.running.get_host_and_port()[1]

        def end(self):
            if self.running is not None:
                self.running.stop()
            self.running = None

    one = Server()
    one.begin()
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    make_bucket(f"127.0.0.1:{one.port}", bucket)
    one.url = f"s3://{bucket}?endpoint_override=127.0.0.1:{one.port}&scheme=http&region=us-east-1"
    yield one
    one.end()


@pytest.mark.slow
def test_s3_goes_away_and_comes_back(server, tiny_study, undisturbed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ddcal.study.remote.copying.RETRY_SECONDS", (0.1,))
    study = tiny_study(space=SPACE, search=SEARCH, storage={"output": server.url})

    def away(trial):
        if trial.number == 0:
            server.end()
        elif trial.number == 2:
            deadline = time.monotonic() + 600
            while "the study goes on" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.05)
            server.begin()

    results = run_study(study, output=tmp_path, debug=True, hooks=Hooks(on_finished=away))
    assert results.uncopied is None and trials_of(results) == trials_of(undisturbed)
    assert read_parts(place(study)).content == ledger(results)
    said = [record.getMessage() for record in caplog.records if "storage.output" in record.getMessage()]
    assert len(said) == 2, said
    assert "the study goes on, and it is tried again" in said[0] and "takes the ledger again" in said[1]


@pytest.mark.slow
def test_what_s3_lacks_at_the_end_is_said_and_sent_by_the_same_command(server, tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr("ddcal.study.remote.copying.RETRY_SECONDS", (0.1,))
    monkeypatch.setattr("ddcal.study.remote.copying.CLOSE_SECONDS", 1.0)
    study = tiny_study(space=SPACE, search={**SEARCH, "trials": 2}, storage={"output": server.url})
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    monkeypatch.setattr("ddcal.cli.launch.with_pictures", lambda hooks: Hooks(on_finished=lambda trial: server.end()))
    command = ("run", file, "--resume", "--debug", "--output", tmp_path)
    result = ddcal(*command)
    assert result.exit_code == 75, result.output
    assert f"storage.output: {place(study).url} lacks the last " in result.output
    assert "with the results of trials " in result.output and "run the same command again on this mach" in result.output
    refused = ddcal(*command)
    assert refused.exit_code == 2 and "it cannot be reached" in refused.output, refused.output
    server.begin()
    again = ddcal(*command)
    assert again.exit_code == 0 and "tiny has ended: 2 of 2" in again.output, again.output
    assert read_parts(place(study)).content == (tmp_path / "tiny" / LEDGER).read_bytes()


@pytest.mark.slow
def test_sync_sends_no_more_than_s3_has(server, tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr("ddcal.study.remote.copying.RETRY_SECONDS", (0.1,))
    monkeypatch.setattr("ddcal.study.remote.copying.CLOSE_SECONDS", 1.0)
    study = tiny_study(space=SPACE, search={**SEARCH, "trials": 2}, storage={"output": server.url}, tracking={})
    results = run_study(
        study, output=tmp_path, debug=True, hooks=Hooks(on_finished=lambda trial: trial.number or server.end())
    )
    assert results.uncopied is not None
    server.begin()
    said = ddcal("sync", results.directory)
    assert said.exit_code == 0 and f"`ddcal resume {results.directory}` sends it there" in said.output
    assert make_mirror(study, results.directory).cursor.offset == len(read_parts(place(study)).content)
    assert ddcal("resume", results.directory, "--debug").exit_code == 0
    assert "has everything (" in ddcal("sync", results.directory).output
    assert make_mirror(study, results.directory).pending == 0


def test_a_place_that_cannot_be_used_is_refused_before_anything_runs(write_study, tmp_path, s3_endpoint):
    absent = f"s3://absent-bucket?endpoint_override={s3_endpoint}&scheme=http"
    for mode in ([], ["--resume"]):
        result = ddcal("run", write_study(storage={"output": absent}), "--output", tmp_path / "runs", *mode)
        assert result.exit_code == 2 and "storage.output: s3://absent-bucket/tiny cannot be read" in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", [("run",), ("run", "--resume"), ("fetch",)], ids=" ".join)
def test_a_place_that_cannot_be_reached_is_said_alike_by_every_verb(write_study, tmp_path, verb):
    """Nothing has been done by then: exit code 2."""
    url = "s3://bucket/runs?endpoint_override=127.0.0.1:1&scheme=http"
    file = write_study(storage={"output": url})
    result = ddcal(*verb, file, "--output", tmp_path / "runs")
    said = "s3://bucket/runs/tiny cannot be read: it cannot be reached ("
    assert (result.exit_code, result.output[: len(said) + 16]) == (2, f"storage.output: {said}")
    named = ddcal("fetch", url.replace("/runs?", "/runs/tiny?"), "--output", tmp_path / "runs")
    assert (named.exit_code, named.output) == (2, result.output.removeprefix("storage.output: "))
    assert not (tmp_path / "runs").exists()


def test_validate_says_everything_at_once(write_study):
    wrong = {"output": "gs://bucket/runs", "store": "s3://Bucket", "cache": "s3://bucket/cache"}
    said = ddcal("validate", write_study(storage=wrong)).output
    assert "storage.output: gs:// is not supported" in said and "storage.store: 'Bucket' is not" in said
    assert "S3 is for storage.store and storage.output" in said
    for store in ("s3://bucket/runs", "s3://bucket/runs/tiny/store"):
        said = ddcal("validate", write_study(storage={"output": "s3://bucket/runs", "store": store})).output
        assert "lies where storage.output is: for example s3://bucket/runs/store" in said
    fine = {"output": "s3://bucket/runs", "store": "s3://bucket/runs/store"}
    assert ddcal("validate", write_study(storage=fine)).exit_code == 0


def test_a_ray_job_may_have_the_folder_in_its_working_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    check_place("storage.output", Path("runs"), lasting=False)
    with pytest.raises(ResourceError, match="which is thrown away"):
        check_place("storage.output", Path("runs"))


def test_what_cannot_be_fetched_is_said(url, write_study):
    address, _, options = url.partition("?")
    nothing = ddcal("fetch", f"{address}/tiny?{options}")
    assert nothing.exit_code == 2 and f"{address}/tiny has no study" in nothing.output
    assert ddcal("fetch", "s3://Bucket").exit_code == 2
    assert "a folder: there is nothing to fetch" in ddcal("fetch", write_study()).output


def test_a_ledger_from_s3_that_is_none_is_refused(study, tmp_path):
    bucket = place(study)
    bucket.create(part_name(1), pack(1, 1, b'{"event": "trial_started"}\n', "process 1 on here", "token"))
    with pytest.raises(BadInput, match=f"{bucket.url}: line 1 of the ledger: "):
        run_study(study, output=tmp_path / "runs", debug=True, resume=True)
    assert not (tmp_path / "runs" / "tiny" / LEDGER).exists() and bucket.read(LOCK) is None


MANY = {
    "network": {"width": 8},
    "distill": {
        "iterations": 6,
        "matching": {"outer": 1, "inner": 1, "real_batch": 32},
        "probe": {"points": 2, "epochs": 2},
    },
    "train": {"epochs": 40, "networks": 2, "augment": "none", "lr": 0.1},
}
TRIALS = 24


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "mode", "kills"),
    [("on the driver's disk", ["--debug"], 10), ("on s3", ["--debug"], 10), ("on s3", [], 3)],
    ids=["store on the driver's disk", "store on s3", "ray"],
)
def test_random_kills_each_followed_in_another_empty_folder_change_nothing(
    tiny_study, url, tmp_path, store, mode, kills
):
    space = {
        "distill.backbone": {"choice": ["real", "dc"]},
        "distill.ipc": {"choice": [1, 2, 3]},
        "calibrate.mask.ratio": {"uniform": [0.0, 0.9]},
    }
    search = {"searcher": "tpe", "trials": TRIALS, "startup": 6}
    whole = tiny_study(base=MANY, space=space, search=search, tracking={})
    undisturbed = run_study(whole, output=tmp_path / "whole", debug=True)
    address, _, options = url.partition("?")
    storage, tracking = {"output": url}, {}
    if store == "on s3":  # and MLflow's database stays: what it has from one driver, it has not again from the next
        storage |= {"store": f"{address}/store?{options}", "cache": str(tmp_path / "cache")}
        tracking = {"uri": f"sqlite:///{tmp_path / 'lasting' / 'mlflow.db'}"}
    study = tiny_study(base=MANY, space=space, search=search, tracking=tracking, storage=storage)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    draw, bucket = random.Random(store), place(study)

    def ended(folder):
        path = folder / "tiny" / LEDGER
        return path.read_bytes().count(b'"event": "trial_finished"') if path.is_file() else 0

    before = 0
    for number in range(kills):
        folder = tmp_path / f"folder-{number}"
        process = start("run", file, "--resume", *mode, "--output", folder)
        early = draw.random() < 1 / 3  # wherever it stands: it imports, fetches, or runs the first trials
        until = time.monotonic() + draw.uniform(0.0, 10.0)
        while time.monotonic() < until if early else ended(folder) <= before:
            assert process.poll() is None, process.stderr.read()
            if ended(folder) > before + 1:
                break
            time.sleep(0.01)
        if not early:
            time.sleep(draw.uniform(0.0, 0.8))
        kill(process)
        before = read_parts(bucket).content.count(b'"event": "trial_finished"')
    assert 0 < before < TRIALS
    finish(start("run", file, "--resume", *mode, "--output", tmp_path / "last"))
    results = load_study(tmp_path / "last" / "tiny")
    assert results.sessions > kills // 2, "the others were killed before they went on with it"
    assert [trial.outcome for trial in results.records] == ["complete"] * TRIALS
    assert_each_trial_once(results.directory)
    assert_same(results, undisturbed)
    assert read_parts(bucket).content == ledger(results)


@pytest.mark.slow
def test_a_confirmation_that_s3_did_not_take_is_printed_and_sent_by_the_same_command(
    server, tiny_study, tmp_path, monkeypatch
):
    monkeypatch.setattr("ddcal.study.remote.copying.RETRY_SECONDS", (0.1,))
    monkeypatch.setattr("ddcal.study.remote.copying.CLOSE_SECONDS", 1.0)
    study = tiny_study(space=SPACE, search={**SEARCH, "trials": 1}, storage={"output": server.url})
    run_study(study, output=tmp_path, debug=True)
    monkeypatch.setattr("ddcal.cli.results.with_pictures", lambda hooks: Hooks(on_finished=lambda trial: server.end()))
    command = ("confirm", tmp_path / "tiny", "--top", 1, "--seeds", 2, "--debug")
    result = ddcal(*command)
    assert result.exit_code == 75, result.output
    assert "tiny-0000 (winner) on 2 fresh seeds" in result.output and "tiny-confirm lacks the last " in result.output
    server.begin()
    again = ddcal(*command)
    assert again.exit_code == 0 and "tiny-0000 (winner) on 2 fresh seeds" in again.output, again.output
    there = Bucket.at(study.storage.output, "tiny-confirm")
    assert read_parts(there).content == (tmp_path / "tiny-confirm" / LEDGER).read_bytes()
    assert "files/confirmation.json" in set(place(study).names("files"))
