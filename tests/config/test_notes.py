"""Rows of presets that were published with ZCA, for studies without (method.md, MTT)."""

import json

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import StudyConfig
from ddcal.config.checks.notes import zca_notes

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
