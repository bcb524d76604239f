"""Pruning keeps what studies and exports refer to, for as long as they are there."""

import shutil

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.pipeline import open_store
from ddcal.pipeline.upkeep import list_entries
from ddcal.study import load_study, run_study
from ddcal.study.record.references import referred_keys, referrers


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
    kept = run("store", "prune", root)
    assert "removed 0 artefacts" in kept.output and f"--forget {root / 'tiny'} releases them" in kept.output
    assert f"{root / 'tiny'}, which cannot be found" in kept.output
    gone = ("store", "prune", root, "--forget", root / "tiny")
    assert f"would remove {len(others)} artefacts" in run(*gone, "--dry-run").output
    assert f"removed {len(others)} artefacts" in run(*gone).output
    assert {path.name for stage in ("distill", "train") for path in (root / "store" / stage).iterdir()} <= first
    shutil.rmtree(root / "kept")
    again = run("store", "prune", root / "store", "--forget", root / "kept")
    assert f"removed {len(first)} artefacts" in again.output and "releases" not in again.output


def test_a_moved_root_keeps_its_studies_artefacts(root, tmp_path_factory):
    """They were all removed: the notes had the path before the move, where nothing is."""
    assert run("export", root / "tiny", "--trial", "0", "--to", root / "kept").exit_code == 0
    new = tmp_path_factory.mktemp("elsewhere") / "new"
    shutil.move(root, new)
    pruned = run("store", "prune", new)
    assert pruned.exit_code == 0 and pruned.output == "removed 0 artefacts, 0.0 MB\n"
    assert {one.folder for one in referrers(open_store(new / "store"))} == {str(new / "tiny"), str(new / "kept")}
    assert run("export", new / "tiny", "--to", new / "best").exit_code == 0 and not root.exists()
    shutil.rmtree(new / "kept")
    shutil.rmtree(new / "best")
    alone = with_members(new, keys_of(new))
    forgotten = ("--forget", new / "kept", "--forget", new / "best")
    assert f"removed {len(alone)} artefacts" in run("store", "prune", new, "--study", new / "tiny", *forgotten).output


def test_a_study_under_another_name_or_without_a_note_keeps_its_artefacts(root, tiny_study):
    (root / "tiny").rename(root / "archive")
    study = tiny_study(base={"train.lr": 0.02}, search={"searcher": "random", "trials": 1})
    run_study(study, output=root, debug=True)  # takes the place, not the note
    assert "removed 0 artefacts" in run("store", "prune", root).output
    shutil.rmtree(root / "store" / "references")
    assert run("store", "prune", root).output == "removed 0 artefacts, 0.0 MB\n"
    refused = run("store", "prune", root, "--forget", root / "archive")
    assert refused.exit_code == 2 and "nothing is noted" in refused.output


def test_a_study_in_the_place_of_one_that_is_gone(root, tiny_study):
    """What is noted for the one that is gone can be released; what the one that is there names cannot."""
    before = with_members(root, keys_of(root))
    shutil.rmtree(root / "tiny")
    run_study(tiny_study(base={"seed": 7}, search={"searcher": "random", "trials": 1}), output=root, debug=True)
    kept = run("store", "prune", root)
    assert (
        f"kept {len(before) - 2} artefacts noted for {root / 'tiny'}, which does not name them any more" in kept.output
    )
    assert f"removed {len(before)} artefacts" in run("store", "prune", root, "--forget", root / "tiny").output
    assert run("store", "prune", root).output == "removed 0 artefacts, 0.0 MB\n"


def test_an_export_elsewhere_is_noted_by_its_path(root, tmp_path_factory):
    there = tmp_path_factory.mktemp("there") / "best"
    assert run("export", root / "tiny", "--to", there).exit_code == 0
    shutil.rmtree(root / "tiny")
    forgotten = run("store", "prune", root, "--forget", root / "tiny")
    assert {str(there)} == set.union(*referred_keys(open_store(root / "store")).values())
    there.rename(there.with_name("moved"))
    assert f"noted for {there}, which cannot be found" in run("store", "prune", root).output
    assert "removed 0" not in forgotten.output and len([*list_entries(open_store(root / "store"))]) == 5


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
    with pytest.raises(BadInput, match="nothing more is removed"):
        referred_keys(open_store(root / "store"))
    result = run("store", "prune", root)
    assert result.exit_code == 2 and "nothing more is removed" in result.output


def test_an_output_root_with_a_study_that_is_called_like_a_stage(root, tiny_study):
    run_study(tiny_study(name="train", search={"searcher": "random", "trials": 1}), output=root, debug=True)
    assert "digits real ipc 2 seed 0" in run("store", "ls", root).output
    assert run("store", "verify", root).exit_code == 0 and run("store", "verify", root / "store").exit_code == 0


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
