"""The page of a study that is finished, crashed, without a result, or confirmed; its looks are for eyes to judge."""

import html
import json
import re
import shutil
import subprocess

import pytest
from ledgers import plain_events, write_plain

from ddcal.analysis.report.study_page import study_report
from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import LEDGER

MIXED = ("complete", "infeasible", "pruned", "failed", "out_of_memory", "killed", None)


@pytest.mark.parametrize(
    "outcomes", [(), ("failed",), MIXED, MIXED + ("complete",) * 5], ids=["none", "failed", "mixed", "many"]
)
def test_the_page_of_any_study(made_study, outcomes):
    results = made_study("some", outcomes)
    page = study_report(results)
    assert page == results.directory / "report" / "index.html"
    text = page.read_text()
    for trial in results.records:
        assert f'id="run-{trial.trial_key}"' in text
    for name, domain in results.study.space.items():
        assert f"<code>{name}</code>" in text and str(domain.corners[0]) in text
    assert "lowest <code>val/ece</code>, highest <code>val/accuracy</code>" in text
    if results.best is None:
        assert "no trial is feasible" in text
    else:
        best = results.best
        assert f"winner: {best.trial_key}; not confirmed" in text and "Nothing was confirmed on fresh seeds yet" in text
        options = f"<span>--trial</span> {best.number} <span>--to</span> replay-{best.trial_key}"  # never broken within
        assert f"{options} &amp;&amp; ddcal replay replay-{best.trial_key}</code>" in text


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        (("val/ece",), "The objective of every trial, by number."),
        (("val/ece", "val/nll"), "is what no other beats in both."),
        (
            ("val/ece", "val/nll", "val/accuracy"),
            "is what no other beats in all 3: in these two alone one",
        ),
    ],
)
def test_the_picture_of_the_front_is_said_for_any_number_of_objectives(made_study, objectives, said):
    ways = {name: "max" if name == "val/accuracy" else "min" for name in objectives}
    assert said in html.unescape(study_report(made_study("some", ("complete",) * 4, ways)).read_text())


def rows_of(text, column):
    """The cells of a column of the sortable table of all trials, and its columns' names."""
    table = text[text.rindex('<table class="sortable">') :]
    heads = [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<th.*?>(.*?)</th>", table)]
    rows = re.findall("<tr id=.*?>(.*?)</tr>", table)
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", row)] for row in rows]
    return [row[heads.index(column)] for row in cells], heads


@pytest.mark.slow
def test_every_trial_is_in_the_table_under_full_names(made_study):
    results = made_study("some", MIXED + ("complete",) * 3)
    text = study_report(results).read_text()
    numbers, heads = rows_of(text, "trial")
    assert numbers == [str(trial.number) for trial in results.records]
    metrics = ["val/ece", "val/accuracy", "val/nll", "test/ece"]
    assert heads == ["trial", "outcome", *results.study.space, *metrics, "seconds", "log"]
    expected = [(trial.metrics or {}).get("val/nll") for trial in results.records]
    assert rows_of(text, "val/nll")[0] == ["–" if value is None else f"{value:.4f}" for value in expected]
    outcomes, _ = rows_of(text, "outcome")
    assert outcomes.count("winner") == 1 and outcomes[results.best.number] == "winner"
    assert {number for number, one in enumerate(outcomes) if one in ("winner", "on the front")} == {
        trial.number for trial in results.pareto
    }


def test_a_page_asks_nothing_of_the_network(made_study):
    text = study_report(made_study("some", MIXED)).read_text()
    assert re.findall("<script[^>]*>", text) == ["<script>"] and "<link" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text) and "url(" not in text and "import" not in text


def test_many_names_share_one_column(made_study, monkeypatch):
    monkeypatch.setattr("ddcal.analysis.report.study_tables.MOST_COLUMNS", 3)
    results = made_study("some", ("complete",) * 2)
    values, heads = rows_of(study_report(results).read_text(), "searched values")
    assert heads[:4] == ["trial", "outcome", "searched values", "val/ece"]
    assert all(name in values[0] for name in results.records[0].values)


def test_what_was_confirmed_is_on_the_page(made_study):
    results = made_study("some", ("complete",) * 3)
    one = {"trial_key": results.best.trial_key, "metric": "val/ece", "searched": 0.036, "mean": 0.051}
    one |= {"low": -0.04, "high": 0.06, "seeds": 5}
    content = {"seeds": 5, "study": "some-confirm", "leaders": [one | {"low": 0.04}, one | {"trial_key": "some-0009"}]}
    (results.directory / "confirmation.json").write_text(json.dumps(content))
    text = study_report(results).read_text()
    assert f"winner: {results.best.trial_key}; confirmed" in text
    assert "0.0400 to 0.0600" in text and "optimistic by 0.0150" in text
    assert "0.0000 to 0.0600" in text and "-0.04" not in text, "an earlier version wrote what cannot be"


def test_the_page_of_a_study_goes_where_it_is_told(made_study, tmp_path):
    results = made_study("some", ("failed",))
    assert study_report(results, tmp_path / "elsewhere") == tmp_path / "elsewhere" / "index.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        study_report(results, tmp_path / "file")


@pytest.mark.slow
def test_the_page_of_a_real_study_shows_its_winners_calibrations_and_pictures(tiny_study, tmp_path):
    results = run_study(tiny_study(base={"train": {"networks": 2}}), output=tmp_path, debug=True)
    text = study_report(results).read_text()
    metrics = results.best.metrics
    assert f"on test, mean of 2 networks, 15 bins; ECE noise floor {metrics['test/ece_noise_floor']:.4f}" in text
    for name in ("raw/", "ts_train/", "", "ts_val/"):
        cells = [f"{metrics[f'test/{name}{metric}']:.4f}" for metric in ("ece", "nll", "accuracy")]
        assert re.search("</td><td[^>]*>".join(cells), text), name
    assert "network 1 of 2" in text and "tables have the mean of all 2" in text
    assert "Wilson, over 539 test images" in text and text.count("data:image/png") >= 6


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 2, 4, 7])
def test_the_page_of_a_study_that_crashed_or_runs(made_study, lines):
    """Cut after any of its events."""
    results = made_study("some", ("complete",) * 5)
    path = results.directory / LEDGER
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    left = load_study(results.directory)
    text = study_report(left).read_text()
    assert "the study was stopped before its end" in text and len(left.records) == lines // 2
    assert all(f'id="run-{trial.trial_key}"' in text for trial in left.records)


def test_the_page_of_a_study_of_another_ddcal_says_what_cannot_be_read(made_study):
    results = made_study("some", ("complete",) * 2)
    events = plain_events(results.directory / LEDGER)
    for event in events:
        event |= {"config": {"train": {"of_tomorrow": 1}}} if event["event"] == "trial_started" else {}
        event |= {"keys": {"distill": "a", "evaluate": "b"}} if event["event"] == "trial_finished" else {}
    write_plain(results.directory / LEDGER, events)
    results = load_study(results.directory)
    text = study_report(results).read_text()
    for trial in results.pareto:
        assert f"the config of {trial.trial_key} in it is not one: train.of_tomorrow" in text
    assert all(f'id="run-{trial.trial_key}"' in text for trial in results.records)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CLICKS = """
<script>
const table = [...document.querySelectorAll("table.sortable")].at(-1), heads = [...table.tHead.rows[0].cells];
const place = name => heads.findIndex(head => head.textContent.trim() === name);
const shown = name => [...table.tBodies[0].rows].map(row => row.cells[place(name)].textContent.trim());
const enter = new KeyboardEvent("keydown", {key: "Enter"});
const found = {before: shown("trial")};
for (const [key, name, act] of NAMES) {
  act === "click" ? heads[place(name)].click() : heads[place(name)].dispatchEvent(enter);
  found[key] = [shown("trial"), shown(name), heads[place(name)].getAttribute("aria-sort")];
}
found.marked = heads.filter(head => head.hasAttribute("aria-sort")).map(head => head.textContent.trim());
document.body.textContent = JSON.stringify(found);
</script></body>
"""


@pytest.mark.slow
def test_what_the_sorting_relies_on_is_in_the_page(made_study):
    """A head and a body a table, a cell a column in every row, numbers as a script reads them, a dash for none."""
    text = study_report(made_study("some", MIXED + ("complete",) * 3)).read_text()
    tables = re.findall('<table class="sortable">(.*?)</table>', text)
    assert len(tables) == 2
    for table in tables:
        assert table.count("<thead>") == table.count("<tbody>") == 1
        heads = re.findall("<th.*?>.*?</th>", table[table.index("<thead>") : table.index("</thead>")])
        rows = re.findall("<tr.*?>(.*?)</tr>", table[table.index("<tbody>") :])
        assert rows and all(row.count("<td") == len(heads) for row in rows)
        for cell in re.findall('<td class="number.*?">(.*?)</td>', table):
            assert re.fullmatch(r"(<b>)?(-?[0-9.e+-]+|–|)( \(winner\))?(</b>)?", re.sub("</?a.*?>", "", cell)), cell


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_a_click_on_a_head_sorts_the_table_in_a_browser(made_study, tmp_path):
    results = made_study("some", MIXED + ("complete",) * 5)
    names = [["up", "val/nll", "click"], ["down", "val/nll", "click"], ["text", "outcome", "enter"]]
    page = tmp_path / "clicked.html"
    page.write_text(study_report(results).read_text().replace("</body>", CLICKS.replace("NAMES", json.dumps(names))))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    ran = subprocess.run([BROWSER, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=600)
    found = json.loads(html.unescape(re.search("<body>(.*?)</body>", ran.stdout, re.DOTALL)[1]))
    nll = {str(trial.number): (trial.metrics or {}).get("val/nll") for trial in results.records}
    known = sorted((value, number) for number, value in nll.items() if value is not None)
    missing = [number for number, value in nll.items() if value is None]
    assert found["before"] == [str(trial.number) for trial in results.records] and len(missing) >= 2
    (up, values, ascending), (down, reverse, descending) = found["up"], found["down"]
    assert [ascending, descending] == ["ascending", "descending"] and found["marked"] == ["outcome"]
    assert values == [f"{value:.4f}" for value, _ in known] + ["–"] * len(missing)
    assert up == [number for _, number in known] + missing, "missing values come last"
    assert reverse == values[: len(known)][::-1] + values[len(known) :], "also the other way"
    assert sorted(down[-len(missing) :]) == sorted(missing)
    assert found["text"][1] == sorted(found["text"][1], key=str.lower) and found["text"][2] == "ascending"


def test_gpu_memory_of_a_config_of_another_ddcal_is_left_out(made_study):
    results = made_study("foreign", ["complete"])
    measured = {"total": 2**34, "context": 2**28, "peaks": {"train": 2**30}}
    readable = {**results.records[0].config_values}
    results.gpu_measured += [({**readable, "no such key": 1}, measured | {"total": 2**20}), (readable, measured)]
    assert results.packing.total == 2**34
    assert results.summary()["packing"] == results.packing.table()
