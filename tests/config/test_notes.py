"""Rows of presets that were published with ZCA, for studies without (method.md, MTT)."""

import json

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import StudyConfig
from ddcal.config.checks.notes import (
    constraint_notes,
    expert_notes,
    probe_bins,
    searched_notes,
    unused_notes,
    zca_notes,
)
from ddcal.config.space import trial_of
from ddcal.pipeline import Environment
from ddcal.pipeline.stages.experts import expert_keys

ZCA_ROWS = {
    "published": {("cifar10", 1), ("cifar10", 10), ("cifar100", 1), ("cifar100", 50)},
    "rethinking": {
        *(("cifar10", 1), ("cifar10", 10), ("cifar10", 50)),
        *(("cifar100", 1), ("cifar100", 5), ("cifar100", 10), ("cifar100", 30), ("cifar100", 50)),
    },
}
FILE = """
name: x
objectives: {val/nll: min}
base: {data.name: cifar10, distill.backbone: mtt}
space:
  distill.ipc: {choice: [1, 50]}
"""


def study(base, space):
    return StudyConfig.model_validate({"name": "x", "objectives": {"val/nll": "min"}, "base": base, "space": space})


@pytest.mark.parametrize("family", ZCA_ROWS)
def test_the_rows_with_zca_are_those_of_the_paper(family):
    base = {"distill": {"backbone": "mtt", "family": family}}
    space = {
        "data.name": {"choice": ["cifar10", "cifar100", "tiny-imagenet", "imagenette", "mnist"]},
        "distill.ipc": {"choice": [1, 5, 10, 20, 30, 50]},
    }
    assert zca_notes(study(base, space)) == [
        f"mtt, ipc {ipc}: the row of {name} in family {family} is with ZCA, and data.zca is false: set it to true to "
        "follow the row"
        for name, ipc in sorted(ZCA_ROWS[family])
    ]
    assert zca_notes(study(base | {"data": {"zca": True}}, space)) == []
    assert zca_notes(study(base, space | {"data.zca": {"choice": [False, True]}})) == []


def test_a_condition_counts_and_other_backbones_have_no_such_rows():
    space = {
        "distill.backbone": {"choice": ["dc", "dm", "mtt"]},
        "distill.ipc": {"int": [1, 10], "when": {"distill.backbone": ["dc", "dm"]}},
    }
    base = {"data": {"name": "cifar10"}, "distill": {"ipc": 50}}
    assert zca_notes(study(base, space)) == [], "MTT is at 50 alone, where the published row is without"
    assert len(zca_notes(study(base | {"distill": {"ipc": 10}}, space))) == 1


def test_validate_says_so_and_the_study_is_right(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text(FILE)
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 0 and f"{file}: ok" in result.output
    assert f"{file}: note: preset of mtt, ipc 1: the row of cifar10" in result.output
    assert "ipc 50" not in result.output
    (entry,) = json.loads(CliRunner().invoke(app, ["validate", str(file), "--json"]).stdout)
    assert entry["ok"] and [note.split(":")[0] for note in entry["notes"]] == ["mtt, ipc 1"]
    result = CliRunner().invoke(app, ["validate", str(file), "--set", "base.data.zca=true"])
    assert result.exit_code == 0 and "note" not in result.output


@pytest.mark.parametrize(
    ("base", "space", "said"),
    [
        ({"train.kl.temperature": 4.0}, {}, ["train.kl.temperature has no effect where train.loss is 'cross_entropy'"]),
        ({"train.kl.temperature": 4.0, "train.loss": "kl"}, {}, []),
        ({"train.kl.temperature": 4.0}, {"train.loss": ["mixup", "kl"]}, []),
        (
            {"train.mixup.alpha": 0.5, "train.focal.gamma": 2.0},
            {"train.loss": ["mixup", "kl"]},
            ["train.focal.gamma has no effect where train.loss is 'mixup' or 'kl', as in every trial: leave it out"],
        ),
        ({"distill.mtt.label_lr": 0.1}, {}, ["distill.mtt.label_lr has no effect where distill.backbone is 'real'"]),
        ({"distill.mtt.label_lr": 0.1}, {"distill.backbone": ["real", "mtt"]}, []),
        (
            {"distill.backbone": "dm"},
            {"distill.mtt.expert_epochs": [1, 2]},
            ["distill.mtt.expert_epochs has no effect"],
        ),
        ({"distill.mtt.experts.epochs": 3, "labels.source": "experts", "distill.backbone": "dm"}, {}, []),
        (
            {"distill.coreset.hardest": True, "distill.coreset.factor": 2},
            {"distill.backbone": ["herding", "k_center"]},
            [
                "distill.coreset.hardest has no effect where distill.backbone is 'herding' or 'k_center'",
                "distill.coreset.factor has no effect",
            ],
        ),
        ({"distill.coreset.hardest": True}, {"distill.backbone": ["herding", "el2n"]}, []),
        (
            {"distill.mtt.experts.count": 9, "distill.mtt.experts.epochs": 5, "distill.backbone": "el2n"},
            {},
            ["distill.mtt.experts.count has no effect where distill.backbone is 'el2n'"],
        ),
        ({"distill.mtt.experts.count": 9}, {"distill.backbone": ["el2n", "datm"]}, []),
        (
            {"distill.mtt.experts": {"count": 9, "epochs": 5}, "labels.source": "experts", "distill.backbone": "dm"},
            {},
            ["distill.mtt.experts.count has no effect where distill.backbone is 'dm'"],
        ),
        (
            {"labels.experts": 3, "labels.temperature": 4.0},
            {},
            ["labels.experts has no effect where labels.source is 'set'", "labels.temperature has no effect"],
        ),
        ({"labels.experts": 3, "distill.mtt.experts.epochs": 3}, {"labels.source": ["set", "experts"]}, []),
        (
            {"distill.mask.ratio": 0.5, "distill.clip": 1.0},
            {"distill.iterations": [1, 2], "distill.backbone": ["real", "herding"]},
            [
                "distill.mask.ratio has no effect where distill.backbone is 'real' or 'herding'",
                "distill.clip has no effect",
                "distill.iterations has no effect",
            ],
        ),
        ({"distill.mask.ratio": 0.5}, {"distill.backbone": ["real", "dm"]}, []),
        (
            {"evaluate.coverage": 0.8, "evaluate.also": ["signs"], "evaluate.shift.images": 100},
            {},
            [
                "evaluate.coverage has no effect where evaluate.also has no 'conformal', as in every trial: leave it",
                "evaluate.shift.images has no effect where evaluate.shift has no corruptions and no datasets, as in",
            ],
        ),
        ({"evaluate.also": ["signs"]}, {"evaluate.coverage": [0.8, 0.9]}, ["evaluate.coverage has no effect"]),
        (
            {"evaluate": {"also": ["conformal"], "coverage": 0.8, "shift": {"corruptions": ["blur"], "images": 9}}},
            {},
            [],
        ),
        (
            {"calibrate.method": "ts_val", "calibrate.folds": 3},
            {"calibrate.mask.ratio": [0.1, 0.5], "calibrate.draws": [1, 5], "calibrate.t_min": [0.5, 1.0]},
            [
                "calibrate.mask.ratio has no effect where calibrate.method is 'ts_val', as in every trial: leave it",
                "calibrate.draws has no effect where calibrate.method is 'ts_val'",
            ],
        ),
        ({}, {"calibrate.method": ["ts_val", "mts"], "calibrate.mask.ratio": [0.1, 0.5]}, []),
        (
            {"calibrate.solver": "paper_lbfgs"},
            {"calibrate.t_max": [5.0, 20.0]},
            ["calibrate.t_max has no effect where calibrate.solver is 'paper_lbfgs', as in every trial: leave it out"],
        ),
        ({}, {"calibrate.t_max": [5.0, 20.0], "calibrate.solver": ["paper_lbfgs", "bounded"]}, []),
        (
            {"distill.backbone": "full", "train.holdout": 0.1},
            {},
            [
                "distill.ipc has no effect where distill.backbone is 'full', as in every trial: leave it out",
                "train.holdout has no effect where distill.backbone is 'full', as in every trial: leave it out",
            ],
        ),
        ({"train.holdout": 0.5}, {"distill.backbone": ["full", "real"]}, []),
    ],
)
def test_settings_that_no_trial_reads_are_told(tiny_study, base, space, said):
    study = tiny_study(base=base, space={name: {"choice": values} for name, values in space.items()})
    found = unused_notes(study)
    assert len(found) == len(said) and all(one.startswith(part) for one, part in zip(found, said, strict=True)), found


@pytest.mark.parametrize(
    ("base", "space", "longest"),
    [
        ({"distill.backbone": "dm"}, {"labels.epoch": [2, 5]}, 5),
        ({"distill.backbone": "dm"}, {"labels.epoch": {"int": [1, 9]}}, 9),
        ({"distill.backbone": "dm"}, {"labels.epoch": [5]}, None),
        ({"distill.backbone": "dm", "labels.epoch": 5}, {"distill.ipc": [1, 2]}, None),
        ({"distill.backbone": "dm", "distill.mtt.experts.epochs": 5}, {"labels.epoch": [2, 5]}, None),
        ({"distill.backbone": "mtt"}, {"labels.epoch": [1, 2]}, None),
        ({"distill.backbone": "el2n"}, {"labels.epoch": [1, 2]}, None),
        ({}, {"distill.backbone": ["mtt", "dm"], "labels.epoch": [1, 2]}, 2),
        (
            {"labels.source": "set"},
            {
                "labels.source": ["set", "experts"],
                "labels.epoch": {"choice": [3, 4], "when": {"labels.source": ["experts"]}},
            },
            4,
        ),
        ({"distill.backbone": "dm"}, {"distill.mtt.experts.epochs": [4, 6], "labels.epoch": [1, 2]}, None),
    ],
)
def test_experts_that_are_trained_anew_for_each_epoch_are_told(tiny_study, base, space, longest):
    found = expert_notes(tiny_study(base={"labels.source": "experts", **base}, space=space))
    if longest is None:
        assert found == []
    else:
        (said,) = found
        assert said.startswith(
            "labels.epoch is searched and distill.mtt.experts.epochs is left out: experts are trained"
        )
        assert f"set that to {longest}, the largest" in said


@pytest.mark.parametrize(
    ("metric", "bound", "cure"),
    [
        ("val/ece", "<= 5", "(ece is 1 at most); for 5 % write <= 0.05"),
        ("val/ece", "<= 1", "(ece is 1 at most); leave it out"),
        ("val/brier", "<= 5", "(brier is 2 at most); leave it out"),
        ("val/ece", "<= 0.99", None),
        ("val/nll", "<= 100", None),
        ("val/accuracy", ">= 0.0", None),
    ],
)
def test_a_bound_that_every_trial_meets_is_told(tiny_study, metric, bound, cure):
    found = constraint_notes(tiny_study(constraints={metric: bound}))
    assert found == ([f"constraints.{metric} {bound!r}: every trial meets it {cure}"] if cure else [])


def test_what_the_note_on_experts_says_is_so(tiny_study):
    """With its cure all trials have the experts of one key."""
    space = {"labels.epoch": {"choice": [2, 5]}}
    keys = {}
    for epochs in (None, 5):
        study = tiny_study(base={"labels.source": "experts", "distill.mtt.experts.epochs": epochs}, space=space)
        trials = [trial_of(study, {"labels.epoch": epoch}) for epoch in (2, 5)]
        keys[epochs] = {expert_keys(trial, "0" * 64, Environment("cpu", 1))[0] for trial in trials}
    assert len(keys[None]) == 2 and len(keys[5]) == 1


def test_validate_and_plan_say_so(write_study):
    space = {"labels.epoch": {"choice": [2, 3]}}
    bound = {"val/ece": "<= 5"}
    path = write_study({"train.kl.temperature": 4.0, "labels.source": "experts"}, space=space, constraints=bound)
    for verb in ("validate", "plan"):
        said = CliRunner().invoke(app, [verb, str(path)])
        words = " ".join(said.output.split())
        assert said.exit_code == 0 and "train.kl.temperature has no effect" in words, said.output
        assert "experts are trained anew for each value" in words, said.output
        assert "every trial meets it (ece is 1 at most); for 5 % write <= 0.05" in words, said.output


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["base.train.lr=0.5"], ["base.train.lr=0.5 has no effect", "give --set space.train.lr=[0.5]"]),
        (["base.train={lr: 0.5, epochs: 2}"], ["base.train.lr=0.5 has no effect"]),
        (["base={train.lr: 0.5, distill.ipc: 1}"], ["base.train.lr=0.5 has no effect"]),
        (["base.distill.backbone=dc"], ["give --set space.distill.backbone=[dc]"]),
        (["base.distill.mask.ratio=0.5"], []),  # has an effect on real images
        (["base.train.lr=0.5", "space.train.lr=null"], []),
        (["base.distill.ipc=1", "search.trials=1", "nonsense"], []),
    ],
)
def test_a_set_of_what_is_searched_is_told(tiny_study, overrides, said):
    space = {
        "train.lr": {"choice": [0.1, 0.5]},
        "distill.backbone": {"choice": ["real", "dc"]},
        "distill.mask.ratio": {"choice": [0.1], "when": {"distill.backbone": ["dc"]}},
    }
    if "space.train.lr=null" in overrides:
        del space["train.lr"]
    found = searched_notes(tiny_study(space=space), overrides)
    assert len(found) == min(1, len(said)) and all(part in found[0] for part in said), found


def test_validate_plan_and_run_say_that_a_set_has_no_effect(write_study, tmp_path):
    path, name = write_study(search={"trials": 1}), "calibrate.mask.ratio"
    for value, warned in ((f"base.{name}=0.5", True), (f"space.{name}=[0.5]", False)):
        for verb in (["validate"], ["plan"], ["run", "--debug", "--output", str(tmp_path / value)]):
            said = CliRunner().invoke(app, [*verb, str(path), "--set", value])
            warning = f"warning: --set {value} has no effect, as this study searches over space.{name}"
            assert said.exit_code == 0 and (warning in said.stderr) == ("has no effect" in said.output) == warned, (
                said.output
            )


def test_a_probe_has_ten_or_fifteen_bins():
    assert [probe_bins(bins) for bins in (5, 10, 15, 20)] == [15, 10, 15, 15]


def test_what_a_probe_does_not_read_is_told(tiny_study):
    base = {"distill.backbone": "dc", "distill.probe.points": 1}
    ends = "has no effect, as trials end with the distilled set (trial: distill)"
    searched = {"evaluate.bins": [10, 15, 20], "evaluate.coverage": [0.8, 0.9]}
    study = tiny_study(trial="distill", base={**base, "evaluate.also": ["conformal"]}, space=searched)
    assert unused_notes(study) == [
        f"evaluate.coverage {ends}: leave it out",
        f"evaluate.bins 20 {ends}: their probes have 15 bins, or 10",
    ]
    plain = {"evaluate.bins": 10, "evaluate.also": ["signs"]}
    assert unused_notes(tiny_study(trial="distill", base={**base, **plain}, space={"distill.ipc": [1, 2]})) == []
