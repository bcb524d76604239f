"""Commands that ddcal prints can be pasted into a shell, wherever the files lie; and tables show a metric once."""

import re
import shlex

import pytest
import yaml
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.cli.console import make_console, pareto_table
from ddcal.study import load_study


@pytest.fixture
def lying_oddly(write_study, tmp_path, monkeypatch):
    """run(verb, …) -> its output, in a folder whose name has spaces and what rich would take for a style."""
    folder = tmp_path / "my runs [bold] :star:"
    folder.mkdir()
    study = folder / "my study.yaml"
    study.write_text(yaml.safe_dump(yaml.safe_load(write_study(objectives={"val/nll": "min"}).read_text())))
    monkeypatch.chdir(tmp_path)

    def run(verb, *arguments):
        result = CliRunner().invoke(app, [*verb.split(), *(str(argument) for argument in arguments)])
        assert result.exit_code == 0, result.output
        return result.output

    return folder, study, run


def commands(output):
    """The commands in an output: from the word ddcal to the end of the line, a backtick or ``&&``."""
    found = re.findall(r"ddcal (?:plan|resume|replay|export|ui|sync|validate)\b[^`\n]*", output)
    return [part for command in found for part in shlex.split(command.replace("&&", "\n"))]


def test_every_printed_command_survives_a_shell(lying_oddly, tmp_path):
    folder, study, run = lying_oddly
    root, out = folder / "my output", folder / "my export"
    printed = run("plan", study, "--output", root) + run("run", study, "--debug", "--output", root)
    printed += run("export", root / "tiny", "--to", out) + run(
        "studies copy", "quickstart", "--to", folder / "q s.yaml"
    )
    words = commands(printed)
    for place in (study, root / "tiny", out, folder / "q s.yaml"):
        assert {str(place), str(place.relative_to(tmp_path))} & set(words), (place, printed)
    assert "ddcal ui" not in printed  # tracking.uri is none


def test_the_winners_metric_has_one_column(lying_oddly):
    folder, study, run = lying_oddly
    run("run", study, "--debug", "--output", folder)
    assert pareto_table(load_study(folder / "tiny")).columns == ("trial", "calibrate.mask.ratio", "val/nll")


def test_paths_are_printed_as_they_are(capsys):
    make_console().print("go on with  ddcal resume 'runs [old]/[b]x[/b] :star:'")
    assert "'runs [old]/[b]x[/b] :star:'" in capsys.readouterr().out
