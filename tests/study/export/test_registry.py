"""Exports as versions of registered models, in a real SQLite MLflow."""

import mlflow
import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.study import run_study


def ddcal(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_study):
    return run_study(tiny_study(tracking={}), output=tmp_path_factory.mktemp("runs"), debug=True)


@pytest.fixture(scope="module")
def client(study):
    uri = f"sqlite:///{study.directory.parent}/mlflow.db"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.mark.slow
def test_an_export_is_registered_once(study, client, tmp_path):
    for said in ("is version 1 of tiny-model\n", "is version 1 of tiny-model, as before\n"):
        result = ddcal("export", study.directory, "--to", tmp_path / "out", "--register", "tiny-model")
        assert result.exit_code == 0 and result.stdout.endswith(said), result.output
    (version,) = client.search_model_versions("name = 'tiny-model'")
    best, tags = study.best, version.tags
    assert tags["ddcal.trial_key"] == best.trial_key and tags["ddcal.outcome"] == "complete"
    for metric in ("test/ece", "test/raw/ece", "val/nll"):
        assert float(tags[metric]) == pytest.approx(best.metrics[metric], rel=1e-5)
    run = client.get_run(version.run_id)
    assert run.data.tags["ddcal.trial_key"] == best.trial_key
    assert version.source == f"{run.info.artifact_uri}/export"
    there = {path.path for path in client.list_artifacts(version.run_id, "export")}
    assert there == {f"export/{path.name}" for path in (tmp_path / "out").iterdir()}
    other = next(trial for trial in study.records if trial.number != best.number)
    result = ddcal(
        "export", study.directory, "--trial", other.number, "--to", tmp_path / "b", "--register", "tiny-model"
    )
    assert result.exit_code == 0 and "is version 2 of tiny-model" in result.stdout


def test_what_mlflow_refuses_is_not_half_registered(study, client, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise mlflow.MlflowException("no room")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_model_version", refuse)
        result = ddcal("export", study.directory, "--to", tmp_path / "out", "--register", "other")
    assert result.exit_code == 1 and "no room" in result.output and "nothing was registered" in result.output
    assert client.search_registered_models("name = 'other'") == []
    result = ddcal("export", study.directory, "--to", tmp_path / "out", "--register", "other")
    assert result.exit_code == 0 and "is version 1 of other" in result.stdout, "the same command goes on"


@pytest.mark.parametrize("name", ["a/b", "", "a:b"])
def test_a_name_that_no_model_can_have_is_refused_before_anything_is_written(study, tmp_path, name):
    result = ddcal("export", study.directory, "--to", tmp_path / "out", "--register", name)
    assert result.exit_code == 2 and "--register" in result.output and not (tmp_path / "out").exists()


def test_a_study_that_is_not_tracked_has_no_registry(tiny_study, tmp_path):
    results = run_study(tiny_study(), output=tmp_path, debug=True)
    result = ddcal("export", results.directory, "--to", tmp_path / "out", "--register", "tiny")
    assert result.exit_code == 2 and "tracking.uri: none" in result.output and not (tmp_path / "out").exists()
