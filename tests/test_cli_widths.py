"""At any width nothing is cut that a person needs: tables turn on their side, names stay different, commands whole."""

import copy
import io
import re

import pytest
from rich.console import Console

from ddcal.cli.console import (
    importance_table,
    make_console,
    pareto_table,
    print_command,
    print_summary,
    store_table,
    studies_table,
)
from ddcal.cli.sheets import Sheet, packed, shortened
from ddcal.cli.status_words import study_display
from ddcal.pipeline.upkeep import list_entries
from ddcal.store.opening import open_store
from ddcal.study import run_study
from ddcal.study.record.status import RunningTrial, Status, status_line
from ddcal.study.search.importance import Importance

WIDTHS = (50, 80, 100, 160, 200)
SPACE = {
    "calibrate.mask.ratio": {"uniform": [0.0, 0.9]},
    "calibrate.t_min": {"uniform": [0.1, 0.9]},
    "calibrate.draws": {"int": [2, 4]},
    "train.lr": {"loguniform": [0.01, 0.2]},
    "distill.ipc": {"choice": [1, 2]},
}


def shown(renderable, width, height=24):
    stream = io.StringIO()
    options = {"markup": False, "highlight": False, "emoji": False, "force_terminal": True, "color_system": None}
    console = Console(file=stream, width=width, height=height, **options)
    if callable(renderable):
        renderable(console)
    else:
        console.print(renderable)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


@pytest.fixture(scope="module")
def results(tiny_study, tmp_path_factory):
    name = "a-study-whose-name-is-so-long-that-no-terminal-likes-it"
    study = tiny_study(space=SPACE, name=name)
    return run_study(study, output=tmp_path_factory.mktemp("runs"), debug=True)


@pytest.fixture(params=["pareto", "importance", "compare", "store"])
def sheet(request, results):
    if request.param == "pareto":
        return pareto_table(results)
    if request.param == "importance":
        where = "distill.backbone is dc or dsa"
        return importance_table(
            [Importance("val/accuracy", name, 0.123, 0.01, 0.45, "higher", 17, where) for name in SPACE]
        )
    if request.param == "compare":
        from ddcal.analysis.comparison import compare_studies, shown_facts

        return studies_table(shown_facts(compare_studies([results, results])))
    store = open_store(results.store)
    return store_table(list(list_entries(store)), {})


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_shows_every_name_and_value_at_any_width(sheet, width):
    text = shown(sheet, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    whole = " ".join(re.sub(r"[│┃]", " ", text).split())
    filled = [name for place, name in enumerate(sheet.columns) if any(row[place] for row in sheet.rows)]
    assert all(name in whole for name in filled[sheet.heads :])
    for row in sheet.rows:
        for cell in row:
            for line in cell.splitlines():
                assert line in whole or len(line) > width - 30, (line, text)


def test_a_table_that_fits_is_one_and_one_that_does_not_is_not(results):
    sheet = Sheet("title", ("trial", "a.long.dotted.name", "b"), [["one", "1.5", "x"], ["two", "2.5", ""]], ("b",))
    wide, blocks = shown(sheet, 80), shown(sheet, 20)
    assert "│ one   │ 1.5" in wide and wide.splitlines()[0].strip() == "title"
    assert blocks.splitlines()[0] == "title" and "│" not in blocks and "one\n" in blocks
    columns = ("", *(f"name.{n}" for n in range(20)))
    sideways = shown(Sheet("", columns, [["left", *"1" * 20], ["right", *"2" * 20]]), 40)
    assert re.search(r"│ name.19 +│ 1 +│ 2 +│", sideways)


def test_what_looks_like_a_style_is_printed_as_it_is():
    cell = "[bold]:star:[/]"
    for width in (10, 100):
        assert cell in shown(Sheet("", ("trial", cell), [[cell, cell]]), width).replace("\n", "").replace("  ", "")


@pytest.mark.parametrize("width", range(4, 30))
def test_names_are_cut_in_their_middle_and_never_to_the_same(width):
    names = ["quickstart-0001", "quickstart-0002", "quickstart-0011", "quickest-0001", "short", "a" * 20, "a" * 21,
             *(f"calibrate.{n}.something.long.{n}.ratio" for n in "abc")]  # fmt: skip
    short = shortened(names, width)
    assert list(short) == names and len(set(short.values())) == len(names)
    for name, cut in short.items():
        assert cut == name or len(cut) == width
        start, _, end = cut.partition("…")
        assert name.startswith(start) and name.endswith(end) and start


def test_fields_stay_whole_where_lines_are_broken():
    assert packed([("", "trial"), ("val/ece", "0.1"), ("val/nll", "0.2")], 20) == ["trial  val/ece 0.1", "val/nll 0.2"]
    assert packed([], 10) == [] and packed([("a", "longer than that")], 3) == ["a longer than that"]


@pytest.mark.parametrize("width", [20, 80])
def test_a_command_is_a_line_of_its_own_at_any_width(width):
    command = f"ddcal export {'a' * 70} --to best && ddcal replay best"
    lines = shown(lambda console: print_command("hand the winner on", command, console), width).splitlines()
    assert lines[-1] == f"  {command}"


def tracked(results, uri):
    """The same results of a study with another ``tracking.uri``."""
    there = copy.copy(results)
    tracking = results.study.tracking.model_copy(update={"uri": uri})
    there.study = results.study.model_copy(update={"tracking": tracking})
    return there


def test_the_summary_has_whole_commands_on_a_narrow_terminal(results):
    lines = shown(lambda console: print_summary(tracked(results, None), console), 60).splitlines()
    commands = [line.strip() for line in lines if line.startswith("  ddcal ")]
    assert len(commands) == 2 and commands[0].endswith(f"&& ddcal replay best-{results.study.name}")
    assert commands[1] == f"ddcal ui {results.directory}"


def test_ddcal_ui_is_offered_where_it_has_something_to_serve(results):
    assert "MLflow" not in shown(lambda console: print_summary(tracked(results, "none"), console), 100)
    there = tracked(results, "http://me:secret@mlflow.lab:5000")
    printed = shown(lambda console: print_summary(there, console), 100)
    assert "ddcal ui" not in printed and "secret" not in printed
    assert "every trial is in MLflow at http://mlflow.lab:5000" in printed


def make_status(running=3, **values):
    facts = {"study": "s" * 70, "state": "running", "trials": 100, "finished": 7, "outcomes": {"complete": 7}}
    facts |= {"best": f"{'s' * 70}-0003", "best_metrics": {"val/ece": 0.1, "val/nll": None}, "trials_an_hour": 60.0}
    trials = [RunningTrial(f"{'s' * 70}-{n:04d}", "train", 0.5, 0.7, 12.0, n == 1, 0.0) for n in range(running)]
    facts |= {"seconds_left": 5580.0, "running": trials, "cpus": float(running), "gpus": 0.0, "unsent": 1}
    return Status(**{**facts, "ending": None, "quiet_seconds": 1.0, "next_command": None, **values})


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [20, 24, 50])
def test_the_display_fits_on_a_terminal_and_shows_what_counts(width, height):
    text = shown(study_display(make_status(running=60), width, height, "stopping", cpus=64.0, gpus=0.0), width)
    lines = text.splitlines()
    assert len(lines) <= height and max(map(len, lines)) <= width
    whole = " ".join(text.split())
    counts = ("7 of 100 trials finished (7 complete), 60 running", "49 %", "60 of 64 CPUs", "about 93.0 min left")
    trials = ("-0000", "-0001", "train 50 %, 12 s", "waits for train", " more", "val/nll – (decides)")
    for said in ("stopping", *counts, *trials, "lacks the last 1 event"):
        assert said in whole, text


def test_a_line_says_how_far_a_study_is():
    line = status_line(make_status(running=6, study="tiny", best="tiny-0003", unsent=0))
    assert line.startswith(
        "tiny: 7 of 100 trials finished (7 complete), 6 running; 60 trials an hour, about 93.0 min left"
    )
    assert "best so far tiny-0003  val/ece 0.1000  val/nll – (decides)" in line and "and 2 more" in line
    assert "\n" not in line and "MLflow" not in line
    ended = status_line(make_status(study="tiny", best="tiny-0003", state="finished", finished=100, unsent=0))
    assert "; best tiny-0003  val/ece" in ended and "so far" not in ended


def test_lines_in_a_pipe_are_not_wrapped(capsys):
    print_command("x", "y" * 500, make_console())
    assert f"  {'y' * 500}\n" in capsys.readouterr().out
