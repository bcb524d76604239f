"""`ddcal report paper` from an empty folder to its page, at a scale of seconds."""

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from ledgers import plain_events, write_failed, write_plain
from rich.console import Console
from typer.testing import CliRunner

from ddcal.analysis.report.paper import paper_report
from ddcal.analysis.report.progress import ReportProgress
from ddcal.analysis.report.studies import STEMS, paper_studies
from ddcal.cli import app
from ddcal.study import load_study

pytestmark = pytest.mark.slow


def report(*arguments):
    result = CliRunner().invoke(app, ["report", "paper", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


class Links(HTMLParser):
    """Everything that a page refers to, and what can be referred to in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self.ids, self.tags, self.alts = [], [], set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        self.alts += [values.get("alt")] if tag == "img" else []
        if "id" in values:
            assert values["id"] not in self.ids, values["id"]
            self.ids.add(values["id"])


@pytest.fixture(scope="module")
def made(tiny_studies, tmp_path_factory):
    """The options of a tiny report that was made, its folder, and what was printed."""
    output = tmp_path_factory.mktemp("report") / "out put"
    options = ["--scale", "tiny", "--datasets", "digits", "--studies", tiny_studies, "--debug"]
    result = report("--output", output, *options)
    assert result.exit_code == 0, result.output
    return options, output, result.output


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_page_stands_alone(made):
    _, output, _ = made
    text = (output / "index.html").read_text()
    page = Links(text)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert page.sources and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.alts and all(page.alts)
    assert "url(" not in text and "@import" not in text
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        else:
            assert "://" not in link and (output / link.replace("%20", " ")).is_file(), link


def test_every_table_and_figure_is_there_as_picture_and_numbers(made):
    _, output, _ = made
    figures = ("figure1", "figure2", "figure3", "figure4", "mask-ratio", "masks", "solvers")
    names = [f"figures/{name}-digits" for name in figures]
    names += [f"figures/reliability-digits-{backbone}" for backbone in ("real", "dsa")]
    names += [f"tables/{name}" for name in ("table1", "table2", "ddnn", "calibrations-digits-real-2")]
    for name in names:
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
        assert len((output / f"{name}.csv").read_text().splitlines()) > 1, name
    masks = {row["method"] for row in csv.DictReader((output / "figures" / "masks-digits.csv").open())}
    assert masks == {"raw", "ts_val", "elements, 2 draws", "elements, 1 draw", "pixels, 2 draws", "patches, 2 draws"}
    text = (output / "index.html").read_text()
    assert "The accuracy before and after calibration is equal in all 6 trials of mts, ts_holdout and ts_cv." in text
    assert text.count("reduced scale: not comparable with published numbers") >= 5


def test_numbers_are_those_of_the_ledger(made):
    _, output, _ = made
    rows = {row["method"]: row for row in csv.DictReader((output / "tables" / "table2.csv").open())}
    trials = {trial.trial_key: trial for trial in load_study(output / "digits-fdnn").records}
    places = {"raw": "test/raw/ece", "ts_val": "test/ts_val/ece", "mts": "test/ece", "mixup": "test/raw/ece"}
    for method, metric in places.items():
        row = rows[method]
        chosen = [trials[key] for key in row["trials"].split()]
        assert row["metric"] == metric and len(chosen) == int(row["seeds"]) == 2
        assert sorted(trial.values["seed"] for trial in chosen) == [0, 1]
        values = [trial.metrics[metric] for trial in chosen]
        assert float(row["mean"]) == pytest.approx(sum(values) / 2, rel=1e-12)
        assert float(row["std"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, rel=1e-9)
        assert all(trial.config.train.loss == ("mixup" if method == "mixup" else "cross_entropy") for trial in chosen)
    val = 378  # 30 % of the digits that are not test
    assert {name: int(rows[name]["real_labels"]) for name in places} == {
        "raw": 0,
        "ts_val": val,
        "mts": val,
        "mixup": 0,
    }
    text = (output / "index.html").read_text()
    shown = 100 * float(rows["raw"]["mean"])
    assert f">{shown:.2f} ± " in text
    command = f"ddcal export '{output / 'digits-fdnn'}' --trial 0 --to replay-digits-fdnn-0000"
    assert command.replace("'", "&#x27;") in re.sub("</?span>", "", text)


def test_a_second_run_computes_nothing(made):
    options, output, printed = made
    assert "study 9 of 9" in printed
    before = snapshot(output)
    result = report("--output", output, *options)
    assert result.exit_code == 0 and "9 finished before, 0 to run" in result.output
    after = snapshot(output)
    assert before.keys() == after.keys()
    changed = {path.relative_to(output).parts[0] for path in before if before[path] != after[path]}
    assert changed <= {"index.html", "tables"}


def test_studies_share_their_networks(made):
    _, output, _ = made
    real = {"distill.backbone": "real", "distill.ipc": 2, "seed": 0}
    ddnn = next(t for t in load_study(output / "digits-ddnn").records if real.items() <= t.values.items())
    others = [load_study(output / f"digits-{stem}").records[0] for stem in ("calibration", "mask_ratio", "masks")]
    assert {trial.keys["train"] for trial in others} == {ddnn.keys["train"]}
    assert all("train" in trial.cache_hits for trial in others)


def test_a_failed_trial_is_a_gap_with_its_reason(made, tmp_path):
    options, output, _ = made
    copy = tmp_path / "copy"
    shutil.copytree(output, copy, ignore=shutil.ignore_patterns("figures", "tables"))
    ledger = copy / "digits-fdnn" / "ledger.jsonl"
    events = plain_events(ledger)
    for event in events:
        if event["event"] == "trial_finished" and event["number"] == 0:
            event |= {"outcome": "failed", "error": "ValueError: <b>boom</b>", "metrics": {}}
    write_plain(ledger, events)
    result = report("--output", copy, *options)
    assert result.exit_code == 0
    text = (copy / "index.html").read_text()
    assert "digits-fdnn-0000 failed: ValueError: &lt;b&gt;boom&lt;/b&gt;" in text and "<b>boom" not in text
    rows = {row["method"]: row for row in csv.DictReader((copy / "tables" / "table2.csv").open())}
    assert rows["raw"]["seeds"] == "1" and "boom" in rows["raw"]["gaps"]
    missing = [
        int(re.search(r"(\d+) numbers are missing", r.output)[1])
        for r in (report("--output", output, *options), result)
    ]
    assert missing[1] > missing[0]


def test_a_report_of_which_every_trial_has_failed_has_failed(tiny_studies, tmp_path):
    output = tmp_path / "out"
    for study in paper_studies("tiny", ["digits"], tiny_studies):
        write_failed(output, study.config)
    options = ["--scale", "tiny", "--datasets", "digits", "--studies", tiny_studies, "--debug"]
    result = report("--output", output, *options)
    assert result.exit_code == 1 and "no trial came to its end" in result.output, result.output
    assert "failed: no memory" in (output / "index.html").read_text()


def test_it_goes_on_after_ctrl_c(tiny_studies, tmp_path, monkeypatch):
    """The first study is stopped after its first trial; the same call finishes it, and no trial runs twice."""
    studies = paper_studies("tiny", ["digits"], tiny_studies)[:1]
    progress = ReportProgress(Console(file=(tmp_path / "log").open("w")), "the same command")
    heard = progress.hooks_of(studies[0])

    def press(trial):
        heard.on_finished(trial)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress, "hooks_of", lambda study: replace(heard, on_finished=press))
    with pytest.raises(KeyboardInterrupt):
        paper_report(studies, tmp_path / "out", "tiny", progress, debug=True)
    progress.console.file.flush()
    assert "go on with  the same command" in (tmp_path / "log").read_text()
    stopped = load_study(tmp_path / "out" / "digits-fdnn")
    assert stopped.interrupted and 1 <= sum(trial.outcome is not None for trial in stopped.records) < 6
    again = ReportProgress(Console(file=(tmp_path / "log").open("a")), "")
    paper_report(studies, tmp_path / "out", "tiny", again, debug=True)
    results = load_study(tmp_path / "out" / "digits-fdnn")
    assert [trial.outcome for trial in results.records] == ["complete"] * len(results.records)
    assert len(results.records) == studies[0].config.search.trials
    ended = (tmp_path / "out" / "digits-fdnn" / "ledger.jsonl").read_text().count('"trial_finished"')
    assert ended == len(results.records)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "huge"], ["--scale huge", "cpu"]),
        (["--datasets", "digit"], ["digit", "did you mean 'digits'"]),
        (["--datasets", "digits,digits"], ["twice"]),
        (["--datasets", ","], ["empty"]),
        (["--scale", "cpu", "--datasets", "imagenette"], ["imagenette", "fashion-mnist"]),
        (["--studies", "{tmp}"], ["--studies", "fdnn.yaml"]),
    ],
)
def test_bad_names_are_refused(arguments, words, tmp_path):
    result = report("--output", tmp_path / "out", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2
    for word in words:
        assert word in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_settings_is_refused(made, tiny_studies, tmp_path):
    _, output, _ = made
    folder = tmp_path / "paper"
    shutil.copytree(tiny_studies, folder)
    scales = (folder / "scales.yaml").read_text()
    (folder / "scales.yaml").write_text(scales.replace("networks: 1, epochs: 3", "networks: 1, epochs: 4"))
    before = snapshot(output)
    result = report("--output", output, "--scale", "tiny", "--datasets", "digits", "--studies", folder, "--debug")
    assert result.exit_code == 2 and "other settings (base.train.epochs)" in result.output
    assert snapshot(output) == before


@pytest.mark.parametrize(("choices", "code"), [("[1, 2]", 0), ("[2, 3]", 2)])
def test_a_grid_in_another_order_is_the_same_grid(made, choices, code, tiny_studies, tmp_path):
    _, output, _ = made
    folder = tmp_path / "paper"
    shutil.copytree(tiny_studies, folder)
    scales = (folder / "scales.yaml").read_text()
    (folder / "scales.yaml").write_text(scales.replace("{choice: [2, 1]}", f"{{choice: {choices}}}"))
    before = snapshot(output / "digits-ddnn")
    shown = [(output / name).read_text() for name in ("tables/ddnn.csv", "figures/figure2-digits.csv")]
    result = report("--output", output, "--scale", "tiny", "--datasets", "digits", "--studies", folder, "--debug")
    assert result.exit_code == code and ("(space.distill.ipc.choice)" in result.output) == (code == 2), result.output
    assert snapshot(output / "digits-ddnn") == before
    assert shown == [(output / name).read_text() for name in ("tables/ddnn.csv", "figures/figure2-digits.csv")]


def test_backbones_and_images_a_class_are_shown_in_the_papers_order(made):
    _, output, _ = made
    rows = [row for row in csv.DictReader((output / "tables" / "ddnn.csv").open()) if row["ipc"]]
    assert [(row["backbone"], row["ipc"]) for row in rows] == [
        (backbone, ipc) for backbone in ("real", "dsa") for ipc in ("1", "2")
    ]


def test_the_plan_runs_nothing_and_counts_shared_stages_once(made, tiny_studies, tmp_path):
    options, output, _ = made
    result = report("--output", output, *options, "--plan", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["studies"] == []
    scale = ["--scale", "tiny", "--datasets", "digits", "--studies", tiny_studies]
    result = report("--output", tmp_path / "new", *scale, "--plan", "--json")
    planned = json.loads(result.stdout)
    names = [f"digits-{stem}" for stem in STEMS]
    assert [one["study"] for one in planned["studies"]] == names and planned["seconds"] > 0
    computed = {key for name in names for trial in load_study(output / name).records for key in trial.keys.values()}
    assert sum(one["to_compute"] for one in planned["studies"]) == len(computed)
    assert not (tmp_path / "new").exists()
