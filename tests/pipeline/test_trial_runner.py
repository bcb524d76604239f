import io
import logging
import math
import re
import shutil
from importlib.metadata import version

import pytest
import torch

from ddcal.config.metrics import METRICS, VAL_METRICS
from ddcal.errors import DivergedError
from ddcal.pipeline import Environment, TrialRunner, open_store, run_trial

POINTS = [0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
"""Two probes of the distill stage, four scores of the train stage, the evaluation."""


def through_a_file(state):
    """As a Tune checkpoint does it."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=True)


def run(runner):
    advances = []
    while not runner.done:
        advances.append(runner.advance())
    return advances


def points_of(advances):
    return [advance.point for advance in advances if advance.point is not None]


@pytest.fixture
def start(make_trial, environment, datasets):
    """A runner of a tiny trial on a store."""

    def make(root, target="ddnn", **changes):
        checkpoint_seconds = changes.pop("checkpoint_seconds", 30.0)
        return TrialRunner(
            make_trial(**changes),
            open_store(root),
            environment,
            target=target,
            datasets=datasets,
            checkpoint_seconds=checkpoint_seconds,
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, make_trial, environment, datasets):
    """(folder of the store, finished runner, its advances): do not write into that store."""
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    runner = TrialRunner(make_trial(), open_store(root), environment, datasets=datasets)
    return root, runner, run(runner)


def test_progress_never_falls_and_points_lie_at_fixed_places(undisturbed):
    _, runner, advances = undisturbed
    progress = [advance.progress for advance in advances]
    assert progress == sorted(progress)
    assert [point["progress"] for point in points_of(advances)] == POINTS
    assert list(dict.fromkeys(advance.stage for advance in advances)) == ["distill", "train", "calibrate", "evaluate"]
    assert not any(advance.cached for advance in advances)
    assert runner.cache_hits == [] and runner.seconds.keys() == runner.keys.keys()
    with pytest.raises(RuntimeError, match="done"):
        runner.advance()


@pytest.mark.parametrize("changes", [
    {"distill__iterations": 1, "distill__probe": {"points": 4, "epochs": 1}, "train__epochs": 1},
    {"distill__iterations": 2, "distill__probe": {"points": 7, "epochs": 1}, "train__epochs": 2},
    {"distill__iterations": 5, "distill__probe": {"points": 3, "epochs": 1}, "train__epochs": 7},
    {"distill__iterations": 3, "distill__probe": {"points": 0, "epochs": 1}, "train__epochs": 5},
    {"distill__backbone": "real", "distill__probe": {"points": 2, "epochs": 1}, "train__epochs": 4},
    {"distill__backbone": "dm", "distill__probe": {"points": 2, "epochs": 1}},
    {
        "distill__backbone": "rtp",
        "distill__rtp": {"bases": 4, "steps": 3, "batch_per_class": 2},
        "distill__probe": {"points": 2, "epochs": 1},
    },
], ids=str)  # fmt: skip
def test_points_do_not_depend_on_how_the_work_is_cut(changes, tmp_path, start):
    runner = start(tmp_path, train__networks=1, **changes)
    advances = []
    while runner._plan[0] in ("distill", "train"):  # the rest has no points but the last
        advances.append(runner.advance())
    points = changes["distill__probe"]["points"]
    expected = [round(0.5 * k / points, 6) for k in range(1, points + 1)] + POINTS[2:6]
    assert [point["progress"] for point in points_of(advances)] == expected
    progress = [advance.progress for advance in advances]
    assert progress == sorted(progress)


def test_test_metrics_are_in_the_last_point_alone(undisturbed):
    _, runner, advances = undisturbed
    *before, last = points_of(advances)
    for point in before:
        assert point.keys() == {"progress", "stage", "complete", *VAL_METRICS}
        assert point["complete"] is False
        assert all(math.isfinite(point[name]) for name in VAL_METRICS)
    assert last["complete"] is True
    assert {f"{split}/{name}" for split in ("val", "test") for name in METRICS} <= last.keys()
    assert runner.metrics == {
        name: value for name, value in last.items() if name not in ("progress", "stage", "complete")
    }


def test_the_last_train_point_scores_what_the_evaluation_calls_raw(undisturbed):
    _, _, advances = undisturbed
    *_, trained, last = points_of(advances)
    for name in METRICS:
        assert trained[f"val/{name}"] == last[f"val/raw/{name}"]


def test_a_cached_trial_is_the_computed_one_to_the_bit(undisturbed, start):
    root, computed, advances = undisturbed
    runner = start(root)
    again = run(runner)
    assert points_of(again) == points_of(advances)
    assert [advance.progress for advance in again] == sorted(advance.progress for advance in again)
    assert runner.metrics == computed.metrics
    assert runner.cache_hits == ["distill", "train", "calibrate", "evaluate"]
    assert runner.seconds == computed.seconds
    assert all(advance.cached for advance in again)


def test_every_process_gets_the_same_bits(undisturbed, tmp_path, start):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    runner = start(tmp_path)
    advances = run(runner)
    assert points_of(advances) == points_of(undisturbed[2])
    files = {stage: entry.files for stage, entry in runner.entries.items() if stage != "evaluate"}
    assert files == {stage: undisturbed[1].entries[stage].files for stage in files}
    assert torch.equal(torch.get_rng_state(), before)


def test_state_and_restore_at_every_advance_lead_to_the_same_end(undisturbed, tmp_path, start):
    """A copy of the store as it was at that moment, so that what was not finished then is computed again."""
    _, computed, advances = undisturbed
    root, runner, seen = tmp_path / "0", None, []
    for count in range(len(advances) + 1):
        fresh = start(root)
        if runner is not None:
            fresh.restore(through_a_file(runner.state()))
        runner = fresh
        if count < len(advances):
            seen.append(runner.advance())
            following = tmp_path / str(count + 1)
            shutil.copytree(root, following)
            shutil.rmtree(root)
            root = following
            runner.store = open_store(root)
    assert runner.done
    assert seen == advances
    assert runner.metrics == computed.metrics
    assert runner.cache_hits == []


@pytest.mark.parametrize("count", [2, 5, 8])
def test_one_interruption_leads_to_the_same_points(count, undisturbed, tmp_path, start):
    _, computed, advances = undisturbed
    first = start(tmp_path / "first")
    seen = [first.advance() for _ in range(count)]
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    second = start(tmp_path / "second")
    second.restore(through_a_file(first.state()))
    assert seen + run(second) == advances
    assert second.metrics == computed.metrics


def test_restoring_while_points_are_replayed_counts_no_hit_twice(undisturbed, start):
    root, computed, advances = undisturbed
    runner, seen = start(root), []
    while not runner.done:
        seen.append(runner.advance())
        following = start(root)
        following.restore(through_a_file(runner.state()))
        runner = following
    assert points_of(seen) == points_of(advances)
    assert runner.cache_hits == ["distill", "train", "calibrate", "evaluate"]
    assert (runner.metrics, runner.seconds) == (computed.metrics, computed.seconds)


def test_a_state_of_another_trial_or_environment_is_refused(tmp_path, start, make_trial, datasets):
    runner = start(tmp_path)
    runner.advance()
    state = runner.state()
    with pytest.raises(ValueError, match="another config"):
        start(tmp_path, seed=1).restore(state)
    other = TrialRunner(make_trial(), open_store(tmp_path), Environment("cpu", 2), datasets=datasets)
    with pytest.raises(ValueError, match="thread count"):
        other.restore(state)


def test_a_state_whose_stage_was_pruned_says_so(undisturbed, tmp_path, start):
    root, _, _ = undisturbed
    runner = start(root)
    while runner._plan[0] != "train":
        runner.advance()
    with pytest.raises(ValueError, match=r"distill is no longer in the store .*start the trial again"):
        start(tmp_path / "empty").restore(runner.state())


def test_a_checkpoint_in_the_store_is_taken_up_by_any_trial_that_needs_the_stage(undisturbed, tmp_path, start, caplog):
    """Its points are reported at once, before more is computed."""
    _, _, advances = undisturbed
    first = start(tmp_path, checkpoint_seconds=0.0)
    for _ in range(3):  # past the first point
        first.advance()
    second = start(tmp_path, calibrate__method="none")
    with caplog.at_level(logging.INFO, "ddcal"):
        taken = second.advance()
    assert "distill: goes on from its checkpoint at 75 %" in caplog.text
    assert taken.point == points_of(advances)[0]
    assert second._work.fraction == 0.75
    seen = [taken]
    while second._plan[0] != "calibrate":
        seen.append(second.advance())
    assert points_of(seen) == points_of(advances)[:-1]
    assert [advance.progress for advance in seen] == sorted(advance.progress for advance in seen)
    assert not (tmp_path / "partial" / f"{first.keys['distill']}.pt").exists()


def test_checkpoints_are_written_as_often_as_asked(tmp_path, start):
    often, seldom = start(tmp_path / "often", checkpoint_seconds=0.0), start(tmp_path / "seldom")
    for runner in (often, seldom):
        runner.advance()
    assert often.store.load_partial(often.keys["distill"]) is not None
    assert seldom.store.load_partial(seldom.keys["distill"]) is None
    seldom.checkpoint()
    assert seldom.store.load_partial(seldom.keys["distill"]) is not None


@pytest.mark.parametrize(("stage", "name"), [
    ("distill", "synthetic.safetensors"),
    ("distill", "synthetic.json"),
    ("train", "networks.safetensors"),
    ("train", "logits.safetensors"),
    ("calibrate", "calibration.json"),
    ("evaluate", "evaluation.json"),
    ("evaluate", "reliability.png"),
    ("evaluate", "manifest.json"),
])  # fmt: skip
def test_a_flipped_bit_is_noticed_and_computed_again_right(stage, name, undisturbed, tmp_path, start, caplog):
    root, computed, advances = undisturbed
    shutil.copytree(root, tmp_path / "store")
    path = tmp_path / "store" / stage / computed.keys[stage] / name
    content = bytearray(path.read_bytes())
    place = content.rindex(b"0.") + 2 if name.endswith("json") and b"0." in content else len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)
    runner = start(tmp_path / "store")
    with caplog.at_level(logging.WARNING):
        again = run(runner)
    assert f"{stage}/{computed.keys[stage]} is damaged" in caplog.text
    assert points_of(again) == points_of(advances)
    assert runner.metrics == computed.metrics
    assert runner.cache_hits == [other for other in computed.keys if other != stage]
    assert len(list((tmp_path / "store" / "damaged").iterdir())) == 1


def test_a_diagram_that_cannot_be_drawn_does_not_fail_the_trial(undisturbed, tmp_path, start, caplog, monkeypatch):
    root, computed, _ = undisturbed
    shutil.copytree(root, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "evaluate")

    def half_a_picture(figure, path):
        path.write_bytes(b"half")
        raise RuntimeError("no font")

    monkeypatch.setattr("ddcal.pictures.save_figure", half_a_picture)
    runner = start(tmp_path / "store")
    with caplog.at_level(logging.WARNING):
        run(runner)
    assert runner.metrics == computed.metrics
    assert "the reliability diagram is not drawn: RuntimeError: no font" in caplog.text
    assert set(runner.entries["evaluate"].files) == {"evaluation.json"}


def test_target_distill_stops_at_the_set_and_its_probes_score(undisturbed, tmp_path, start):
    runner = start(tmp_path, target="distill")
    advances = run(runner)
    points = points_of(advances)
    assert [point["progress"] for point in points] == [0.5, 1.0]
    assert [point["complete"] for point in points] == [False, True]
    assert list(runner.keys) == ["distill"] and runner.keys["distill"] == undisturbed[1].keys["distill"]
    assert runner.metrics == {name: points[-1][name] for name in VAL_METRICS}
    for point, longer in zip(points, points_of(undisturbed[2]), strict=False):
        assert {name: point[name] for name in VAL_METRICS} == {name: longer[name] for name in VAL_METRICS}
    again = start(tmp_path, target="distill")
    assert points_of(run(again)) == points
    assert again.metrics == runner.metrics


@pytest.mark.parametrize(("backbone", "changes"), [("real", {"ratio": 0.3}), ("dsa", {"unit": "patch"})])
def test_a_set_says_the_same_whichever_of_its_trials_made_it(backbone, changes, tmp_path, start):
    """Else a trial that found its set in the store would replay as different."""
    made = [
        start(tmp_path / str(index), distill__backbone=backbone, distill__mask=mask)
        for index, mask in enumerate([{}, changes])
    ]
    for runner in made:
        run(runner)
    first, second = (runner.entries["distill"] for runner in made)
    assert first.key == second.key and first.files == second.files


def test_target_distill_without_probes_ends_without_metrics(tmp_path, start):
    runner = start(tmp_path, target="distill", distill__probe__points=0)
    (point,) = points_of(run(runner))
    assert point == {"progress": 1.0, "stage": "distill", "complete": True}
    assert runner.metrics == {}


def test_target_distill_of_backbone_full_is_refused(tmp_path, start):
    with pytest.raises(ValueError, match=r"distill\.backbone is 'full'"):
        start(tmp_path, target="distill", distill__backbone="full")


@pytest.mark.parametrize(("changes", "message"), [
    ({"train__lr": 1e30, "train__epochs": 1}, r"train: network 1 diverged .*lower train\.lr \(1e\+30\)"),
    ({"train__lr": 1e30, "train__epochs": 9}, r"train: network 1 diverged .*lower train\.lr \(1e\+30\)"),
    ({"distill__matching__image_lr": 1e30}, r"distill: dc diverged .*lower distill\.matching\.image_lr \(1e\+30\)"),
])  # fmt: skip
def test_divergence_is_an_error_that_names_the_setting(changes, message, tmp_path, start):
    runner = start(tmp_path, **changes)
    with pytest.raises(DivergedError, match=message):
        run(runner)


def test_ece_of_points_follows_ten_bins(tmp_path, start):
    runner = start(tmp_path, evaluate__bins=10, distill__backbone="real")
    point = runner.advance().point
    assert point["val/ece"] == point["val/ece_10"] != point["val/ece_15"]


def test_run_trial_takes_a_store_or_its_folder(undisturbed, make_trial, environment):
    root, computed, advances = undisturbed
    seen = []
    assert run_trial(make_trial(), root, environment=environment) == computed.metrics
    assert (
        run_trial(make_trial(), open_store(root), environment=environment, on_advance=seen.append) == computed.metrics
    )
    assert points_of(seen) == points_of(advances)


@pytest.mark.slow
def test_run_trial_says_its_cost_before_it_begins_and_how_far_it_is(make_trial, environment, tmp_path, capsys):
    run_trial(make_trial(), tmp_path / "quiet", environment=environment, progress=False)
    assert capsys.readouterr() == ("", "")
    metrics = run_trial(make_trial(), tmp_path / "store", environment=environment)
    told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"about .+ on cpu, 1 thread: distill \d+ s, train \d+ s, calibrate \d+ s, evaluate \d+ s", told[0]
    )
    assert [line.split()[-1] for line in told[1:]] == ["distill", "train", "calibrate", "evaluate"]
    assert run_trial(make_trial(), tmp_path / "store", environment=environment) == metrics
    assert f"in the store {tmp_path / 'store'}: nothing is computed" in capsys.readouterr().err
    run_trial(make_trial(train__epochs=2), tmp_path / "store", environment=environment)
    assert capsys.readouterr().err.splitlines()[0].endswith("; in the store: distill")


@pytest.mark.slow
def test_estimating_a_trial_changes_nothing(make_trial, environment, tmp_path):
    told, silent = (
        run_trial(make_trial(), tmp_path / str(progress), environment=environment, progress=progress)
        for progress in (True, False)
    )
    assert told == silent


def test_a_cache_may_be_deleted_while_a_trial_runs(undisturbed, tmp_path, make_trial, environment, datasets):
    store = open_store(tmp_path / "store", tmp_path / "cache")
    runner = TrialRunner(make_trial(), store, environment, datasets=datasets)
    stage = None
    while not runner.done:
        now = runner.advance().stage
        if now != stage:
            stage = now
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert runner.metrics == undisturbed[1].metrics


def test_a_stage_says_which_versions_computed_it(undisturbed):
    _, runner, _ = undisturbed
    for entry in runner.entries.values():
        assert entry.meta["versions"]["torch"] == version("torch") and "ddcal" not in entry.meta["versions"]
