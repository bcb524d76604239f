"""`ddcal report scoreboard` from an empty folder to its page, at a scale of seconds."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from ledgers import write_failed
from rich.console import Console
from sklearn.datasets import load_digits
from tiny_boards import tiny_board
from typer.testing import CliRunner

from ddcal.analysis.report.progress import ReportProgress
from ddcal.analysis.report.running import run_missing, study_state
from ddcal.analysis.scoreboard.board import check_cells, recipes_of
from ddcal.analysis.scoreboard.scores import augmentation_robust_score, label_robust_score
from ddcal.analysis.scoreboard.studies import RECIPES, board_folder, boards, cells_study, supposed
from ddcal.cli import app
from ddcal.config.space import trial_of
from ddcal.errors import BadInput
from ddcal.study import load_study
from ddcal.study.record.events import StudyStarted
from ddcal.study.record.ledger import Ledger

LINE = "mine: {title: my set, kind: imported, base: {distill.backbone: dm, distill.dm.image_lr: 2.0}}\n"


def report(*arguments):
    result = CliRunner().invoke(app, ["report", "scoreboard", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        self.ids |= {values["id"]} if "id" in values else set()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The options of a tiny scoreboard that was made, its folder, and what was printed."""
    folder = tmp_path_factory.mktemp("scoreboard")
    studies, output = tiny_board(folder), folder / "out put"
    options = ["--scale", "tiny", "--datasets", "digits", "--studies", studies, "--debug"]
    result = report("--output", output, *options)
    assert result.exit_code == 0, result.output
    return options, output, result.output


def numbers(output):
    found = json.loads((output / "scoreboard.json").read_text())["digits"]
    return found, {(one["set"], one["labels"], one["number"]): one for one in found["numbers"]}


@pytest.mark.slow
def test_every_number_on_the_page_leads_to_a_trial_with_its_replay(made):
    _, output, printed = made
    text = (output / "index.html").read_text()
    page = Links(text)
    assert len(page.sources) == 2 and all(source.startswith("data:image/png;base64,") for source in page.sources)
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (output / link.replace("%20", " ")).is_file(), link
    linked = {link[1:] for link in page.links if link.startswith("#run-")}
    cells = [
        trial.trial_key for name in ("real", "dm") for trial in load_study(output / f"digits-{name}-cells").records
    ]
    assert {f"run-{key}" for key in cells} <= linked
    plain = re.sub("</?span>", "", text)
    for key in cells:
        assert f"--to replay-{key} &amp;&amp; ddcal replay replay-{key}" in plain, key
    assert "missing;" not in printed and "reduced scale" in text


@pytest.mark.slow
def test_numbers_are_those_of_the_ledger_and_scores_those_of_the_formulas(made):
    _, output, _ = made
    found, by_name = numbers(output)
    trials = {name: load_study(output / f"digits-{name}-cells").records for name in ("real", "dm")}
    full = [trial.metrics["test/raw/accuracy"] for trial in load_study(output / "digits-full").records]

    def value(name, labels, augment, metric, method, seed):
        where = {"labels.source": labels, "train.augment": augment, "seed": seed}
        (trial,) = [
            trial
            for trial in trials[name]
            if where.items() <= trial.values.items() and trial.config.calibrate.method == method
        ]
        return trial.metrics[metric]

    places = {"raw": ("test/raw/", "mts"), "mts": ("test/", "mts"), "ts_cv": ("test/", "ts_cv")}
    places["ts_val"] = ("test/ts_val/", "mts")
    for calibration, (place, method) in places.items():
        for metric in ("ece", "nll"):
            shown = by_name["dm", "soft", f"{metric}/{calibration}"]
            each = [value("dm", "experts", "dsa", f"{place}{metric}", method, seed) for seed in (0, 1)]
            assert shown["values"] == each and shown["mean"] == pytest.approx(np.mean(each), rel=1e-12)

    def accuracy(name, labels, augment, seed):
        return value(name, labels, augment, "test/raw/accuracy", "mts", seed)

    lrs, ars, soft = [], [], []
    for seed in (0, 1):
        hard, any_ = (accuracy("dm", labels, "dsa", seed) for labels in ("set", "experts"))
        random, plain = accuracy("real", "experts", "dsa", seed), accuracy("dm", "experts", "none", seed)
        lrs.append(label_robust_score(np.mean(full), hard, any_, random))
        ars.append(augmentation_robust_score(any_, random, plain, accuracy("real", "experts", "none", seed)))
        soft.append(any_ - hard)
    assert by_name["dm", "soft", "label_robust_score"]["values"] == pytest.approx(lrs, rel=1e-12)
    assert by_name["dm", "soft", "augmentation_robust_score"]["values"] == pytest.approx(ars, rel=1e-12)
    assert by_name["dm", "soft less hard", "accuracy"]["values"] == pytest.approx(soft, abs=1e-15)
    assert by_name["real", "hard", "accuracy"]["seeds"] == 3 and by_name["dm", "hard", "accuracy"]["seeds"] == 2
    rows = list(csv.DictReader((output / "tables" / "scoreboard-digits.csv").open()))
    assert len(rows) == len(found["numbers"]) and all(row["replay"].startswith("ddcal export ") for row in rows)
    assert (output / "scoreboard.md").read_text().count("| DM |") == 2


@pytest.mark.slow
def test_cells_have_the_recipe_that_is_best_on_val_and_share_its_networks(made):
    _, output, _ = made
    found, _ = numbers(output)
    records = load_study(output / "digits-dm-recipes").records
    assert len(found["recipes"]) == 4
    for one in (one for one in found["recipes"] if one["set"] == "dm"):
        cell = {"labels.source": {"hard": "set", "soft": "experts"}[one["labels"]]}
        means = {
            rate: np.mean([
                trial.metrics["val/accuracy"]
                for trial in records
                if (cell | {"train.lr": rate}).items() <= trial.values.items()
            ])
            for rate in (0.001, 0.1)
        }  # fmt: skip
        assert means[one["recipe"]["train.lr"]] == max(means.values()) == pytest.approx(one["val/accuracy"])
        cells = [t for t in load_study(output / "digits-dm-cells").records if cell.items() <= t.values.items()]
        assert cells and all(trial.values["train.lr"] == one["recipe"]["train.lr"] for trial in cells)
        again = [trial for trial in cells if trial.values["train.augment"] == "dsa"]
        assert all("train" in trial.cache_hits for trial in again)  # both seeds chose: nothing is trained again
    sets = {t.keys["distill"] for t in load_study(output / "digits-dm-cells").records if t.values["seed"] == 0}
    assert len(sets) == 1  # hard and soft labels are on the same images


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_a_plan_says_so(made):
    options, output, printed = made
    assert "study 3 of 3" in printed and "study 2 of 2" in printed
    result = report("--output", output, *options)
    assert result.exit_code == 0 and result.output.count("0 to run") == 2
    planned = report("--output", output, *options, "--plan", "--json")
    assert planned.exit_code == 0 and json.loads(planned.stdout)["studies"] == []


@pytest.mark.slow
def test_shuffled_test_labels_change_no_choice(tmp_path):
    """The same data twice, once with the labels of ``test`` in another order: other metrics, the same recipes."""
    digits = load_digits()
    images, labels = (15 * digits.images).astype(np.uint8), digits.target.astype(np.int64)
    chosen, accuracies = [], []
    for name, order in (("plain", np.arange(597)), ("shuffled", np.random.default_rng(0).permutation(597))):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "data.npz", x_train=images[:1200], y_train=labels[:1200], x_test=images[1200:],
                 y_test=labels[1200:][order])  # fmt: skip
        studies = tiny_board(folder, "npz", f"{{name: npz, root: {folder / 'data.npz'}}}")
        scales = studies / "scales.yaml"
        text = scales.read_text().replace("  npz: {}", "    dm: null\n  npz: {}")
        scales.write_text(text.replace("space.train.epochs: {choice: [3]}", "space.train.epochs: {choice: [40]}"))
        (board,) = boards("tiny", ["npz"], studies)
        (random,) = board.sets
        progress = ReportProgress(Console(file=(folder / "log").open("w")), "")
        run_missing([random.recipes], folder / "out", progress, debug=True)
        chosen.append(recipes_of(random, folder / "out"))
        records = load_study(folder / "out" / random.recipes.config.name).records
        accuracies.append([trial.metrics["test/accuracy"] for trial in records])
    assert chosen[0] == chosen[1] and len(chosen[0]) == 2
    assert np.mean(accuracies[0]) > np.mean(accuracies[1]) + 0.1  # what the choice could have seen


def test_a_scoreboard_of_which_every_trial_has_failed_has_failed(tmp_path):
    studies, output = tiny_board(tmp_path), tmp_path / "out"
    for board in boards("tiny", ["digits"], studies, ()):
        for study in board.first:
            write_failed(output, study.config)
    options = ["--scale", "tiny", "--datasets", "digits", "--studies", studies, "--debug"]
    result = report("--output", output, *options)
    assert result.exit_code == 1 and "no trial came to its end" in result.output, result.output
    assert "failed: no memory" in (output / "index.html").read_text()


def test_shipped_boards_are_whole():
    """Every dataset of every scale has studies that are right, and its cells hold each recipe on every seed."""
    scales = yaml.safe_load((board_folder() / "scales.yaml").read_text())
    for scale, dataset in ((scale, name) for scale, rows in scales.items() for name in rows if name != "any"):
        (board,) = boards(scale, [dataset], board_folder())
        assert board.full is not None and sum(one.row.kind == "random" for one in board.sets) == 1
        names = [study.config.name for study in board.first] + [one.cells.config.name for one in board.sets]
        assert len(set(names)) == len(names)
        for one in board.sets:
            study = cells_study(one, supposed(one)).config
            seeds = [point["seed"] for point in study.search.enqueue]
            assert sorted(set(seeds)) == list(range(one.seeds)) and len(seeds) == 6 * one.seeds
            for point in study.search.enqueue:
                assert trial_of(study, point).seed == point["seed"]


def test_a_line_adds_a_set(tmp_path):
    lines = tmp_path / "mine.yaml"
    lines.write_text(LINE)
    (board,) = boards("cpu", ["digits"], board_folder(), [lines])
    mine = board.sets[-1]
    assert (mine.name, mine.recipes.config.name, mine.seeds) == ("mine", f"digits-mine-{RECIPES}", 3)
    assert mine.recipes.config.base["distill"]["dm"]["image_lr"] == 2.0
    lines.write_text("mine: {title: t, kind: imported, base: {distill.backbone: file, distill.file.images: a.pt, "
                     "distill.file.preprocessing: pixels}}\n")  # fmt: skip
    (board,) = boards("cpu", ["digits"], board_folder(), [lines])
    assert board.sets[-1].recipes.config.base["distill"]["file"]["images"] == str(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dm: {title: t, kind: distilled, base: {}}", ["dm is the name of another set"]),
        ("any: {title: t, kind: distilled, base: {}}", ["any means something else"]),
        ("'a b': {title: t, kind: distilled, base: {}}", ["'a b' is no name of a set"]),
        ("mine: {title: t, kind: other, base: {}}", ["mine.kind", "'coreset'"]),
        ("mine: {title: t, base: {}}", ["mine.kind", "required"]),
        ("mine: {title: t, kind: random, base: {}}", ["exactly one set", "real", "mine"]),
        (
            "mine: {title: t, kind: imported, base: {distill.bakbone: dm}}",
            ["set mine: ", "base.distill.bakbone", "did you mean"],
        ),
        ("mine: {title: t, kind: imported, base: {distill.ipc: 5}}", ["set mine: distill.ipc is 5", "10"]),
        ("mine: {title: t, kind: imported, base: {train.lr: 1.0}}", ["set mine: base has train.lr", "leave it out"]),
        ("mine: {title: t, kind: imported, base: {train: {epochs: 5}}}", ["set mine: base has train.epochs"]),
        ("mine: {title: t, kind: imported, base: {data.name: mnist}}", ["set mine: base has data.name", "--datasets"]),
        ("mine: {title: MTT, kind: imported, base: {}}", ["mine.title is that of mtt"]),
        ("1: {title: t, kind: imported, base: {}}", ["mine.yaml:1: '1' is a key"]),
        ("[1, 2]", ["must map names of sets"]),
        ("mine: [", ["mine.yaml"]),
    ],
)
def test_lines_that_are_not_right_are_refused(line, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(line + "\n")
    result = report("--output", tmp_path / "out", "--datasets", "digits", "--sets", tmp_path / "mine.yaml")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    for word in words:
        assert word in result.output.replace("\n", " "), result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "huge"], ["--scale huge", "cpu"]),
        (["--datasets", "digit"], ["digit", "did you mean 'digits'"]),
        (["--datasets", "digits,digits"], ["twice"]),
        (["--studies", "{tmp}"], ["--studies", "recipes.yaml"]),
        (["--sets", "{tmp}/none.yaml"], ["none.yaml"]),
        (["--json"], ["--json goes with --plan"]),
    ],
)
def test_bad_names_of_a_scoreboard_are_refused(arguments, words, tmp_path):
    result = report("--output", tmp_path / "out", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    for word in words:
        assert word in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpu: {digits: 3}", "cpu.digits is 3; it must map studies to changes"),
        ("cpu: {digits: {dm: 5}}", "cpu.digits.dm is 5; it must map names to values"),
        ("cpu: {any: {any: [1]}, digits: {}}", r"cpu.any.any is \[1\]; it must map names to values"),
        ("cpu: {digits: {minutes: {recipes: soon}}}", "cpu.digits.minutes has {'recipes': 'soon'}; give numbers"),
        ("[1]", r"the file is \[1\]; it must map scales to datasets"),
        ("cpu: {digits: {}}", "seeds.choice of digits is None; give a number from 1"),
    ],
)
def test_scales_that_are_not_right_are_refused(text, said, tmp_path):
    folder = tiny_board(tmp_path)
    (folder / "scales.yaml").write_text(text)
    with pytest.raises(BadInput, match=said):
        boards("cpu", ["digits"], folder)


def test_a_later_row_wins_also_where_an_earlier_one_set_the_same(tmp_path):
    """`full` of the dataset replaces all of ``train``, also what `any` of the dataset has set of it before."""
    folder = tiny_board(tmp_path)
    scales = folder / "scales.yaml"
    lines = "{any: {base.train.weight_decay: 0.25}, full: {base.train: {epochs: 2, networks: 1}}}"
    scales.write_text(
        scales.read_text().replace("  digits: {}", f"    full: {{base.train: {{epochs: 1}}}}\n  digits: {lines}")
    )
    (board,) = boards("tiny", ["digits"], folder)
    assert board.full.config.base["train"] == {"epochs": 2, "networks": 1}
    assert board.sets[0].recipes.config.base["train"]["weight_decay"] == 0.25


@pytest.mark.parametrize(
    ("stem", "without", "added", "words"),
    [
        ("recipes", ["train.lr"], [], ["cells.yaml", "space.train.lr is not in the space of recipes.yaml"]),
        ("recipes", ["labels.temperature", "labels.source"], [], ["recipes.yaml", "space.labels.source is missing"]),
        ("cells", ["calibrate.method"], [], ["cells.yaml", "space.calibrate.method is missing"]),
        ("cells", [], ["train.weight_decay"], ["cells.yaml", "space.train.weight_decay is not in the space"]),
        ("recipes", [], ["train.augment"], ["recipes.yaml", "space.train.augment is no part of a recipe"]),
    ],
)
def test_cells_have_what_recipes_are_chosen_among(stem, without, added, words, tmp_path):
    """A rate that recipes have in their base alone would be that of ``cells.yaml`` in the cells."""
    folder = tiny_board(tmp_path)
    study, scales = (yaml.safe_load((folder / name).read_text()) for name in (f"{stem}.yaml", "scales.yaml"))
    for name in without:
        del study["space"][name]
    study["space"] |= {name: {"choice": ["dsa" if name == "train.augment" else 0.5]} for name in added}
    del scales["tiny"]["any"]["recipes"]  # it has a space, too
    (folder / f"{stem}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    (folder / "scales.yaml").write_text(yaml.safe_dump(scales))
    with pytest.raises(BadInput) as caught:
        boards("tiny", ["digits"], folder)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture
def begin(tmp_path):
    """begin(study) -> the output root, which has the beginning of this study."""

    def write(study):
        folder = tmp_path / "out" / study.name
        folder.mkdir(parents=True)
        ledger = Ledger(folder)
        environment = {"device": "cpu", "threads": 1, "precision": "float32"}
        facts = {"environment": environment, "versions": {}, "git_commit": None, "store": "", "study_id": study.name}
        ledger.append(StudyStarted, study=study.model_dump(mode="json"), **facts)
        ledger.close()
        return folder.parent

    return write


def test_cells_of_other_settings_are_refused_before_recipes_are_run(tmp_path, begin):
    studies = tiny_board(tmp_path)
    (board,) = boards("tiny", ["digits"], studies)
    cells = cells_study(board.sets[1], supposed(board.sets[1])).config
    root = begin(cells.model_copy(update={"base": {**cells.base, "seed": 7}}))
    options = ["--scale", "tiny", "--datasets", "digits", "--studies", studies, "--debug"]
    result = report("--output", root, *options)
    assert result.exit_code == 2 and [path.name for path in root.iterdir()] == [cells.name]
    assert f"{cells.name} was run with other settings" in result.output.replace("\n", " ")


def test_cells_with_another_recipe_count_only_once_one_is_chosen(tmp_path, begin):
    """Recipes that are not finished may still choose what these cells have."""
    (board,) = boards("tiny", ["digits"], tiny_board(tmp_path))
    cells = cells_study(board.sets[1], supposed(board.sets[1])).config
    search = cells.search.model_copy(update={"enqueue": cells.search.enqueue[::-1]})
    root = begin(cells.model_copy(update={"search": search}))
    check_cells([board], root)
    with pytest.raises(BadInput, match=r"search\.enqueue"):
        study_state(cells, root)
