"""`ddcal watch`: the page of a study that runs, has crashed, or has ended, and the server of it."""

import json
import urllib.error
import urllib.request
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

from ddcal.analysis.report.watch import page_of, served, watch_study
from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.study.record.lock import LOCK, DriverLock, Holder

RELOAD = '<meta http-equiv="refresh" content="1">'
OUTCOMES = ("complete", "complete", "failed")


@pytest.fixture
def folder(made_study):
    """The folder of a study whose driver does not work."""
    return made_study("first", OUTCOMES).directory


@pytest.mark.slow
def test_the_page_reloads_itself_while_the_study_runs_and_no_longer(folder):
    lock, seen = DriverLock(folder), []
    (folder / "trials.csv").unlink(missing_ok=True)

    def say(status):
        seen.append(status.state)
        text = page_of(folder, None).read_text()
        assert (RELOAD in text) == (status.state == "running") and f"{status.state}: 3 of" in text
        if status.state == "running":
            assert "<script src" not in text and not (folder / "trials.csv").exists(), "its driver writes the tables"
            lock.release()

    status = watch_study(folder, every=1.0, say=say)
    assert seen == ["running", status.state] and status.state in ("finished", "stopped")
    assert RELOAD not in page_of(folder, None).read_text() and (folder / "trials.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_last_page_does_not_reload_whatever_ends_the_watching(folder, tmp_path, error):
    lock, out = DriverLock(folder), tmp_path / "elsewhere"

    def say(status):
        assert RELOAD in page_of(folder, out).read_text()
        raise error

    with pytest.raises(error):
        watch_study(folder, out, every=1.0, say=say)
    lock.release()
    assert 'http-equiv="refresh"' not in page_of(folder, out).read_text() and not (folder / "report").exists()


def test_a_study_that_has_crashed_is_told_with_what_goes_on(folder):
    (folder / LOCK).write_text(json.dumps(asdict(replace(Holder.here(), boot="another"))))
    result = CliRunner().invoke(app, ["watch", str(folder)])
    assert result.exit_code == 0 and result.output.splitlines()[0] == page_of(folder, None).as_uri()
    assert "dead: the page stays as it is" in result.output
    text = page_of(folder, None).read_text()
    assert "dead: 3 of" in text and f"ddcal resume {folder}" in text and 'http-equiv="refresh"' not in text


def fetch(address):
    try:
        with urllib.request.urlopen(address, timeout=600) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


@pytest.mark.parametrize("inside", [True, False])
def test_the_page_is_served_on_the_loopback_interface_to_those_who_have_its_address(folder, tmp_path, inside):
    out = None if inside else tmp_path / "elsewhere"
    page = page_of(folder, out)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("the page")
    with served(folder, out, 0) as address:
        start, secret = address.split("/", 3)[2:]
        secret = secret.split("/")[0]
        assert start.startswith("127.0.0.1:") and len(secret) > 20
        base = f"http://{start}"
        assert fetch(address) == (200, b"the page")
        assert (fetch(f"{base}/{secret}/ledger.jsonl")[0] == 200) == inside, "what the page links to"
        wrong = [f"{base}/", f"{base}/report/index.html", f"{base}/x{secret}/index.html", f"{base}/{secret}/figures/"]
        wrong += [f"{base}/{secret}/../{folder.name}/ledger.jsonl", f"{base}/{secret}/%2e%2e/%2e%2e/etc/passwd"]
        assert [fetch(one)[0] for one in wrong[:-2]] == [404] * 4 and [fetch(one)[1] for one in wrong[-1:]] == [b""]
        port = int(start.rpartition(":")[2])
        with pytest.raises(BadInput, match=f"--port: {port} cannot be used"), served(folder, out, port):
            pass


def test_a_folder_that_is_no_study_s_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["watch", str(tmp_path)])
    assert result.exit_code == 2 and "not a study's folder" in result.output
