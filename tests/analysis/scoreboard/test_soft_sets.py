"""A set whose own labels are soft on a board: it is not counted as hard labels, and nothing of it is missing."""

import csv
import itertools
import json
from dataclasses import replace

import pytest

from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.drawings import Drawings
from ddcal.analysis.report.page import Page
from ddcal.analysis.scoreboard.choice import Chosen
from ddcal.analysis.scoreboard.files import records, write_json, write_markdown
from ddcal.analysis.scoreboard.pictures import draw_plane
from ddcal.analysis.scoreboard.results import CALIBRATIONS, BoardResults, SetResults
from ddcal.analysis.scoreboard.studies import board_folder, boards
from ddcal.analysis.scoreboard.tables import put_mts, put_paired, put_scores

HARD = {"backbone": "real", "ipc": 10}
LEARNED = {"backbone": "datm", "ipc": 10, "iterations": 5, "mtt": {"label_lr": 1.0}}
CELLS = [("dsa", "mts"), ("dsa", "ts_cv"), ("none", "mts")]


def results_of(made_study, one, distill, gain):
    """All cells of a set on five seeds; those of experts are better by ``gain``, a bit more or less."""
    points = list(itertools.product(("set", "experts"), CELLS, range(5)))
    study = made_study(one.name, ["complete"] * len(points))
    for trial, (source, (augment, method), seed) in zip(study.records, points, strict=True):
        trial.values.clear()
        trial.values.update({"labels.source": source, "train.augment": augment, "seed": seed})
        trial.config_values.update({"distill": distill, "calibrate": {"method": method}, "seed": seed})
        accuracy = 0.5 + (gain + 0.001 * seed) * (source == "experts")
        places = {f"test/{place}" for _, place in CALIBRATIONS.values()}
        trial.metrics.update({f"{place}{name}": 0.2 for place in places for name in ("ece", "nll")})
        trial.metrics["test/raw/accuracy"] = accuracy
    return SetResults(one, {}, [study], [Run(study, trial) for trial in study.records])


@pytest.fixture
def board(made_study):
    (board,) = boards("cpu", ["digits"], board_folder())
    by_name = {one.name: one for one in board.sets}
    sets = [results_of(made_study, by_name["real"], HARD, -0.1), results_of(made_study, by_name["datm"], LEARNED, 0.1)]
    full = made_study("full", ["complete"] * 2)
    for seed, trial in enumerate(full.records):
        trial.config_values["seed"] = seed
        trial.metrics["test/raw/accuracy"] = 0.9
    return BoardResults("digits", sets, [Run(full, trial) for trial in full.records], [full])


def test_which_sets_have_soft_labels(board):
    assert [one.soft_itself for one in board.sets] == [False, True]


def test_its_rows_say_what_is_compared_and_the_words_leave_it_out(board, tmp_path):
    page = Page("page", tmp_path)
    put_scores(page, board)
    put_paired(page, board)
    put_mts(page, board)
    text = page.write().read_text()
    assert "DATM, by experts less its own" in text and "as their own labels are soft: DATM." in text
    assert "Soft labels and accuracy: lower on random real images." in text
    assert "MTS, ECE less that of TS, real val: not told apart on all of them." in text
    assert page.missing == 0, text


def test_files_name_its_labels(board, tmp_path):
    found = {(one["set"], one["labels"]) for one in records(board, tmp_path)}
    assert all(len(one["values"]) == len(one["of_seeds"]) == one["seeds"] for one in records(board, tmp_path))
    own = {("datm", "its own"), ("datm", "by experts"), ("datm", "by experts less its own")}
    assert found == own | {("real", "hard"), ("real", "soft"), ("real", "soft less hard"), ("full", "hard")}
    lines = write_markdown([board], tmp_path / "board.md").read_text().splitlines()
    heads, *rows = [line.count("|") for line in lines if line.startswith("|")]
    assert len(rows) == 6 and set(rows) == {heads}
    assert sum(line.startswith("| DATM | its own |") for line in lines) == 1


def test_recipes_have_the_same_names_as_numbers(board, tmp_path):
    soft = board.sets[1]
    chosen = {source: Chosen(source, (("train.lr", 0.1),), 0.5, 2) for source in ("set", "experts")}
    one = replace(board, sets=[board.sets[0], replace(soft, chosen=chosen)])
    found = json.loads(write_json([one], tmp_path / "board.json", tmp_path).read_text())["digits"]
    assert [(each["set"], each["labels"]) for each in found["recipes"]] == [("datm", "its own"), ("datm", "by experts")]


def test_the_picture_says_which_marks_are_soft(board, tmp_path):
    page = Page("page", tmp_path)
    draw_plane(board, Drawings(tmp_path / "figures", page), reduced=True)
    assert "DATM: labels of its own (filled) that are soft too" in page.write().read_text()
    rows = list(csv.DictReader((tmp_path / "figures" / "plane-digits.csv").open()))
    assert {row["labels"] for row in rows if row["set"] == "datm"} == {"its own", "by experts"}
