"""Commands that a page shows can be typed as they stand; those of seconds are run, in the order of the pages."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from image_files import write_image
from typer._click.exceptions import MissingParameter
from typer.main import get_command
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.cli.guide import FOLDER

ROOT = Path(__file__).parents[1]
PAGES = sorted([*FOLDER.glob("*.md"), *(ROOT / place / "README.md" for place in (".", "studies", "tests"))])
NOT_RUN = {
    "report paper": "it takes minutes",
    "report scoreboard": "it takes minutes",
    "ddcal ui": "it serves until it is stopped",
    "ddcal launch": "it needs a SLURM",
    "ddcal fetch": "it needs S3",
    "studies/c": "they are long, and need CIFAR-10",
    "runs/cifar10": "as their studies",
    "onnx": "it needs extras",
    "--register": "it needs a registry",
    "/shared/": "it needs a cluster",
}
"""What is in a command that is not run here, and why."""


def blocks(page):
    """Return the commands of ddcal in a page's indented blocks, without comments."""
    found = []
    for line in page.read_text().splitlines():
        if line.startswith("    ") and re.search(r"(^|\s|&& |\$ )ddcal \w", line):
            for part in re.split(r"&&|-- (?=ddcal)", line):
                words = shlex.split(part.strip().removeprefix("$ "), comments=True)
                if words[:1] == ["ddcal"]:
                    found.append(words)
                elif len(words) > 2 and words[1] == "ddcal" and words[0] in ("export", "ui"):  # of a printed summary
                    found.append(words[1:])
    return found


def mentions(page):
    """Return the commands of ddcal in a page's running text."""
    return [shlex.split(text) for text in re.findall(r"`(ddcal [a-z][^`…]*)`", page.read_text()) if "://" not in text]


def parse(words):
    """Parse a command as the command line does, and run nothing."""
    command, rest = get_command(app), words[1:]
    while hasattr(command, "commands"):
        if not rest:  # a group of verbs that is spoken of
            return
        name, *rest = rest
        if name not in command.commands:
            raise AssertionError(f"{' '.join(words)}: there is no {name}")
        command = command.commands[name]
    command.make_context(words[1], list(rest))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_can_be_typed(page):
    for words in blocks(page):
        parse(words)
    for words in mentions(page):
        with contextlib.suppress(MissingParameter):  # of a verb that is spoken of
            parse(words)


def test_the_pages_show_commands():
    assert sum(len(blocks(page)) for page in PAGES) > 25 and sum(len(mentions(page)) for page in PAGES) > 60


def test_the_readmes_study_of_own_images_runs(tmp_path):
    """As it stands but for the folder; with fewer and smaller of everything, so that it takes seconds."""
    (text,) = re.findall(r"```yaml\n(name: birds\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for split, count in {"train": 20, "test": 4}.items():
        for kind in ("heron", "wren"):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(count):
                write_image(tmp_path / split / kind / f"{number}.jpg", number, size=(80, 70))
    assert text.count("/data/birds") == 1
    (tmp_path / "birds.yaml").write_text(text.replace("/data/birds", str(tmp_path)))
    checked = CliRunner().invoke(app, ["validate", "--data", str(tmp_path / "birds.yaml")])
    assert checked.exit_code == 0 and "birds.yaml: ok (2 trials" in checked.output, checked.output
    small = {"base.distill.iterations": 1, "base.network.width": 4, "base.train.epochs": 1, "base.train.networks": 1}
    small |= {"base.distill.probe.points": 0, "space.distill.ipc": "[1, 2]", "tracking.uri": "none"}
    small |= {"base.distill.matching": "{outer: 1, inner: 1, real_batch: 4}"}
    settings = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    command = ["run", str(tmp_path / "birds.yaml"), *settings, "--debug", "--output", str(tmp_path / "runs")]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0 and "2 complete" in ran.output, ran.output


@pytest.mark.slow
def test_what_the_pages_show_runs_as_it_stands(tmp_path):
    """On a quickstart of three small trials; nothing fails, and nothing has a traceback."""
    (tmp_path / "studies").mkdir()
    study = yaml.safe_load((ROOT / "studies" / "quickstart.yaml").read_text())
    study["base"] |= {"network": {"width": 8}, "train": {"epochs": 20, "networks": 2}}
    study["base"]["distill"] |= {"iterations": 2, "matching": {"outer": 1, "inner": 1, "real_batch": 16}}
    study["constraints"] = {}
    study["search"] |= {"trials": 3, "startup": 2}
    study["tracking"] = {"uri": "none"}
    (tmp_path / "studies" / "quickstart.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ddcal").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ddcal "$@"\n')
    (programs / "ddcal").chmod(0o700)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "COLUMNS": "80"}

    def run(command):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    printed = run("ddcal run studies/quickstart.yaml")
    run("ddcal run studies/quickstart.yaml --output elsewhere --debug && cp -r elsewhere/quickstart runs/other")
    (shown,) = re.findall(r"^ *(?:export +)?(ddcal export runs/quickstart --to best-quickstart .*)$", printed, re.M)
    run(shown)
    done = []
    for page in sorted(PAGES, key=lambda page: page.name != "README.md"):
        for words in blocks(page):
            command = shlex.join(words)
            again = command in done or words[1] == "run" or "best-quickstart" in command
            if not again and not any(one in command for one in NOT_RUN):
                run(command)
                done.append(command)
    assert len(done) > 15, done
