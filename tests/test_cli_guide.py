import re
import shutil
from pathlib import Path

import pytest
from terminals import run_in_terminal
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.cli.guide import FOLDER, guide_topics
from ddcal.config.names import trial_names

ROOT = Path(__file__).parents[1]
PAGES = sorted([*FOLDER.glob("*.md"), ROOT / "README.md", *ROOT.glob("*/README.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
FILE = re.compile(r"(?<![\w/.-])((?:studies|tests|ddcal)/[\w./-]+\.(?:py|yaml|md|png))")
TOPIC = re.compile(r"`ddcal guide ([a-z-]+)`")
CITED = re.compile(r"method\.md, ([A-Z][A-Za-z /-]*[A-Za-z])")


def invoke(*arguments):
    return CliRunner().invoke(app, ["guide", *arguments])


def test_every_topic_is_listed_with_a_sentence_and_shown():
    listed = invoke()
    assert listed.exit_code == 0
    for name, page in guide_topics().items():
        assert re.search(rf"^{name} +[A-Z].*\.$", listed.output, re.M), name
        shown = invoke(name)
        assert shown.exit_code == 0 and shown.output.startswith("# ") and page.strip() == shown.output.strip()


def test_a_topic_that_is_not_there_is_one_sentence():
    result = invoke("metric")
    assert (result.exit_code == 2 and "did you mean 'metrics'" in result.output) or "has no such topic" in result.output


@pytest.mark.skipif(shutil.which("less") is None, reason="no less is installed")
@pytest.mark.parametrize("less", [None, "-i"])
def test_a_terminal_shows_a_topic_without_escape_codes(monkeypatch, less):
    for name in ("LESS", "PAGER", "MANPAGER"):
        monkeypatch.delenv(name, raising=False)
    options = {} if less is None else {"LESS": less}
    shown, code = run_in_terminal(["-m", "ddcal", "guide", "own-data"], when={"own data": "q"}, environment=options)
    assert code == 0 and "\x1b[1m" in shown and "ESC" not in shown, shown


def test_the_page_of_settings_has_every_setting():
    page = guide_topics()["settings"]
    assert [name for name in trial_names() if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_are_there(page):
    text = page.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [file for file in FILE.findall(text) if not (ROOT / file).exists() and "my.yaml" not in file] == []
    assert [topic for topic in TOPIC.findall(text) if topic not in guide_topics()] == []


def test_sections_that_the_code_cites_are_there():
    headings = set(re.findall(r"^## (.+)$", (FOLDER / "method.md").read_text(), re.M))
    cited = {
        (path.name, section)
        for path in (ROOT / "ddcal").rglob("*.py")
        for section in CITED.findall(" ".join(path.read_text().split()))
    }
    assert {(name, one) for name, one in cited if not any(one.startswith(heading) for heading in headings)} == set()
