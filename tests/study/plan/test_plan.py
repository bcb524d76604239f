"""``ddcal plan``: stages, disk, packing and time, before anything is run."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.pipeline import Environment, open_store
from ddcal.pipeline import measuring as probing
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.durations import duration
from ddcal.pipeline.stages.masked import MASKED
from ddcal.pipeline.upkeep import list_entries
from ddcal.study import load_study, run_study
from ddcal.study.plan import side_by_side
from ddcal.study.plan.candidates import Planner
from ddcal.study.plan.plan import make_plan
from ddcal.study.plan.side_by_side import Machine, slots
from ddcal.study.plan.time import TRIAL_SECONDS, makespan

IPC = {"distill.ipc": {"choice": [1, 2, 3]}}
MASK = {"calibrate.mask.ratio": {"uniform": [0.0, 0.9]}}
BACKBONES = {
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.mask.ratio": {"choice": [0.0, 0.1], "when": {"distill.backbone": ["dc"]}},
}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_a_container_has_the_cpus_of_its_limit_as_for_ray(files, cpus, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(side_by_side, "CGROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert side_by_side.this_machine().cpus == cpus


def counts(plan):
    return {one.stage: (one.expected, one.worst) for one in plan.stages}


def everything_in(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("space", "trials", "exact", "expected"),
    [
        (IPC, 5, True, {"distill": (3, 3), "train": (3, 3), "calibrate": (3, 3), "evaluate": (3, 3)}),
        (BACKBONES, 3, True, {"distill": (3, 3), "train": (3, 3), "calibrate": (3, 3), "evaluate": (3, 3)}),
        (IPC | BACKBONES, 99, True, {"distill": (9, 9), "train": (9, 9), "calibrate": (9, 9), "evaluate": (9, 9)}),
        (IPC | BACKBONES, 8, False, {"distill": (None, 8), "calibrate": (None, 8)}),
        (MASK, 4, False, {"distill": (1, 1), "train": (1, 1), "calibrate": (4, 4), "evaluate": (4, 4)}),
        (IPC | MASK, 9, False, {"distill": (None, 3), "train": (None, 3), "calibrate": (9, 9)}),
        ({"train.lr": {"loguniform": [0.01, 0.1]}}, 4, False, {"distill": (1, 1), "train": (4, 4)}),
        ({"distill.ipc": {"int": [1, 4]}}, 4, True, {"distill": (4, 4)}),
    ],
)
def test_different_stages_are_counted(space, trials, exact, expected, tiny_study, tmp_path):
    plan = make_plan(tiny_study(space=space, search={"searcher": "tpe", "trials": trials}), output=tmp_path)
    found = counts(plan)
    for stage, (drawn, worst) in expected.items():
        assert found[stage][1] == worst
        assert found[stage][0] == drawn if drawn is not None else 1 <= found[stage][0] <= worst
    assert plan.exact == exact


def test_a_study_of_enqueued_points_needs_just_these(tiny_study, tmp_path):
    """Corners of the space that no trial takes, impossible ones too, are not looked at."""
    space = IPC | {"distill.backbone": {"choice": ["real", "rtp"]}}
    space["distill.rtp.bases"] = {"choice": [8, 100000], "when": {"distill.backbone": ["rtp"]}}
    points = [{"distill.backbone": "real", "distill.ipc": ipc} for ipc in (1, 2)]
    points.append({"distill.backbone": "rtp", "distill.ipc": 2, "distill.rtp.bases": 8})
    search = {"searcher": "tpe", "trials": 3, "enqueue": points}
    plan = make_plan(tiny_study(space=space, search=search), output=tmp_path)
    assert plan.exact and plan.basis == "the 3 points of search.enqueue"
    assert counts(plan)["distill"] == counts(plan)["evaluate"] == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_the_drawn_trials_are_those_of_the_study(searcher, tiny_study, tmp_path):
    """random: all of them; tpe: until it has learned. Enqueued ones come first."""
    search = {"searcher": searcher, "trials": 4, "startup": 4, "seed": 3}
    search["enqueue"] = [{"distill.ipc": 2, "calibrate.mask.ratio": 0.5}]
    study = tiny_study(space=IPC | MASK, search=search)
    plan = make_plan(study, output=tmp_path)
    assert plan.exact == (searcher == "random") and everything_in(tmp_path) == []
    run_study(study, output=tmp_path, debug=True)
    drawn = [trial.keys for trial in Planner(study, Environment("cpu", 1)).drawn()]
    assert drawn == [trial.keys for trial in load_study(tmp_path / "tiny").records]
    stages = {stage: len({keys[stage] for keys in drawn}) for stage in drawn[0]}
    assert {stage: expected for stage, (expected, _) in counts(plan).items()} == stages

    before = {path: Path(path).stat().st_mtime_ns for path in everything_in(tmp_path)}
    again = make_plan(study, output=tmp_path)
    assert [(one.in_store, one.to_compute) for one in again.stages] == [(n, 0) for n in stages.values()]
    assert again.time is not None and again.time.work_seconds == 0.0
    assert {path: Path(path).stat().st_mtime_ns for path in everything_in(tmp_path)} == before


def test_disk_is_never_less_than_what_a_study_writes(tiny_study, tmp_path):
    """And, for what is no text, not more than 1.6 times as much."""
    base = {"train.networks": 3, "network.width": 32, "distill.ipc": 5}
    space = {"distill.ipc": {"choice": [5, 6]}, "calibrate.mask.ratio": {"choice": [0.0, 0.9]}}
    study = tiny_study(base=base, space=space, search={"searcher": "random", "trials": 2}, tracking={})
    plan = make_plan(study, output=tmp_path)
    run_study(study, output=tmp_path, debug=True)
    real = {}
    for entry in list_entries(open_store(tmp_path / "store")):
        stage = "calibrate" if entry.stage == MASKED else entry.stage  # which publishes them
        real[stage] = real.get(stage, 0) + entry.bytes
    predicted = {use.what.removesuffix(" stages"): use for use in plan.disk}
    for stage, size in real.items():
        assert size <= predicted[stage].expected <= predicted[stage].worst
    assert predicted["train"].expected <= 1.6 * real["train"]
    rest = sum(
        path.stat().st_size
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_relative_to(tmp_path / "store")
    )
    assert rest <= predicted["ledger, logs, Ray and MLflow"].worst
    assert plan.warnings == [] and all(room > 0 for room in plan.free.values())


def test_settings_of_losses_that_no_trial_has_are_not_told(tiny_study, tmp_path):
    space = {
        "train.loss": {"choice": ["cross_entropy", "mixup", "focal"]},
        "train.mixup.alpha": {"choice": [0.2, 1.0], "when": {"train.loss": ["mixup"]}},
    }
    plan = make_plan(tiny_study(space=space, search={"searcher": "grid", "trials": 4}), output=tmp_path)
    assert counts(plan)["train"] == (4, 4) and counts(plan)["distill"] == (1, 1)
    told = {setting.name: setting.value for setting in plan.settings if setting.name.startswith("train.")}
    assert told["train.focal.gamma"] == 3.0 and told["train.focal.sample_dependent"] is False
    assert not {"train.loss", "train.mixup.alpha", "train.label_smoothing.epsilon"} & told.keys()


def test_a_study_that_ends_with_the_distilled_set_is_told_nothing_of_what_comes_after(tiny_study, tmp_path):
    networks = {"distill.network.width": 4, "train.network.width": 8}
    plan = make_plan(tiny_study(networks, trial="distill", space={"distill.ipc": {"int": [1, 2]}}), output=tmp_path)
    assert list(counts(plan)) == ["distill"] and plan.packing[0].network == "convnet width 4"
    sections = {setting.name.split(".")[0] for setting in plan.settings}
    assert not {"train", "calibrate", "evaluate"} & sections and {"data", "distill", "network"} <= sections


def test_a_disk_that_is_too_small_is_warned_of(tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    plan = make_plan(tiny_study(), output=tmp_path)
    assert len(plan.warnings) == 1 and "0.0 GB free" in plan.warnings[0] and "--output" in plan.warnings[0]


@pytest.mark.parametrize(
    ("concurrency", "resources", "machine", "expected"),
    [
        (2, {"cpu": 1.0}, Machine(4, 0), (2, "search.concurrency")),
        (9, {"cpu": 1.0}, Machine(4, 0), (4, "resources.cpu (4 CPUs here)")),
        (9, {"cpu": 1.5}, Machine(4, 0), (2, "resources.cpu (4 CPUs here)")),
        (9, {"cpu": 0.1}, Machine(1, 0), (1, "resources.threads (1 CPUs here)")),
        (9, {"cpu": 0.0, "threads": 2}, Machine(4, 0), (2, "resources.threads (4 CPUs here)")),
        (9, {"cpu": 0.1, "threads": 2, "gpu": 0.25}, Machine(1, 1), (4, "resources.gpu (1 GPU here)")),
        (9, {"gpu": 0.25}, Machine(16, 1), (4, "resources.gpu (1 GPU here)")),
        (9, {"gpu": 0.4}, Machine(16, 2), (4, "resources.gpu (2 GPUs here)")),
        (9, {"gpu": 2.0}, Machine(16, 3), (1, "resources.gpu (3 GPUs here)")),
        (9, {"gpu": 0.5}, Machine(1, 4), (1, "resources.cpu (1 CPUs here)")),
        (9, {"gpu": 0.5}, Machine(4, 0), (0, "resources.gpu (no GPU here)")),
        (9, {"cpu": 8.0}, Machine(4, 0), (0, "resources.cpu (4 CPUs here)")),
    ],
)
def test_trials_side_by_side(concurrency, resources, machine, expected, tiny_study):
    study = tiny_study(search={"trials": 9, "concurrency": concurrency}, resources=resources)
    assert slots(study, machine) == expected


def test_an_automatic_gpu_counts_one_trial_each(tiny_study):
    study = tiny_study(search={"trials": 9, "concurrency": 9})
    study = study.model_copy(update={"resources": study.resources.model_copy(update={"gpu": "auto"})})
    assert slots(study, Machine(16, 3)) == (3, "resources.gpu (3 GPUs here)")


def test_groups_of_trials(tiny_study, tmp_path):
    study = tiny_study(space=IPC | BACKBONES, search={"trials": 99, "concurrency": 2}, resources={"threads": 2})
    plan = make_plan(study, output=tmp_path, machine=Machine(4, 0))
    groups = {(one.backbone, one.ipc): one.trials for one in plan.packing}
    assert groups == {(b, ipc): 1 if b == "real" else 2 for b in ("real", "dc") for ipc in (1, 2, 3)}
    assert {(one.network, one.dataset, one.at_a_time) for one in plan.packing} == {("convnet width 8", "digits", 2)}
    assert {(one.cpu, one.threads) for one in plan.packing} == {(2.0, 2)} and not plan.warnings


def test_a_study_that_cannot_run_here(tiny_study, tmp_path):
    study = tiny_study(resources={"gpu": 0.5})
    plan = make_plan(study, output=tmp_path, machine=Machine(2, 0))
    assert any("cannot run here" in warning for warning in plan.warnings)
    with pytest.raises(BadInput, match="--probe: the study's trials run on a GPU"):
        make_plan(study, output=tmp_path, probe=True)


def test_settings_are_resolved(tiny_study, tmp_path):
    space = {"distill.backbone": {"choice": ["real", "dc", "dsa"]}, "distill.ipc": {"choice": [1, 10]}}
    plan = make_plan(tiny_study(space=space), output=tmp_path)
    found = {}
    for one in plan.settings:
        found.setdefault(one.name, []).append((one.value, one.where, one.source))
    assert found["train.epochs"] == [(4, "", "study")]
    assert found["distill.iterations"] == [
        (1, "distill.backbone=real", "preset"),
        (1000, "distill.backbone=dc|dsa", "preset"),
    ]
    assert found["train.batch_size"] == [(256, "", "preset")]
    assert "distill.dm.image_lr" not in found  # of a backbone that is not there
    assert found["distill.matching.outer"] == [(1, "distill.ipc=1", "preset"), (10, "distill.ipc=10", "preset")]
    assert found["distill.matching.init"] == [
        ("noise", "distill.backbone=dc", "preset"),
        ("real", "distill.backbone=dsa", "preset"),
    ]
    assert "distill.ipc" not in found


def test_what_is_no_published_row_is_said(tiny_study, tmp_path):
    space = {"distill.backbone": {"choice": ["real", "dsa"]}, "distill.ipc": {"choice": [5, 10]}}
    plan = make_plan(tiny_study(space=space), output=tmp_path)
    assert [note for note in plan.notes if "outer" in note] == [
        "dsa, ipc 5: distill.matching.outer 5 is interpolated between ipc 1 and 10"
    ]


def test_a_row_with_zca_is_said_of_a_study_without(tiny_study, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    parts = {"x_train": pixels, "y_train": np.arange(100) % 10, "x_test": pixels[:10], "y_test": np.arange(10)}
    np.savez(tmp_path / "cifar10.npz", **parts)
    monkeypatch.setenv("DDCAL_DATA", str(tmp_path))
    base = {"data": {"name": "cifar10"}, "distill": {"backbone": "mtt", "ipc": 1}}
    said = "the row of cifar10 in family published is with ZCA, and data.zca is false: set it to true to follow the row"
    assert make_plan(tiny_study(base=base), output=tmp_path).notes == [f"mtt, ipc 1: {said}"]


@pytest.mark.parametrize(
    ("trials", "workers", "published", "expected"),
    [
        ([[("a", 3.0)], [("b", 3.0)]], 2, (), 3.0 + TRIAL_SECONDS),
        ([[("a", 3.0)], [("b", 3.0)]], 1, (), 6.0 + 2 * TRIAL_SECONDS),
        ([[("a", 3.0)], [("b", 3.0)]], 2, ("a", "b"), TRIAL_SECONDS),
        ([[("a", 3.0)], [("a", 3.0)], [("a", 3.0)]], 1, (), 3.0 + 3 * TRIAL_SECONDS),
        # The second waits for the first one's stage while the third goes before it.
        ([[("a", 5.0), ("x", 1.0)], [("a", 5.0), ("y", 1.0)], [("b", 4.0)]], 2, (), 6.0 + 2 * TRIAL_SECONDS),
        ([], 2, (), 0.0),
    ],
)
def test_the_schedule_is_the_drivers(trials, workers, published, expected):
    assert makespan(trials, workers, published) == pytest.approx(expected)


@pytest.fixture
def cheap_probe(monkeypatch):
    """Costs of one second a step for each stage, and the kinds that were asked for."""
    asked = []

    def measure(config, stage, dataset, environment):
        backbone = config.distill.backbone if stage == "distill" else ""
        asked.append((stage, backbone, config.distill.ipc, environment.threads))
        return Cost(1.0)

    monkeypatch.setattr(probing, "measure", measure)
    return asked


def test_the_probe_measures_each_kind_once(tiny_study, tmp_path, cheap_probe):
    base = {"distill.iterations": 10, "train.epochs": 7, "train.networks": 2}
    space = {**BACKBONES, "seed": {"choice": [0, 1]}}
    study = tiny_study(base=base, space=space, search={"trials": 99, "concurrency": 2}, resources={"threads": 2})
    seen = []
    machine = Machine(4, 0)
    plan = make_plan(study, output=tmp_path, probe=True, machine=machine, on_probe=lambda *step: seen.append(step[:2]))
    assert sorted(cheap_probe) == [
        ("calibrate", "", 2, 2),
        *[("distill", "dc", 2, 2)] * 2,  # with and without masks
        ("distill", "real", 2, 2),
        ("evaluate", "", 2, 2),
        ("train", "", 2, 2),
    ]
    assert seen == [(index, 6) for index in range(6)] and everything_in(tmp_path) == []
    rows = {row.what if row.stage == "distill" else row.stage: (row.stages, row.steps) for row in plan.time.kinds}
    assert rows == {
        "digits real ipc 2, width 8": (2, 2),
        "digits dc ipc 2, width 8": (2, 20),
        "digits dc ipc 2 masked, width 8": (2, 20),
        "train": (6, 6 * 7 * 2),
        "calibrate": (6, 12),
        "evaluate": (6, 6),
    }
    assert plan.time.work_seconds == pytest.approx(sum(row.seconds for row in plan.time.kinds))
    assert plan.time.work_seconds / 2 < plan.time.expected_seconds <= plan.time.worst_seconds
    assert plan.time.source == "probe" and plan.time.at_a_time == 2


@pytest.mark.parametrize("busy", [True, False])
def test_a_busy_machine_is_warned_of(busy, tiny_study, tmp_path, monkeypatch):
    def measure(*_):
        until = time.perf_counter() + 0.03
        while time.perf_counter() < until:
            if busy:
                time.sleep(0.03)
        return Cost(1.0)

    monkeypatch.setattr(probing, "measure", measure)
    if not busy:  # the machine of the tests may be busy itself
        monkeypatch.setattr(time, "process_time", time.perf_counter)
    plan = make_plan(tiny_study(), output=tmp_path, probe=True)
    assert [warning.startswith("other programs") for warning in plan.warnings] == [True] * busy


def test_the_stores_seconds_serve_where_nothing_is_measured(tiny_study, tmp_path):
    study = tiny_study(space={"seed": {"choice": [0, 1]}, **MASK}, search={"searcher": "random", "trials": 2})
    assert make_plan(study, output=tmp_path).time is None
    run_study(study, output=tmp_path, debug=True)
    more = study.model_copy(update={"base": study.base | {"train.lr": 0.2}})
    plan = make_plan(more, output=tmp_path)
    assert plan.time.source == "store"
    recorded = {entry.stage: entry.seconds for entry in list_entries(open_store(tmp_path / "store"))}
    row = next(row for row in plan.time.kinds if row.stage == "train")
    assert 0.2 * recorded["train"] < row.seconds / row.stages < 5 * recorded["train"] + 0.1
    threads = more.model_copy(update={"resources": more.resources.model_copy(update={"threads": 2})})
    assert make_plan(threads, output=tmp_path).time is None


def test_distill_studies_have_one_stage(tiny_study, tmp_path):
    assert counts(make_plan(tiny_study(trial="distill", space=IPC, search={"trials": 3}), output=tmp_path)) == {
        "distill": (3, 3)
    }


def test_the_verb(write_study, tmp_path, cheap_probe):
    file = write_study(space=IPC | MASK)
    arguments = ["plan", str(file), "--output", str(tmp_path / "root"), "--set", "search.trials=5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for said in ("tiny: 5 trials", "different stages", "disk: at most", "packing", "--probe", "epochs 4"):
        assert said in result.output
    result = CliRunner().invoke(app, [*arguments, "--probe"])
    assert result.exit_code == 0 and "about" in result.stdout and "measuring 1/" in result.stderr
    result = CliRunner().invoke(app, [*arguments, "--json"])
    data = json.loads(result.stdout)
    assert data["trials"] == 5 and {one["stage"] for one in data["stages"]} >= {"distill", "evaluate"}
    assert data["time"] is None and not (tmp_path / "root").exists()


def test_mistakes_are_told_as_validate_tells_them(write_study):
    file = write_study(objectives={"test/ece": "min"})
    results = [CliRunner().invoke(app, [verb, str(file)]) for verb in ("plan", "validate")]
    assert [result.exit_code for result in results] == [2, 2]
    assert results[0].stderr == results[1].stderr != ""


def test_a_plan_is_plain_data(tiny_study, tmp_path, cheap_probe):
    plan = make_plan(tiny_study(), output=tmp_path, probe=True)
    data = asdict(plan)
    assert json.loads(json.dumps(data)) == data


@pytest.mark.parametrize(
    ("seconds", "text"), [(48.2, "48 s"), (99.0, "99 s"), (450.0, "7.5 min"), (7300.0, "2.0 h"), (4e5, "4.6 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
