"""Studies that are interrupted or killed, and go on: in the end they are what they would have been undisturbed."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import yaml
from comparing import assert_same, mirrored
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.mlflow.client import create_database
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import LEDGER, read_ledger
from ddcal.study.record.lock import LOCK, Holder
from ddcal.study.run.runner import Hooks, resume_study
from ddcal.study.search.search import JOURNAL, StudySearch

SPACE = {
    "distill.ipc": {"choice": [1, 2]},
    "calibrate.method": {"choice": ["none", "mts"]},
    "calibrate.mask.ratio": {"uniform": [0.0, 0.9], "when": {"calibrate.method": ["mts"]}},
}
TRIALS = 4


class Killed(BaseException):
    """In the place of a SIGKILL."""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """MLflow takes a second to make one."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture(autouse=True)
def database(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")


@pytest.fixture(scope="module")
def study(tiny_study):
    search = {"searcher": "tpe", "startup": 2, "trials": TRIALS, "enqueue": [{"calibrate.method": "mts"}]}
    return tiny_study(space=SPACE, search=search, tracking={})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, study):
    return run_study(study, output=tmp_path_factory.mktemp("undisturbed"), debug=True)


def interrupt_at(count, error=KeyboardInterrupt):
    """A hook that raises at its ``count``-th call, once."""
    calls = iter(range(1, 1000))

    def hook(_):
        if next(calls) == count:
            raise error

    return hook


@pytest.mark.parametrize(
    "hooks",
    [
        lambda: Hooks(on_trial=interrupt_at(1)),
        lambda: Hooks(on_trial=interrupt_at(3)),
        lambda: Hooks(on_finished=interrupt_at(2)),
        lambda: Hooks(on_advance=interrupt_at(2)),
        lambda: Hooks(on_advance=interrupt_at(9)),
    ],
    ids=["before the first", "before the third", "after the second", "in the first", "in a later one"],
)
def test_an_interrupted_study_goes_on_to_the_same_end(study, undisturbed, tmp_path, hooks):
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, hooks=hooks())
    stopped = load_study(tmp_path / "tiny")
    assert stopped.interrupted and mirrored(tmp_path)[None][0] == "KILLED"
    assert sum(trial.outcome is None for trial in stopped.records) <= 1
    begun, seen = [], []
    results = resume_study(
        tmp_path / "tiny", debug=True, hooks=Hooks(on_start=begun.append, on_finished=lambda t: seen.append(t.number))
    )
    finished = sum(trial.outcome is not None for trial in stopped.records)
    assert [start.finished for start in begun] == [finished] and seen == list(range(finished, TRIALS))
    assert not results.interrupted and results.sessions == 2
    assert_same(results, undisturbed)


@pytest.mark.slow
def test_a_study_that_is_interrupted_in_every_trial_comes_to_the_same_end(study, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, hooks=Hooks(on_advance=interrupt_at(3)))
    for _ in range(TRIALS - 1):
        with pytest.raises(KeyboardInterrupt):
            resume_study(tmp_path / "tiny", debug=True, hooks=Hooks(on_trial=interrupt_at(2)))
    results = resume_study(tmp_path / "tiny", debug=True)
    assert results.sessions == TRIALS + 1 and [trial.attempt for trial in results.records] == [2] * TRIALS
    assert_same(results, undisturbed)


@pytest.mark.slow
def test_a_finished_study_is_extended(study, undisturbed, tmp_path):
    short = study.model_copy(update={"search": study.search.model_copy(update={"trials": 2})})
    run_study(short, output=tmp_path, debug=True)
    command = ["resume", str(tmp_path / "tiny"), "--debug", "--trials", str(TRIALS)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and f"{TRIALS} trials (2 finished)" in result.output
    assert f"{TRIALS}/{TRIALS}  tiny-{TRIALS - 1:04d}" in result.output
    assert_same(load_study(tmp_path / "tiny"), undisturbed)
    assert yaml.safe_load((tmp_path / "tiny" / STUDY).read_text())["search"]["trials"] == TRIALS


@pytest.mark.slow
def test_a_finished_study_that_is_resumed_as_it_is_stays_as_it_is(study, undisturbed, tmp_path):
    run_study(study, output=tmp_path, debug=True)
    assert_same(resume_study(tmp_path / "tiny", debug=True), undisturbed)


# One command that begins a study and goes on with it


@pytest.mark.slow
def test_one_command_begins_a_study_goes_on_with_it_and_says_that_it_is_done(study, undisturbed, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    command = ["run", "--resume", str(file), "--output", str(tmp_path), "--debug"]
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, resume=True, hooks=Hooks(on_advance=interrupt_at(9)))
    for _ in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0 and "winner: tiny-" in result.output, result.output
        assert_same(load_study(tmp_path / "tiny"), undisturbed)
    more = CliRunner().invoke(app, [*command, "--trials", str(TRIALS + 1)])
    assert more.exit_code == 0 and len(load_study(tmp_path / "tiny").records) == TRIALS + 1
    before = (tmp_path / "tiny" / LEDGER).read_bytes()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "finished" in done.output, "a study that was extended is not cut"
    assert (tmp_path / "tiny" / LEDGER).read_bytes() == before, "nothing is left to run"
    assert len(load_study(tmp_path / "tiny").records) == TRIALS + 1
    with pytest.raises(KeyboardInterrupt):
        resume_study(tmp_path / "tiny", trials=TRIALS + 3, debug=True, hooks=Hooks(on_trial=interrupt_at(1)))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert len(load_study(tmp_path / "tiny").records) == TRIALS + 3, "nor one that was stopped before its end"


@pytest.mark.slow
def test_a_study_that_goes_on_with_another_mlflow_has_everything_there(study, undisturbed, empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "other.db")
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, hooks=Hooks(on_trial=interrupt_at(3)))
    uri = f"sqlite:///{tmp_path}/other.db"
    elsewhere = study.model_copy(update={"tracking": type(study.tracking)(uri=uri)})
    results = run_study(elsewhere, output=tmp_path, debug=True, resume=True)
    assert results.study.tracking.uri == uri
    assert_same(results, undisturbed)


@pytest.mark.slow
def test_a_study_that_is_through_is_sent_to_another_mlflow(study, undisturbed, empty_database, tmp_path):
    run_study(study, output=tmp_path, debug=True)
    shutil.copy(empty_database, tmp_path / "other.db")
    file = tmp_path / "tiny.yaml"
    values = study.model_dump(mode="json") | {"tracking": {"uri": f"sqlite:///{tmp_path}/other.db"}}
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    command = ["run", "--resume", str(file), "--output", str(tmp_path), "--debug"]
    assert CliRunner().invoke(app, command).exit_code == 0
    results = load_study(tmp_path / "tiny")
    assert results.study.tracking.uri == values["tracking"]["uri"]
    assert_same(results, undisturbed)
    before = (tmp_path / "tiny" / LEDGER).read_bytes()
    assert "has ended" in CliRunner().invoke(app, command).output
    assert (tmp_path / "tiny" / LEDGER).read_bytes() == before


def test_the_command_refuses_a_study_of_other_settings(study, undisturbed):
    before = (undisturbed.directory / LEDGER).read_bytes()
    other = study.model_copy(update={"objectives": {"val/nll": "min"}, "description": "another"})
    with pytest.raises(BadInput, match=r"begun with other settings \(objectives\.val/.* `ddcal resume"):
        run_study(other, output=undisturbed.directory.parent, debug=True, resume=True)
    assert (undisturbed.directory / LEDGER).read_bytes() == before


# Killed between two writes


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tell", "ask"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_driver_killed_between_ledger_and_optuna(study, undisturbed, tmp_path, monkeypatch, method, moment):
    """Between `trial_finished` and Optuna's tell, and between Optuna's ask and `trial_started`."""
    original = getattr(StudySearch, method)
    calls = iter(range(100))

    def dies(self, *arguments):
        here = next(calls) == 2
        if here and moment == "before":
            raise Killed
        answer = original(self, *arguments)
        if here:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(StudySearch, method, dies)
        with pytest.raises(Killed):
            run_study(study, output=tmp_path, debug=True)
    cut_off_the_end(tmp_path / "tiny")
    assert_same(resume_study(tmp_path / "tiny", debug=True), undisturbed)


def cut_off_the_end(directory):
    """A killed driver has not written that the study ended, and its cursor does not know it."""
    lines = (directory / LEDGER).read_bytes().splitlines(keepends=True)
    assert b'"study_finished"' in lines[-1]
    (directory / LEDGER).write_bytes(b"".join(lines[:-1]))
    cursor = directory / "tracking.json"
    cursor.write_text(
        cursor.read_text().replace(f'"offset": {sum(map(len, lines))}', f'"offset": {sum(map(len, lines[:-1]))}')
    )


@pytest.fixture
def halted(study, tmp_path):
    """The folder of a study that was interrupted in its third trial."""
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, hooks=Hooks(on_trial=interrupt_at(3)))
    return tmp_path / "tiny"


@pytest.mark.slow
@pytest.mark.parametrize(
    "torn", [b"{", b'{"event": "trial_finished", "time": 17', b'{"event": "trial_finished", "number": 2}']
)
def test_half_written_last_lines_and_a_left_over_lock_are_repaired(halted, undisturbed, torn):
    with (halted / LEDGER).open("ab") as stream:
        stream.write(torn)
    with (halted / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 4, "worker_id": "a", "stu')
    (halted / f"{JOURNAL}.lock").symlink_to(halted / JOURNAL)
    assert_same(resume_study(halted, debug=True), undisturbed)
    assert not (halted / f"{JOURNAL}.lock").is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "again"),
    [((), "resume"), ((LEDGER, JOURNAL), "resume"), (("torn", JOURNAL, "lock"), "resume"), ((LEDGER, JOURNAL), "run")],
    ids=["study.yaml alone", "half a journal", "half a line", "run"],
)
def test_a_study_killed_before_the_ledger_s_first_line_begins(study, undisturbed, tmp_path, left, again):
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / STUDY).write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    if LEDGER in left:
        (directory / LEDGER).touch()
    if "torn" in left:
        (directory / LEDGER).write_bytes(b'{"event": "study_star')
    if JOURNAL in left:
        whole = (undisturbed.directory / JOURNAL).read_bytes()
        (directory / JOURNAL).write_bytes(whole[:100])
    if "lock" in left:
        (directory / f"{JOURNAL}.lock").symlink_to(directory / JOURNAL)
    if again == "resume":
        results = resume_study(directory, debug=True)
    else:
        results = run_study(study, output=tmp_path, debug=True)
    assert_same(results, undisturbed)


def test_what_a_killed_driver_leaves_before_the_study_file_is_no_obstacle(study, tmp_path):
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / LOCK).write_text(json.dumps(asdict(replace(Holder.here(), boot="another"))))
    for name in (f".{LOCK}.guard", f".{LOCK}.new", f".{STUDY}.tmp"):
        (directory / name).touch()
    short = study.model_copy(update={"search": study.search.model_copy(update={"trials": 1})})
    assert len(run_study(short, output=tmp_path, debug=True).records) == 1


def test_a_study_that_never_began_takes_its_new_number_of_trials(study, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / STUDY).write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    assert len(resume_study(tmp_path / "tiny", trials=1, debug=True).records) == 1


# Refused


def test_run_on_a_study_s_folder_names_the_command_to_go_on(study, undisturbed):
    before = (undisturbed.directory / LEDGER).read_bytes()
    with pytest.raises(BadInput, match=f"exists: `ddcal resume {undisturbed.directory}` goes on with it"):
        run_study(study, output=undisturbed.directory.parent, debug=True)
    assert (undisturbed.directory / LEDGER).read_bytes() == before


@pytest.mark.parametrize("verb", ["resume", "status", "sync"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_no_study_s_is_refused(tmp_path, verb, exists):
    folder = tmp_path / "other"
    if exists:
        folder.mkdir()
    result = CliRunner().invoke(app, [verb, str(folder)])
    assert result.exit_code == 2 and f"{folder} is not a study's folder" in result.output
    assert not exists or list(folder.iterdir()) == []


@pytest.mark.parametrize("trials", [0, 1, TRIALS - 1])
def test_fewer_trials_than_there_are_are_refused(undisturbed, trials):
    before = (undisturbed.directory / LEDGER).read_bytes()
    result = CliRunner().invoke(app, ["resume", str(undisturbed.directory), "--debug", "--trials", str(trials)])
    assert result.exit_code == 2 and "--trials" in result.output
    assert trials == 0 or f"has {TRIALS} trials already" in result.output
    assert (undisturbed.directory / LEDGER).read_bytes() == before


@pytest.mark.parametrize("trials", [[], ["--trials", str(TRIALS)]], ids=["", "as many"])
def test_a_finished_study_says_so_at_once_and_how_it_is_extended(undisturbed, trials):
    before = (undisturbed.directory / LEDGER).read_bytes()
    result = CliRunner().invoke(app, ["resume", str(undisturbed.directory), *trials])  # without Ray, at that
    assert result.exit_code == 0 and (undisturbed.directory / LEDGER).read_bytes() == before
    name = undisturbed.study.name
    assert result.output.startswith(f"{name} has ended: {TRIALS} of {TRIALS} trials finished")
    assert f"for more trials:\n  ddcal resume {undisturbed.directory} --trials {2 * TRIALS}\n" in result.output
    assert f"winner: {undisturbed.best.trial_key}" in result.output


def test_a_study_that_has_run_out_of_points_is_not_said_to_be_extended_by_trials(tiny_study, tmp_path):
    space, search = {"distill.ipc": {"choice": [1, 2]}}, {"searcher": "grid", "trials": 9}
    run_study(tiny_study(space=space, search=search), output=tmp_path, debug=True)
    result = CliRunner().invoke(app, ["resume", str(tmp_path / "tiny")])
    assert result.exit_code == 0 and "as it ended so: every point of the space was tried" in result.output
    assert "--trials" not in result.output


def test_ctrl_c_says_how_to_go_on(write_study, tmp_path, monkeypatch):
    from ddcal.cli.progress import StudyProgress

    hooks = StudyProgress.hooks.fget
    monkeypatch.setattr(StudyProgress, "hooks", property(lambda self: replace(hooks(self), on_trial=interrupt_at(1))))
    result = CliRunner().invoke(app, ["run", str(write_study()), "--output", str(tmp_path / "runs"), "--debug"])
    assert result.exit_code == 130 and "0 of 2 trials are finished" in result.output
    assert f"go on with:\n  ddcal resume {tmp_path}/runs/tiny --debug\n" in result.output


def test_the_order_of_objectives_and_space_is_kept(tiny_study, tmp_path):
    objectives = {"val/nll": "min", "val/accuracy": "max", "val/ece": "min"}
    space = {"train.lr": {"loguniform": [0.01, 1.0]}, "calibrate.mask.ratio": {"uniform": [0.0, 0.9]}}
    study = tiny_study(objectives=objectives, space=space)
    run_study(study, output=tmp_path, debug=True)
    for results in (load_study(tmp_path / "tiny"), resume_study(tmp_path / "tiny", trials=3, debug=True)):
        assert list(results.study.objectives) == list(objectives) and list(results.study.space) == list(space)
        assert [direction.name for direction in StudySearch(results.study, results.directory).optuna.directions] == [
            "MINIMIZE",
            "MAXIMIZE",
            "MINIMIZE",
        ]
    assert list(yaml.safe_load((tmp_path / "tiny" / STUDY).read_text())["objectives"]) == list(objectives)
    resumed = [event for event in read_ledger(tmp_path / "tiny") if event.event == "study_resumed"]
    assert list(resumed[0].study["space"]) == list(space)
    trials = StudySearch(study, tmp_path / "tiny").optuna.get_trials()
    for trial, record in zip(trials, results.records, strict=True):
        assert trial.values == [record.metrics[name] for name in objectives]
