"""The parts of a report: its studies, its cells, its words."""

import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pandas
import pytest
from matplotlib.figure import Figure

from ddcal.analysis.report.cells import Cell, Run
from ddcal.analysis.report.comparison_table import missing_rows, paired_difference, verdict_sentences
from ddcal.analysis.report.drawings import Drawings, Drawn
from ddcal.analysis.report.methods import BY_NAME, real_labels
from ddcal.analysis.report.numbers import Row, labels_used, run_frame
from ddcal.analysis.report.page import Number, Page, rich_text
from ddcal.analysis.report.solvers import plot_solvers, verdict
from ddcal.analysis.report.studies import STEMS, paper_studies, read_scales, studies_folder
from ddcal.analysis.statistics import over_seeds
from ddcal.errors import BadInput

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SCALES = [(scale, name) for scale, rows in read_scales(studies_folder()).items() for name in rows if name != "any"]


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "dataset"), SCALES, ids=lambda value: value)
def test_every_shipped_scale_makes_studies(scale, dataset):
    studies = paper_studies(scale, [dataset], studies_folder(), extra=True)
    names = [study.config.name for study in studies]
    assert len(set(names)) == len(names) and all(name.startswith(f"{dataset}-") for name in names)
    assert {study.stem for study in studies} <= set(STEMS)
    for study in studies:
        data = study.config.base["data"]
        assert data["name"] == dataset
        assert scale == "gpu" or "zca" not in data or data["zca"] is False
        assert study.config.search.searcher != "grid" or study.config.search.trials > 0


def test_the_least_accuracy_of_the_papers_studies_is_chance():
    for dataset, chance in {"cifar10": 0.1, "cifar100": 0.01, "tiny-imagenet": 0.005, "imagenette": 0.1}.items():
        for study in paper_studies("gpu", [dataset], studies_folder(), extra=True):
            assert study.config.constraints == {"val/accuracy": f">= {chance:g}"}, study.config.name


def test_a_scale_of_a_study_that_is_none_is_named(tmp_path):
    (tmp_path / "scales.yaml").write_text("cpu: {digits: {fdn: {}}}")
    with pytest.raises(BadInput, match=r"cpu\.digits\.fdn is no study; did you mean 'fdnn'"):
        read_scales(tmp_path)


def cell(made_study, name, values):
    """A cell of made-up values, one a seed from 0 on."""
    study = made_study(name, ["complete"] * len(values))
    runs = []
    for seed, (trial, value) in enumerate(zip(study.records, values, strict=True)):
        trial.config_values["seed"] = seed
        trial.metrics["test/ece"] = value
        runs.append(Run(study, trial))
    return Cell("test/ece", tuple(runs))


def test_the_interval_of_a_cell_is_student_t(made_study):
    one, half = cell(made_study, "one", [0.2, 0.3, 0.4]), 4.302652729749464 * 0.1 / math.sqrt(3)
    assert one.mean == pytest.approx(0.3) and one.std == pytest.approx(0.1)
    low, high = one.interval
    assert high - 0.3 == pytest.approx(0.3 - low) == pytest.approx(half)
    assert cell(made_study, "low", [0.1, 0.2, 0.3]).interval == (0.0, pytest.approx(0.2 + half))  # no ECE is below 0
    assert cell(made_study, "two", [0.1]).interval is None and Cell("test/ece").mean is None


def test_what_was_compared_on_fewer_seeds_is_told_apart(made_study):
    """A failed seed of one method leaves the tests of the others as they are."""
    values = {"mts": [0.1] * 5, "raw": [0.2, 0.21, 0.19, 0.2, 0.22], "ts_val": [0.05] * 4, "ts_train": [0.1] * 5}
    rows = [
        Row("digits", "dsa", 1, method, BY_NAME[method].label, cell(made_study, method, found))
        for method, found in values.items()
    ]
    label = {method: BY_NAME[method].label for method in values}
    assert verdict_sentences(rows) == [
        f"{label['mts']}: ECE 10.0 %, lower than {label['raw']} (-10.4); "
        f"not told apart from {label['ts_train']} (+0.0) (points of ECE; 95 % interval of the "
        "paired difference over 5 seeds); "
        f"higher than {label['ts_val']} (+5.0) (points of ECE; mean of 4 seeds, too few for a test)."
    ]


def test_real_labels_that_nobody_can_count_are_not_none():
    assert [real_labels(BY_NAME[name], "dsa", None) for name in ("raw", "mts", "ts_val")] == [0, 0, None]
    assert [real_labels(BY_NAME[name], "full", None) for name in ("raw", "mts", "ts_val")] == [0, None, None]
    assert [real_labels(BY_NAME[name], "full", 40) for name in ("raw", "mts", "ts_val")] == [0, 40, 40]
    row = Row("digits", "dsa", 1, "ts_val", "TS", Cell("test/ece"))
    assert [labels_used(replace(row, real_labels=count)) for count in (None, 0, 1234)] == ["–", "0", "1,234"]


def test_networks_of_a_table_are_all_that_were_trained(made_study):
    found = cell(made_study, "a", [0.1, 0.2, 0.3])
    for run in found.runs:
        run.trial.config_values["train"] = {**run.trial.config_values.get("train", {}), "networks": 2}
    frame = over_seeds(run_frame([Row("digits", "dsa", 1, "mts", "MTS", found)]), ["method"], "value")
    assert frame[["sets", "networks"]].to_dict("records") == [{"sets": 3, "networks": 6}]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([0.1] * 5, [0.2, 0.21, 0.19, 0.2, 0.22], "lower"),
        ([0.3] * 5, [0.2, 0.21, 0.19, 0.2, 0.22], "higher"),
        ([0.1, 0.3, 0.1, 0.3, 0.2], [0.2, 0.2, 0.2, 0.2, 0.21], "not told apart"),
        ([0.1, 0.3], [0.2, 0.21], "lower"),  # too few seeds for an interval: the mean is told
        ([0.2, 0.2], [0.2, 0.2], "not told apart"),
    ],
)
def test_differences_are_paired(made_study, first, second, said):
    difference = paired_difference(cell(made_study, "a", first), cell(made_study, "b", second))
    assert difference.verdict == said and difference.seeds == len(first)
    assert difference.mean == pytest.approx(sum(a - b for a, b in zip(first, second, strict=True)) / len(first))


@pytest.mark.parametrize(
    ("paper", "optimum", "said"),
    [
        (None, 2.0, "diverged"),
        (-0.5, 0.2, "negative"),
        (1.5, 1.5, "arrived"),
        (2.98, 3.0, "arrived"),
        (2.0, 3.0, "stopped early"),
        (1.2, 0.3, "stopped early"),
        (2.0, 0.3, "moved away"),
        (0.05, 1.0, "passed it"),
    ],
)
def test_how_far_the_papers_optimiser_came(paper, optimum, said):
    assert verdict(paper, optimum)[1] == said


def test_negative_temperatures_are_no_part_of_the_curves():
    rows = [("real", seed, ratio) for seed in (0, 1) for ratio in (0.0, 0.5)]
    frame = pandas.DataFrame(rows, columns=["backbone", "seed", "ratio"])
    frame = frame.assign(paper_t=[-0.5, 1.4, 1.2, 1.6], paper_ece=[math.nan, 5.0, 4.0, 7.0], raw_ece=6.0)
    frame = frame.assign(bounded_t=0.5, bounded_ece=9.0, floored_t=1.0, floored_ece=6.0)
    above, below = plot_solvers(frame).axes
    assert list(above.lines[0].get_ydata()) == pytest.approx([1.2, 1.5])
    assert list(below.lines[0].get_ydata()) == pytest.approx([4.0, 6.0])


def test_of_many_trials_a_figure_links_the_first_and_the_last(made_study, tmp_path):
    page = Page("page", tmp_path)
    png = tmp_path / "one.png"
    png.write_bytes(b"png")
    study, other = made_study("many", ["complete"] * 8), made_study("few", ["complete"] * 2)
    page.picture(png, "alt", "caption", runs=[Run(one, trial) for one in (study, other) for trial in one.records])
    text = page.write().read_text()
    linked = [study.records[0], study.records[-1], *other.records]
    assert [f'href="#run-{trial.trial_key}"' in text for trial in study.records[1:-1]] == [False] * 6
    assert all(f'href="#run-{trial.trial_key}"' in text for trial in linked) and "(8 trials)" in text


def test_reasons_that_several_calibrations_share_are_told_once(made_study):
    rows = [
        Row("digits", "real", 10, name, name, Cell("test/ece", (), gaps))
        for name, gaps in (("a", ()), ("b", ("boom",)), ("c", ()))
    ]
    assert missing_rows(rows) == ["a; c: not run at this scale for these networks", "b: boom"]


def test_text_is_escaped_and_code_is_code():
    assert rich_text('a < b & `x <y>` "q"') == "a &lt; b &amp; <code>x &lt;y&gt;</code> &quot;q&quot;"
    assert rich_text("one ` alone <") == "one ` alone &lt;"


def test_a_page_escapes_what_it_is_given(tmp_path):
    page = Page("<i>title</i>", tmp_path)
    page.heading("<u>x</u>")
    page.table(["<th>"], [["<td>"]], caption="<c>")
    text = page.write().read_text()
    assert not any(mark in text for mark in ("<i>", "<u>", "<td><td>", "<c>"))
    assert "&lt;u&gt;x&lt;/u&gt;" in text


SORTED = """
<script>
const table = document.querySelector("table.sortable"), found = [];
for (const head of table.tHead.rows[0].cells) {
  head.click();
  found.push([...table.tBodies[0].rows].map(row => row.cells[0].textContent));
}
document.body.textContent = JSON.stringify(found);
</script></body>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_numbers_with_intervals_and_signs_are_sorted_as_numbers(made_study, tmp_path):
    """Also those with links behind them; what is missing comes last, with its gap."""
    study = made_study("some", ["complete"] * 2)
    runs = tuple(Run(study, trial) for trial in study.records)
    texts = {"a": "+1.2 [+0.1, +2.3]", "b": "-0.8 [-1.0, -0.6]", "c": "-2.4 [-9.0, +4.2]", "d": "+10.0", "e": "-0.8"}
    rows = [[name, Number(text, runs)] for name, text in texts.items()]
    page = Page("page", tmp_path)
    page.table(["set", "difference"], [["f", Number("\u2013", (), ("boom",))], *rows], sortable=True)
    path = tmp_path / "clicked.html"
    path.write_text(page.write().read_text().replace("</body>", SORTED))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    ran = subprocess.run([BROWSER, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=600)
    found = json.loads(html.unescape(re.search("<body>(.*?)</body>", ran.stdout, re.DOTALL)[1]))
    assert found == [list("abcdef"), list("cbeadf")]


WIDTHS = """
<script>
const wide = document.querySelector(".wide"), cell = wide.querySelector("td.number"), link = cell.querySelector("a");
const found = [innerWidth, wide.scrollWidth - wide.clientWidth, link.getClientRects().length];
document.body.textContent = JSON.stringify([...found, cell.querySelectorAll("a").length]);
</script></body>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_the_links_of_ten_trials_do_not_make_a_table_wider_than_the_page(made_study, tmp_path):
    """As the table of soft less hard labels: the links are broken into lines, a number with its interval is not."""
    study = made_study("some", ["complete"] * 10)
    number = Number("-10.0 [-12.3, -10.4]", tuple(Run(study, trial) for trial in study.records))
    columns = ["set", "accuracy", *(f"ECE, {name}" for name in ("raw", "TS, cross-validated", "MTS", "TS, real val"))]
    page = Page("page", tmp_path)
    page.table(columns, [["random real images, by experts less its own", *[number] * 5]], sortable=True)
    path = tmp_path / "wide.html"
    path.write_text(page.write().read_text().replace("</body>", WIDTHS))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
    options.append(f"--user-data-dir={tmp_path / 'profile'}")
    ran = subprocess.run([BROWSER, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=600)
    found = json.loads(html.unescape(re.search("<body>(.*?)</body>", ran.stdout, re.DOTALL)[1]))
    assert found == [1280, 0, 1, 10]


def test_a_figure_is_drawn_again_where_its_words_changed(made_study, tmp_path):
    study, drawn = made_study("some", ["complete"]), []

    def draw():
        drawn.append(1)
        return Drawn(Figure(), pandas.DataFrame({"a": [1]}), "caption")

    drawings, runs = Drawings(tmp_path, Page("page", tmp_path)), [Run(study, trial) for trial in study.records]
    for words in (["DM"], ["DM"], ["mine"]):
        drawings.put("one", "alt", runs, draw, words=words)
    assert len(drawn) == 2


def test_the_error_of_a_trial_keeps_its_end(made_study):
    """A path ends with a name."""
    (trial,) = made_study("some", ["failed"]).records
    failed = replace(trial, error=f"StoreError: /{'long/' * 60}evaluation.json is missing")
    gap = Run(made_study("other", ["failed"]), failed).gap
    assert gap.startswith("some-0000 failed: StoreError: /long/") and gap.endswith("long/evaluation.json is missing")
    assert len(gap) < 250
