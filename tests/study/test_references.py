"""Pruning keeps what studies and exports refer to, for as long as they are there."""

import shutil

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.pipeline import open_store
from ddcal.pipeline.upkeep import list_entries
from ddcal.study import load_study, run_study
from ddcal.study.references import referred_keys


@pytest.fixture
def root(tiny_study, tmp_path):
    run_study(tiny_study(search={"searcher": "random", "trials": 2}), output=tmp_path, debug=True)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def keys_of(root):
    return {key for trial in load_study(root / "tiny").records for key in trial.keys.values()}


def with_members(root, keys):
    """Keys, and those of the masked logits that calibrations among them are made of."""
    entries = [entry for entry in list_entries(open_store(root / "store")) if entry.key in keys]
    return {*keys, *(key for entry in entries for key in entry.members)}


def test_a_study_refers_to_every_stage_of_its_trials(root):
    assert set(referred_keys(open_store(root / "store"))) == keys_of(root)


def test_prune_spares_a_study_then_its_export_then_nothing(root):
    assert "removed 0 artefacts" in run("store", "prune", root).output
    assert run("export", root / "tiny", "--trial", "0", "--to", root / "kept").exit_code == 0
    first = set(load_study(root / "tiny").records[0].keys.values())
    first, everything = with_members(root, first), with_members(root, keys_of(root))
    assert len(everything) == len(keys_of(root)) + 2
    others = everything - first
    shutil.rmtree(root / "tiny")
    assert f"would remove {len(others)} artefacts" in run("store", "prune", root, "--dry-run").output
    assert f"removed {len(others)} artefacts" in run("store", "prune", root).output
    assert {path.name for stage in ("distill", "train") for path in (root / "store" / stage).iterdir()} <= first
    shutil.rmtree(root / "kept")
    assert f"removed {len(first)} artefacts" in run("store", "prune", root / "store").output


def test_one_study_s_artefacts_go_but_those_that_another_uses(root, tiny_study):
    search = {"searcher": "random", "trials": 1}
    other = tiny_study(name="other", base={"train.lr": 0.02}, search=search)  # the same distilled set
    run_study(other, output=root, debug=True)
    alone = keys_of(root) - {key for trial in load_study(root / "other").records for key in trial.keys.values()}
    assert 0 < len(alone) < len(keys_of(root))
    alone = with_members(root, alone)
    assert (
        f"would remove {len(alone)} artefacts"
        in run("store", "prune", root, "--study", root / "tiny", "--dry-run").output
    )
    assert f"removed {len(alone)} artefacts" in run("store", "prune", root, "--study", root / "tiny").output
    store = open_store(root / "store")
    there = {key for stage in ("distill", "train", "calibrate", "evaluate") for key, _ in store.keys(stage)}
    assert there == {key for trial in load_study(root / "other").records for key in trial.keys.values()}


@pytest.mark.parametrize(("folder", "words"), [("absent", "it has no ledger"), ("elsewhere/tiny", "does not use")])
def test_a_study_that_does_not_use_the_store_is_refused(folder, words, root, tiny_study):
    if folder != "absent":
        run_study(tiny_study(search={"searcher": "random", "trials": 1}), output=root / "elsewhere", debug=True)
    result = run("store", "prune", root, "--study", root / folder)
    assert result.exit_code == 2 and words in result.output


def test_what_cannot_be_read_stops_the_pruning(root):
    (root / "tiny" / "ledger.jsonl").write_text("garbage\n")
    with pytest.raises(BadInput, match="nothing was removed"):
        referred_keys(open_store(root / "store"))
    result = run("store", "prune", root)
    assert result.exit_code == 2 and "nothing was removed" in result.output


def test_store_verbs(root, tmp_path_factory):
    listed = run("store", "ls", root)
    assert listed.exit_code == 0 and "digits real ipc 2 seed 0" in listed.output and "tiny" in listed.output
    assert run("store", "verify", root).exit_code == 0
    victim = next((root / "store" / "train").glob("*/networks.safetensors"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    result = run("store", "verify", root)
    assert result.exit_code == 1 and "networks.safetensors does not match its sha256" in result.output
    empty = run("store", "ls", tmp_path_factory.mktemp("empty"))
    assert empty.exit_code == 2 and "is not an artefact store" in empty.output
