"""One study evaluates one distilled set on a list of networks: shared stages, plan, and export with replay."""

import json

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.study import load_study, run_study
from ddcal.study.plan.plan import make_plan

NETWORKS = ["convnet", "mlp", "lenet", "vgg11"]


@pytest.fixture(scope="module")
def study(tiny_study):
    return tiny_study(
        base={"data.resolution": 32, "distill.ipc": 1, "network.width": 4, "train.epochs": 2},
        space={
            "train.network.name": {"choice": NETWORKS},
            "train.network.width": {
                "choice": [4],
                "when": {"train.network.name": ["vgg11"]},
            },
            "train.network.norm": {"choice": ["batch"], "when": {"train.network.name": ["vgg11"]}},
        },
        search={"searcher": "grid", "trials": len(NETWORKS)},
    )


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    plan = make_plan(study, output=output)
    return plan, run_study(study, output=output, debug=True)


def test_the_set_is_distilled_once(finished):
    _, results = finished
    assert [trial.outcome for trial in results.records] == ["complete"] * len(NETWORKS)
    assert [trial.values["train.network.name"] for trial in results.records] == NETWORKS
    assert len({trial.keys["distill"] for trial in results.records}) == 1
    assert len({trial.keys["train"] for trial in results.records}) == len(NETWORKS)
    assert [trial.cache_hits for trial in results.records] == [()] + [("distill",)] * (len(NETWORKS) - 1)
    assert len({trial.metrics["val/raw/nll"] for trial in results.records}) == len(NETWORKS)


def test_the_plan_knew_it(finished):
    plan, _ = finished
    assert {one.stage: one.to_compute for one in plan.stages} == {
        "distill": 1,
        "train": len(NETWORKS),
        "calibrate": len(NETWORKS),
        "evaluate": len(NETWORKS),
    }
    assert {one.network for one in plan.packing} == {
        "convnet width 4",
        "mlp width 128",
        "lenet",
        "vgg11 width 4 batch",
    }


@pytest.mark.parametrize("name", ["lenet", "vgg11"])
def test_a_trial_is_exported_and_replayed(finished, name, tmp_path):
    _, results = finished
    trial = next(one for one in load_study(results.directory).records if one.values["train.network.name"] == name)
    runner, target = CliRunner(), str(tmp_path / "out")
    exported = runner.invoke(app, ["export", str(results.directory), "--trial", str(trial.number), "--to", target])
    assert exported.exit_code == 0, exported.output
    replayed = runner.invoke(app, ["replay", target, "--json"])
    assert replayed.exit_code == 0, replayed.output
    assert json.loads(replayed.output)
