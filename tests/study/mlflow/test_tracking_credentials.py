"""A tracking server that asks for a password: it comes from the environment and is written and printed nowhere."""

import base64
import contextlib
import http.server
import logging
import threading

import pytest
import yaml
from ledgers import plain_events, write_plain
from nodes import free_port
from servers import mlflow_server, proxy
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import read_study, study_problems
from ddcal.errors import BadInput, TrackingError
from ddcal.study import load_study, run_study
from ddcal.study.mlflow import follower as following
from ddcal.study.mlflow.client import tracking_uri
from ddcal.study.mlflow.sync import sync_study
from ddcal.study.record.events import StudyStarted
from ddcal.study.record.ledger import LEDGER, read_ledger
from ddcal.study.run.runner import resume_study

SECRET = "S3cretWord"
BASIC = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()


class Asking(http.server.BaseHTTPRequestHandler):
    """Lets nobody in, and notes what each said."""

    said: list[str]

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.said.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PATCH = do_PUT = do_GET

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def asking():
    """A server's address, and what its visitors say."""
    handler = type("Handler", (Asking,), {"said": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", handler.said
        server.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(following, "RETRY_SECONDS", (0.1,))
    monkeypatch.setattr(following, "CLOSE_SECONDS_FAILING", 0.2)
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def holders(root, but=()):
    """The files below ``root`` that hold the password."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in but]
    assert files
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("uri", "plain", "where"),
    [
        (f"http://me:{SECRET}@host:5000", "http://host:5000", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (f"https://{SECRET}@host", "https://host", "MLFLOW_TRACKING_TOKEN"),
        (f"postgresql://me:{SECRET}@host/db", "postgresql://me@host/db", "MLFLOW_TRACKING_URI"),
        (f"mysql://host/db?password={SECRET}", "mysql://host/db", "MLFLOW_TRACKING_URI"),
    ],
)
def test_a_study_with_a_password_is_refused(write_study, tiny_study, tmp_path, uri, plain, where):
    file = write_study(tracking={"uri": uri})
    shown = CliRunner().invoke(app, ["validate", str(file)])
    assert shown.exit_code == 2 and "tracking.uri: a password" in shown.output  # fmt: skip
    assert f"write {plain}, " in shown.output and where in shown.output and SECRET not in shown.output
    assert SECRET not in CliRunner().invoke(app, ["validate", str(file), "--json"]).output
    with pytest.raises(BadInput, match=r"tracking\.uri: a password") as refused:
        run_study(tiny_study(tracking={"uri": uri}), output=tmp_path / "out", debug=True)
    assert SECRET not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override",
    [
        f"tracking.uri=http://me:{SECRET}@host",
        f"storage.store=s3://bucket/x?secret_key={SECRET}",
        f"storage.store=s3://me:{SECRET}@bucket/x",
        f"storage.output=s3://me:{SECRET}@bucket/{'long' * 40}",
        f"tracking={{uri: [http://me:{SECRET}@host]}}",
        f"stop.hours=http://me:{SECRET}@{'long' * 40}",
    ],
)
def test_no_message_about_a_setting_shows_a_password(write_study, override):
    study, problems = study_problems(write_study(), [override])
    assert study is None and problems and SECRET not in "\n".join(map(str, problems)) + repr(problems)


def test_no_message_about_a_store_shows_a_password():
    for place in (f"s3://bucket/x?secret_key={SECRET}", f"s3://me:{SECRET}@bucket/x"):
        shown = CliRunner().invoke(app, ["store", "ls", place])
        assert shown.exit_code == 2 and "credentials do not belong" in shown.output and SECRET not in shown.output


@pytest.mark.slow
@pytest.mark.parametrize("way", ["name and password", "token", "uri"])
def test_the_environment_gives_the_password_and_nothing_holds_it(tiny_study, tmp_path, monkeypatch, caplog, way):
    with asking() as (host, said):
        if way == "uri":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@{host}")
        elif way == "token":
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        study = tiny_study(search={"trials": 1}, tracking={"uri": f"http://{host}"})
        with caplog.at_level(logging.DEBUG):
            results = run_study(study, output=tmp_path, debug=True)
        assert results.best is not None and results.unsent
        assert set(said) == {f"Bearer {SECRET}" if way == "token" else BASIC}
        with pytest.raises(TrackingError, match="MLflow at http://") as refused:
            sync_study(results.directory)
        assert SECRET not in str(refused.value)
    with pytest.raises(TrackingError) as gone:  # nobody listens: the error is another library's
        sync_study(results.directory)
    assert "127.0.0.1" in str(gone.value) and SECRET not in str(gone.value)
    assert f"MLflow at http://{'me:***@' if way == 'uri' else ''}{host}" in caplog.text
    assert SECRET not in caplog.text and holders(tmp_path) == []


def test_the_environments_address_counts_for_the_same_place_alone(tiny_study, tmp_path, monkeypatch):
    study = tiny_study(tracking={"uri": "postgresql://me@host/db"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@host/db")
    assert tracking_uri(study, tmp_path) == f"postgresql://me:{SECRET}@host/db"
    for other in (f"postgresql://me:{SECRET}@host/other", f"postgresql://you:{SECRET}@host/db", "http://host"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        assert tracking_uri(study, tmp_path) == "postgresql://me@host/db"
    assert tracking_uri(tiny_study(tracking={}), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db", "as ever"


def with_password(directory, host):
    """Make a study's folder one that an earlier version wrote, with the password in its ledger and study file."""
    path, uri = directory / LEDGER, f"http://me:{SECRET}@{host}"
    first, *others = plain_events(path)
    first["study"]["tracking"]["uri"] = uri
    write_plain(path, [first, *others])
    (directory / "study.yaml").write_text(yaml.safe_dump(first["study"], sort_keys=False))


def test_an_old_study_with_a_password_goes_on_and_never_shows_it(tiny_study, tmp_path, caplog):
    """Its URI still counts; what is written from now on is without the password."""
    with asking() as (host, said):
        study = tiny_study(search={"trials": 1}, tracking={"uri": f"http://{host}"})
        directory = run_study(study, output=tmp_path, debug=True).directory
        with_password(directory, host)
        said.clear()
        with caplog.at_level(logging.DEBUG):
            resume_study(directory, trials=2, debug=True)
            resumed = resume_study(directory, trials=3, debug=True)
        assert set(said) == {BASIC} and len(resumed.records) == 3
        with pytest.raises(TrackingError) as refused:
            sync_study(directory)
        shown = CliRunner().invoke(app, ["ui", str(directory)])
        assert shown.exit_code == 2 and SECRET not in shown.output + str(refused.value)
    assert "an earlier ddcal wrote the password" in caplog.text and SECRET not in caplog.text
    assert [path.name for path in holders(tmp_path)] == [LEDGER], "what was written stays"
    for event in read_ledger(directory):
        assert isinstance(event, StudyStarted) or SECRET not in event.model_dump_json()
    assert read_study(directory / "study.yaml").tracking.uri == f"http://{host}"
    for verb in ("status", "pareto", "importance"):
        assert SECRET not in CliRunner().invoke(app, [verb, str(directory)]).output


@pytest.mark.slow
def test_what_mlflow_gets_of_an_old_study_has_no_password(tiny_study, tmp_path):
    """A real server behind a proxy, to which the password means nothing."""
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", free_port()) as uri, proxy(uri) as address:
        study = tiny_study(search={"trials": 1}, tracking={"uri": "http://127.0.0.1:1"})
        directory = run_study(study, output=tmp_path / "runs", debug=True).directory
        host = address.removeprefix("http://")
        with_password(directory, host)
        assert "has everything" in sync_study(directory)
        (stored,) = (tmp_path / "server").rglob("study.yaml")
        assert yaml.safe_load(stored.read_text())["tracking"]["uri"] == f"http://me:***@{host}"
        assert holders(tmp_path / "server") == [] and load_study(directory).best is not None
