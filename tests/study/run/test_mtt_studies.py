"""MTT in studies: planned, in this process and on Ray, with experts that all trials share; exported and replayed."""

import pytest

from ddcal.pipeline import open_store
from ddcal.pipeline.upkeep import list_entries
from ddcal.study import load_study, run_study
from ddcal.study.export.export import export_trial
from ddcal.study.export.replay import replay
from ddcal.study.plan.plan import make_plan
from ddcal.study.record.references import all_but, referred_keys

BASE = {
    "distill.backbone": "mtt",
    "distill.iterations": 4,
    "distill.mtt.student_steps": 2,
    "distill.mtt.max_start": 3,
    "distill.mtt.expert_epochs": 2,
    "distill.mtt.rate": 0.1,
    "distill.mtt.gradient": "tesla",
    "distill.mtt.experts": {"count": 3, "precision": "float16"},
}
SPACE = {"distill.ipc": {"choice": [1, 2]}, "distill.mask.ratio": {"choice": [0.0, 0.1]}}
STAGES = ["experts", "distill", "train", "calibrate", "evaluate"]


@pytest.fixture(scope="module")
def study(tiny_study):
    return tiny_study(base=BASE, space=SPACE, search={"searcher": "grid", "trials": 4})


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    """(the plan before it, the study's results) in this process."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddcal.pipeline.measuring.ENOUGH_SECONDS", 1e-3)
        plan = make_plan(study, output=root, probe=True)
    return plan, run_study(study, output=root, debug=True)


def table(results):
    names = [n for n in results.trials.columns if n.startswith(("key/", "val/", "test/", "experts/", "distill/"))]
    return results.trials.sort_values("number")[names].to_dict("records")


@pytest.mark.slow
def test_every_trial_shares_the_experts(finished):
    trials = finished[1].trials
    assert list(trials.outcome) == ["complete"] * 4
    assert trials["key/experts"].nunique() == 1 and trials["seconds/experts"].notna().all()
    assert [hits.split()[0] if hits else "" for hits in trials.cache_hits] == ["", "experts", "experts", "experts"]
    assert trials["key/distill"].nunique() == 4
    assert trials["experts/relative_error"].between(1e-6, 2**-11).all()
    assert trials["distill/gradient_cosine"].between(0.5, 1.0).all()
    assert list(trials.saved_seconds > 0) == [False, True, True, True]


def test_the_plan_counts_one_set_of_experts(finished, study):
    plan, results = finished
    assert {one.stage: one.expected for one in plan.stages} == dict(zip(STAGES, (1, 4, 4, 4, 4), strict=True))
    assert any("'tesla', an approximation" in warning for warning in plan.warnings)
    experts, *_ = [row for row in plan.time.kinds if row.stage == "experts"]
    assert (experts.stages, experts.steps, experts.step) == (1, 12, "epoch of an expert")
    assert experts.seconds > 0.0
    root = results.directory.parent
    real = sum(entry.bytes for entry in list_entries(open_store(root / "store")) if entry.stage == "experts")
    (use,) = [use for use in plan.disk if use.what == "experts stages"]
    assert real <= use.expected <= use.worst and use.expected <= 8 * real
    again = make_plan(study, output=root)
    assert [one.to_compute for one in again.stages] == [0] * 5 and again.time is not None


def test_continuous_settings_of_the_distillation_leave_the_experts_alone(tiny_study, tmp_path):
    space = {"distill.mtt.image_lr": {"loguniform": [1.0, 9.0]}, "distill.mtt.experts.count": {"choice": [1, 2]}}
    plan = make_plan(tiny_study(base=BASE, space=space, search={"trials": 5}), output=tmp_path)
    assert {one.stage: one.worst for one in plan.stages} == dict(zip(STAGES, (2, 5, 5, 5, 5), strict=True))


def test_a_study_gives_up_its_experts_with_its_list_of_them(finished):
    results = finished[1]
    store = open_store(results.directory.parent / "store")
    (key,) = set(load_study(results.directory).trials["key/experts"])
    assert key in referred_keys(store)
    members = store.get("experts", key).meta["members"]
    assert len(members) == 3 and not {key, *members} & all_but(store, results.directory)


def test_an_export_replays_to_the_last_bit(finished, tmp_path):
    results = finished[1]
    folder = export_trial(results, results.best, tmp_path / "best")
    comparisons = replay(folder)
    names = {one.name for one in comparisons}
    assert {"experts/experts.json", "experts/relative_error", "distill/synthetic.safetensors", "val/ece"} <= names
    assert [one.name for one in comparisons if not one.same] == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ray_gives_the_same(finished, study, tmp_path):
    """Two trials at a time: one trains the experts, the other waits for them."""
    two = study.model_copy(update={"search": study.search.model_copy(update={"concurrency": 2})})
    on_ray = run_study(two, output=tmp_path)
    assert table(on_ray) == table(finished[1])
    computed = [hits for hits in on_ray.trials.cache_hits if "experts" not in hits.split()]
    assert len(computed) == 1
