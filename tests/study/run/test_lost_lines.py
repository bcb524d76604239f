"""What a ledger that lost its tail, or all of it, means to those who go on with the study."""

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.study import load_study, resume_study, run_study


@pytest.fixture
def study(tiny_study):
    search = {"searcher": "random", "trials": 2}
    return tiny_study(search=search, tracking={})


def runs_of(root):
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id])
    return sorted(run.info.run_name for run in runs), {run.info.status for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 3])
def test_mlflow_has_each_run_once_after_the_ledger_has_lost_its_last_lines(study, tmp_path, lines):
    run_study(study, output=tmp_path, debug=True)
    ledger = tmp_path / "tiny" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-lines]))
    results = resume_study(tmp_path / "tiny", trials=3, debug=True)
    assert results.unsent == 0 and len(load_study(tmp_path / "tiny").records) == 3
    assert runs_of(tmp_path) == (["tiny", "tiny-0000", "tiny-0001", "tiny-0002"], {"FINISHED"})


@pytest.mark.slow
@pytest.mark.parametrize("left", [None, b""])
@pytest.mark.parametrize("verb", ["resume", "run"])
def test_a_study_whose_ledger_is_gone_is_not_begun_anew_without_a_word(study, write_study, tmp_path, left, verb):
    run_study(study, output=tmp_path, debug=True)
    ledger = tmp_path / "tiny" / "ledger.jsonl"
    ledger.unlink() if left is None else ledger.write_bytes(left)
    before = {path: path.read_bytes() for path in (tmp_path / "tiny").iterdir() if path.is_file()}
    call = ["resume", tmp_path / "tiny"] if verb == "resume" else ["run", write_study(), "--output", tmp_path]
    result = CliRunner().invoke(app, [*map(str, call), "--debug"])
    assert result.exit_code == 2 and "ledger.jsonl is missing or empty, but trials.csv" in result.output
    assert {path: path.read_bytes() for path in before} == before
