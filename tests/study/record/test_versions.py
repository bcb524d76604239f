"""Ledgers of another version of ddcal: lines that are whole and say what this version does not know."""

import shutil

import pytest
from ledgers import plain_events, write_plain, write_sealed
from typer.testing import CliRunner

from ddcal import __version__
from ddcal.cli import app
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import LEDGER, DamagedLedger, NewerLedger, read_ledger
from ddcal.study.record.provenance import written_by

VERBS = ("status", "pareto", "resume", "verify", "compare")


@pytest.fixture(scope="module")
def made(tiny_study, tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return run_study(tiny_study(search={"trials": 2}), output=root, debug=True).directory


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "tiny", symlinks=True)
    return tmp_path / "tiny"


def ddcal(*arguments):
    """Run a verb; nobody ever sees a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def by(version, events):
    return [events[0] | {"versions": events[0]["versions"] | {"ddcal": version}}, *events[1:]]


def with_event(events):
    return [*events[:2], {"event": "trial_noted", "time": 1, "number": 0, "note": "x"}, *events[2:]]


def with_key(events):
    return [event | ({"mood": "good"} if event["event"] == "trial_started" else {}) for event in events]


def with_outcome(events):
    return [event | ({"outcome": "outvoted"} if event["event"] == "trial_finished" else {}) for event in events]


def with_study_key(events):
    return [events[0] | {"study": events[0]["study"] | {"newkey": 1}}, *events[1:]]


def with_resumed_key(events):
    study = events[0]["study"]
    search = study["search"] | {"newkey": 1}
    return [*events, {"event": "study_resumed", "time": 1, "study": study | {"search": search}, "paths": "folder"}]


CHANGES = [
    (with_event, "line 3: no event that this version of ddcal knows"),
    (with_key, "line 2: mood: no key that this version of ddcal knows"),
    (with_outcome, "outcome: "),
    (with_study_key, "line 1: study.newkey: no key"),
    (with_resumed_key, "study.search.newkey: no key"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_what_a_newer_version_wrote_is_said_with_that_version_and_never_taken_out(folder, change, words):
    write_sealed(folder / LEDGER, change(by("9.1.0", plain_events(folder / LEDGER))))
    before = (folder / LEDGER).read_bytes()
    for verb in VERBS:
        result = ddcal(verb, folder)
        said = " ".join(result.output.split())
        assert result.exit_code == (1 if verb == "verify" else 2), verb
        assert f"written by ddcal 9.1.0, this is {__version__}: install 9.1.0 or a newer one" in said, verb
        assert f"{LEDGER}: " in said and words in said, verb
        assert "--repair" not in said and f"{LEDGER}: whole" not in said and "held" not in said, verb
    result = ddcal("verify", folder, "--repair")
    assert result.exit_code == 1 and "taken out" not in result.output
    assert (folder / LEDGER).read_bytes() == before and not list(folder.glob(f"{LEDGER}.*"))


def test_of_a_version_that_is_not_newer_another_one_is_asked_for(folder):
    write_sealed(folder / LEDGER, with_event(plain_events(folder / LEDGER)))
    with pytest.raises(NewerLedger, match=f"written by another version of ddcal, this is {__version__}"):
        list(read_ledger(folder))


def test_the_version_of_the_last_session_counts(folder):
    events = plain_events(folder / LEDGER)
    resumed = {"event": "study_resumed", "time": 1, "study": events[0]["study"], "versions": {"ddcal": "9.2"}}
    resumed["unheard_of"] = 1
    write_sealed(folder / LEDGER, [*events, resumed])
    with pytest.raises(NewerLedger, match=r"written by ddcal 9\.2, "):
        list(read_ledger(folder))


@pytest.mark.parametrize(("change", "words"), CHANGES[:3])
def test_a_line_without_a_seal_is_damaged_as_ever(folder, change, words):
    write_plain(folder / LEDGER, change(by("9.1.0", plain_events(folder / LEDGER))))
    with pytest.raises(DamagedLedger, match="ddcal verify"):
        list(read_ledger(folder))


def test_the_study_of_a_line_without_a_seal_is_no_study_and_the_ledger_is_not_called_whole(folder):
    write_plain(folder / LEDGER, with_study_key(plain_events(folder / LEDGER)))
    result = ddcal("verify", folder)
    assert "the study in it is not one: newkey" in " ".join(result.output.split())
    assert result.exit_code == 1 and f"{LEDGER}: whole" not in result.output


def test_a_trial_with_a_setting_of_a_newer_version_is_said_to_have_one_where_its_config_is_asked_for(folder):
    events = by("9.1.0", plain_events(folder / LEDGER))
    for event in events:
        if event["event"] == "trial_started":
            event["config"]["train"]["of_tomorrow"] = 1
    write_sealed(folder / LEDGER, events)
    trial = load_study(folder).records[0]
    with pytest.raises(NewerLedger, match=r"tiny-0000 .*train\.of_tomorrow: .*; written by ddcal 9\.1\.0, this is"):
        _ = trial.config
    result = ddcal("verify", folder)
    assert result.exit_code == 1 and f"{LEDGER}: the config of tiny-0000" in result.output
    assert f"{LEDGER}: whole" not in result.output
    assert ddcal("status", folder).exit_code == 0 and ddcal("pareto", folder).exit_code == 0  # they read no config
    assert "written by ddcal 9.1.0" in " ".join(ddcal("resume", folder).output.split())


def test_a_damaged_line_beside_newer_ones_is_not_mended(folder):
    write_sealed(folder / LEDGER, with_event(by("9.1.0", plain_events(folder / LEDGER))))
    lines = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    lines[-1] = lines[-1].replace(b'"event"', b'"tneve"')
    (folder / LEDGER).write_bytes(b"".join(lines))
    result = ddcal("verify", folder, "--repair")
    assert result.exit_code == 1 and "its checksum does not fit it" in result.output
    assert (folder / LEDGER).read_bytes() == b"".join(lines)


@pytest.mark.parametrize("version", ["9.1.0", "10", "9.0.dev3+g12ab"])
def test_a_newer_version_is_named(version):
    assert written_by(version) == f"written by ddcal {version}, this is {__version__}: install {version} or a newer one"


@pytest.mark.parametrize("version", [__version__, "0.1", "0.2", None, 7, "\x1b[2J", "9" * 500, "new"])
def test_any_other_is_another_version(version):
    other = f"written by another version of ddcal, this is {__version__}: install the one that wrote it"
    assert written_by(version) == other
