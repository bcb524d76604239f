"""Telling how a study ended: a real command, and a real HTTP server on the loopback interface."""

import http.server
import json
import logging
import os
import signal
import threading

import pytest
from ledgers import add_session
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.study import load_study, notify, resume_study, run_study
from ddcal.study.record.ledger import LEDGER
from ddcal.study.run.runner import Hooks

SECRET = "s3cretword"


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is sent to it, and answers with the server's status."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    """A server whose ``got`` fills, and whose ``status`` may be changed."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        server.got, server.status = [], 204
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def told(tmp_path, monkeypatch):
    """told() -> what the command ``cat >> "$TOLD"`` was given, a JSON a line."""
    file = tmp_path / "told"
    monkeypatch.setenv("TOLD", str(file))
    return lambda: [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


TELL = {"command": '(cat; echo) >> "$TOLD"'}


def stop(_):
    raise KeyboardInterrupt


def test_a_command_is_told_the_end_once(tiny_study, tmp_path, told):
    results = run_study(tiny_study(notify=TELL), output=tmp_path, debug=True)
    [one] = told()
    assert (one["study"], one["outcome"], one["error"], one["finished"], one["trials"]) == (
        "tiny",
        "finished",
        None,
        2,
        2,
    )
    assert one["winner"]["trial_key"] == results.best.trial_key and one["directory"] == str(results.directory)
    assert one["winner"]["metrics"]["val/nll"] == results.best.metrics["val/nll"]
    plain = run_study(tiny_study(), output=tmp_path / "plain", debug=True)
    assert [trial.keys for trial in plain.records] == [trial.keys for trial in results.records]  # part of no key


def test_a_stop_is_told_and_the_end_after_it_again(tiny_study, tmp_path, told):
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(notify=TELL), output=tmp_path, debug=True, hooks=Hooks(on_finished=stop))
    assert [(one["outcome"], one["finished"]) for one in told()] == [("stopped", 1)]
    resume_study(tmp_path / "tiny", debug=True)
    assert [(one["outcome"], one["finished"]) for one in told()] == [("stopped", 1), ("finished", 2)]


def test_who_goes_on_with_a_file_runs_no_command_of_the_ledger(tiny_study, tmp_path, told):
    """Whoever can write to a study's place, a bucket say, can write its ledger."""

    def study(trials, **sections):
        return tiny_study(search={"searcher": "random", "trials": trials}, **sections)

    directory = run_study(study(1), output=tmp_path, debug=True).directory
    add_session(directory / LEDGER, notify={"command": f"touch {tmp_path / 'theirs'}"})
    assert load_study(directory).study.notify.command.startswith("touch")
    results = run_study(study(2), output=tmp_path, debug=True, resume=True)
    assert results.sessions == 3 and not (tmp_path / "theirs").exists()
    assert load_study(directory).study.notify.command is None
    run_study(study(3, notify=TELL, description="mine"), output=tmp_path, debug=True, resume=True)
    assert [one["finished"] for one in told()] == [3] and load_study(directory).study.description == "mine"


def test_a_failure_is_told_with_its_error(tiny_study, tmp_path, told):
    def fail(_):
        raise RuntimeError(f"https://me:{SECRET}@host/ is wrong\nand more")

    with pytest.raises(RuntimeError):
        run_study(tiny_study(notify=TELL), output=tmp_path, debug=True, hooks=Hooks(on_finished=fail))
    [one] = told()
    assert (one["outcome"], one["error"]) == ("failed", "RuntimeError: https://me:***@host/ is wrong")


def test_a_study_of_which_no_trial_ends_has_failed(tiny_study, tmp_path, told):
    run_study(tiny_study(base={"train.lr": 1e9}, notify=TELL), output=tmp_path, debug=True)
    assert [(one["outcome"], one["winner"]) for one in told()] == [("failed", None)]


def test_a_webhook_gets_the_outcome_with_what_the_environment_alone_knows(
    tiny_study, tmp_path, hook, monkeypatch, caplog
):
    monkeypatch.setenv("HOOK", f"http://me:{SECRET}@127.0.0.1:{hook.server_port}/at/{SECRET}?token={SECRET}")
    hook.status = 302  # not followed, and the warning does not say where it went
    with caplog.at_level(logging.INFO):
        results = run_study(tiny_study(notify={"webhook": "$HOOK"}), output=tmp_path, debug=True)
    [(path, authorization, body)] = hook.got
    assert path == f"/at/{SECRET}?token={SECRET}" and authorization.startswith("Basic ")
    assert (body["outcome"], body["study"]) == ("finished", "tiny") and results.completed
    assert "notify.webhook: 127.0.0.1: it answered with HTTP 302" in caplog.messages
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in content for content in written) and SECRET not in caplog.text
    assert load_study(results.directory).study.notify.webhook == "$HOOK"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"command": f"echo {SECRET}; exit 3"}, "notify.command: ended with exit code 3"),
        ({"command": f"no-such-{SECRET}"}, "notify.command: ended with exit code 127"),
        ({"command": "sleep 1000"}, "notify.command: took longer than 0.2 s, and was ended"),
        ({"webhook": "http://127.0.0.1:9/x"}, "notify.webhook: 127.0.0.1: no connection"),
    ],
    ids=["fails", "missing", "hangs", "nobody"],
)
def test_what_fails_is_a_warning_and_changes_no_exit_code(write_study, tmp_path, monkeypatch, caplog, given, warning):
    monkeypatch.setattr(notify, "NOTIFY_SECONDS", 0.2 if "sleep" in str(given) else 60.0)
    file = write_study(notify=given, search={"searcher": "random", "trials": 1})
    result = CliRunner().invoke(app, ["run", str(file), "--debug", "--output", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert any(message.startswith(warning) for message in caplog.messages), caplog.messages
    assert SECRET not in result.output + caplog.text


@pytest.mark.parametrize(
    ("address", "allow", "words"),
    [
        (f"https://host/x?key={SECRET}", False, "$NAME"),
        (f"https://me:{SECRET}@host/x", True, "$NAME"),
        ("http://10.0.0.1/x", False, "notify.allow_http: true"),
        ("ftp://host/x", False, "https://HOST/PATH"),
        ("https://[/", False, "https://HOST/PATH"),
    ],
)
def test_an_address_that_may_not_be_written_or_read_is_refused_unrepeated(write_study, address, allow, words):
    file = write_study(notify={"webhook": address, "allow_http": allow})
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 2 and words in result.output and SECRET not in result.output
    plain = write_study()
    by_hand = ["--set", f"notify.webhook={address}", "--set", f"notify.allow_http={str(allow).lower()}"]
    result = CliRunner().invoke(app, ["validate", str(plain), *by_hand])
    assert result.exit_code == 2 and words in result.output and SECRET not in result.output


def test_plain_http_to_another_machine_can_be_allowed(write_study):
    file = write_study(notify={"webhook": "http://10.0.0.1/x", "allow_http": True})
    assert CliRunner().invoke(app, ["validate", str(file)]).exit_code == 0


@pytest.mark.parametrize("value", [None, f"http://10.0.0.1/{SECRET}", SECRET])
def test_an_environment_without_a_usable_address_is_refused_before_anything_runs(
    tiny_study, tmp_path, monkeypatch, value
):
    if value is not None:
        monkeypatch.setenv("HOOK", value)
    with pytest.raises(BadInput, match=r"notify\.webhook: \$HOOK") as caught:
        run_study(tiny_study(notify={"webhook": "$HOOK"}), output=tmp_path / "runs", debug=True)
    assert SECRET not in str(caught.value) and not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.slow
def test_on_ray_command_and_webhook_are_told_of_every_end_once(
    ray_session, tiny_study, tmp_path, told, hook, monkeypatch
):
    """A study that is stopped by Ctrl-C and goes on to its end, and one of which every trial fails."""
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{hook.server_port}/at/{SECRET}")
    both = TELL | {"webhook": "$HOOK"}

    def outcomes():
        assert [body for _, _, body in hook.got] == told(), "the command and the webhook are told the same"
        return [(one["study"], one["outcome"]) for one in told()]

    pressed = []

    def press(_):
        if not pressed:  # a second one would end the program at once
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    study = tiny_study(search={"searcher": "random", "trials": 6}, notify=both)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, hooks=Hooks(on_finished=press))
    assert outcomes() == [("tiny", "stopped")]
    finished = told()[0]["finished"]
    assert 1 <= finished < 6 and told()[0]["directory"] == str(tmp_path / "tiny")
    results = resume_study(tmp_path / "tiny")
    assert outcomes() == [("tiny", "stopped"), ("tiny", "finished")]
    assert told()[1]["winner"]["trial_key"] == results.best.trial_key and told()[1]["finished"] == 6
    failing = tiny_study(base={"train.lr": 1e9}, notify=both).model_copy(update={"name": "failing"})
    run_study(failing, output=tmp_path)
    assert outcomes()[2:] == [("failing", "failed")] and told()[2]["outcomes"] == {"failed": 2}
    assert told()[2]["winner"] is None and told()[2]["error"] == "no trial ran to its end"
