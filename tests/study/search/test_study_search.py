"""The search with made-up values; ``quality`` stands for a trial, so that histories repeat."""

import graphlib
import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from ddcal.config.space import search_order
from ddcal.errors import ResourceError
from ddcal.study.search.samplers import check_installed
from ddcal.study.search.search import JOURNAL, STATES, StudySearch

SPACE = {
    "distill.mask.ratio": {"uniform": [0.0, 0.5], "when": {"distill.backbone": ["dc"]}},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.ipc": {"int": [1, 5]},
    "calibrate.t_min": {"loguniform": [0.1, 1.0]},
}
NUMBERS = {name: domain for name, domain in SPACE.items() if "int" in domain or "loguniform" in domain}
FINITE = {
    "distill.mask.ratio": {"choice": [0.0, 0.1], "when": {"distill.backbone": ["dc"]}},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.ipc": {"int": [1, 5]},
}
SPACES = {"gp": NUMBERS | {"distill.backbone": {"choice": ["real", "dc"]}}, "cma-es": NUMBERS, "grid": FINITE}
SEARCHERS = ("tpe", "random", "nsga2", "gp", "cma-es", "grid")


def quality(values):
    x, ipc, t = values.get("distill.mask.ratio", 0.7), values["distill.ipc"], values.get("calibrate.t_min", 0.5)
    return {"val/ece": abs(x - 0.2) + t / ipc, "val/accuracy": ipc / 5 - x / 3, "val/nll": x}


@pytest.fixture
def searching(tiny_study, tmp_path):
    """searching(folder, searcher=…, seed=…, …) -> StudySearch."""

    def open_search(folder="a", *, name="tiny", constraints=None, objectives=None, **search):
        (tmp_path / folder).mkdir(exist_ok=True)
        settings = {"searcher": "random", "trials": 100, "startup": 4, **search}
        if settings["searcher"] in ("cma-es", "gp"):  # gp takes two, at twice the cost
            objectives = objectives or {"val/ece": "min"}
        sections = {"objectives": objectives} if objectives else {}
        space = SPACES.get(settings["searcher"], SPACE)
        study = tiny_study(name=name, space=space, constraints=constraints or {}, search=settings, **sections)
        return StudySearch(study, tmp_path / folder)

    return open_search


def run(search, trials, reopen=None):
    """Suggest and tell ``trials`` times; ``reopen`` gives a new search on the same journal before every ask."""
    suggested = []
    for _ in range(trials):
        search = reopen() if reopen else search
        number, values = search.ask()
        suggested.append(values)
        search.tell(number, "complete", quality(values))
    return suggested


def frozen(search, number=-1):
    return search.optuna.get_trials()[number]


def test_names_are_suggested_within_their_domains_and_inactive_ones_left_out(searching):
    suggested = run(searching(), 20)
    for values in suggested:
        assert ("distill.mask.ratio" in values) == (values["distill.backbone"] == "dc")
        assert values["distill.ipc"] in (1, 2, 3, 4, 5) and isinstance(values["distill.ipc"], int)
        assert 0.1 <= values["calibrate.t_min"] <= 1.0
        assert 0.0 <= values.get("distill.mask.ratio", 0.0) <= 0.5
    assert {values["distill.backbone"] for values in suggested} == {"real", "dc"}


@pytest.mark.parametrize(
    ("objectives", "directions"),
    [
        ({"val/ece": "min"}, ["MINIMIZE"]),
        ({"val/accuracy": "max"}, ["MAXIMIZE"]),
        ({"val/ece": "min", "val/accuracy": "max"}, ["MINIMIZE", "MAXIMIZE"]),
    ],
)
def test_objectives_keep_their_directions(searching, objectives, directions):
    search = searching(objectives=objectives)
    run(search, 1)
    assert [direction.name for direction in search.optuna.directions] == directions
    assert frozen(search).values == [quality(frozen(search).params)[name] for name in objectives]


@pytest.mark.parametrize(
    ("outcome", "accuracy", "violation"),
    [("complete", 0.75, -0.25), ("complete", 0.5, 0.0), ("infeasible", 0.25, 0.25)],
)
def test_optuna_is_told_how_far_a_constraint_is_violated(searching, outcome, accuracy, violation):
    search = searching(constraints={"val/accuracy": ">= 0.5", "val/nll": "<= 2.0"})
    number, _ = search.ask()
    search.tell(number, outcome, {"val/ece": 0.1, "val/accuracy": accuracy, "val/nll": 1.0})
    assert frozen(search).state is TrialState.COMPLETE
    assert frozen(search).constraints == {"val/accuracy": violation, "val/nll": -1.0}
    assert (frozen(search) in search.optuna.best_trials) == (violation <= 0)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("complete", "COMPLETE"),
        ("infeasible", "COMPLETE"),
        ("pruned", "PRUNED"),
        ("failed", "FAIL"),
        ("out_of_memory", "FAIL"),
        ("killed", "FAIL"),
    ],
)
def test_every_outcome_has_its_state(searching, outcome, state):
    assert set(STATES) == {"complete", "infeasible", "pruned", "failed", "out_of_memory", "killed"}
    search = searching()
    number, values = search.ask()
    search.tell(number, outcome, quality(values) if state == "COMPLETE" else {})
    assert frozen(search).state.name == state


@pytest.mark.parametrize("metrics", [{"val/ece": math.nan, "val/accuracy": 0.5}, {"val/ece": 0.1}, {}])
def test_an_objective_that_is_no_number_leaves_nothing_running(searching, metrics):
    search = searching()
    number, _ = search.ask()
    search.tell(number, "complete", metrics)
    assert frozen(search).state is TrialState.FAIL


def test_enqueued_configs_come_first(searching):
    first = {"distill.backbone": "dc", "distill.ipc": 3, "distill.mask.ratio": 0.25, "calibrate.t_min": 0.5}
    search = searching(enqueue=[first, {"distill.backbone": "real"}, {"distill.backbone": "real"}])
    suggested = run(search, 5)
    assert suggested[0] == first
    assert [values["distill.backbone"] for values in suggested[1:3]] == ["real", "real"]
    drawn = [values["calibrate.t_min"] for values in suggested]
    assert len(set(drawn)) == 5, "what an enqueued config leaves open is drawn anew for every trial"


@pytest.mark.slow
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_seed_gives_the_same_suggestions_and_another_seed_others(searching, searcher):
    trials = 6 if searcher == "gp" else 9
    suggested = run(searching("a", searcher=searcher, seed=1), trials)
    assert run(searching("b", searcher=searcher, seed=1), trials) == suggested
    assert (run(searching("c", searcher=searcher, seed=2), trials) != suggested) is (searcher != "grid")


@pytest.mark.slow
@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("enqueue", [[], [{"distill.ipc": 2}, {"distill.ipc": 5}]])
def test_a_journal_that_is_reopened_before_every_ask_changes_nothing(searching, searcher, enqueue):
    constraints = {} if searcher == "cma-es" else {"val/accuracy": ">= 0.3"}
    settings = {"searcher": searcher, "enqueue": enqueue, "constraints": constraints}
    trials = 9 if searcher == "gp" else 14
    undisturbed = run(searching("a", **settings), trials)
    assert run(None, trials, reopen=lambda: searching("b", **settings)) == undisturbed
    assert len(searching("b", **settings).optuna.get_trials()) == trials


def test_the_grid_is_walked_in_order_and_ends(searching):
    search = searching(searcher="grid")
    suggested = []
    while not search.through:
        suggested += run(search, 1)
    real = [{"distill.backbone": "real", "distill.ipc": ipc} for ipc in range(1, 6)]
    dc = [
        {"distill.backbone": "dc", "distill.mask.ratio": r, "distill.ipc": i} for r in (0.0, 0.1) for i in range(1, 6)
    ]
    assert suggested == real + dc
    assert searching(searcher="grid").through, "also for the next driver"


def test_points_of_the_grid_that_were_enqueued_are_not_repeated(searching):
    enqueue = [{"distill.backbone": "dc", "distill.mask.ratio": 0.1, "distill.ipc": 1}, {"distill.ipc": 3}]
    search, suggested = searching(searcher="grid", enqueue=enqueue), []
    assert not search.through
    while not search.through:
        suggested += run(search, 1)
    assert suggested[0] == enqueue[0] and suggested[1]["distill.ipc"] == 3, "what it leaves open is drawn"
    points = [tuple(sorted(values.items())) for values in suggested]
    assert len(points) == len(set(points)) == 15


def test_a_grid_goes_on_with_the_next_point_whatever_was_killed(searching):
    search = searching(searcher="grid", enqueue=[{"distill.backbone": "dc"}])
    suggested = run(search, 3)
    asked = [search.ask() for _ in range(2)]
    again = searching(searcher="grid", enqueue=[{"distill.backbone": "dc"}])
    assert again.unfinished() == asked
    suggested += [values for _, values in asked]
    for number, values in asked:
        again.tell(number, "complete", quality(values))
    while not again.through:
        suggested += run(again, 1)
    assert len({tuple(sorted(values.items())) for values in suggested}) == len(suggested) == 15


SMALL = {
    "distill.mask.ratio": {"choice": [0.0, 0.1], "when": {"distill.backbone": ["dc"]}},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.ipc": {"int": [1, 3]},
}
BACKBONE, IPC = CategoricalDistribution(["real", "dc"]), IntDistribution(1, 3)
FLAT = {"distill.ipc": {"int": [1, 3]}, "distill.iterations": {"int": [1, 3]}}


def spread(values):
    return {"val/ece": abs(values["distill.ipc"] - 2.0), "val/accuracy": 0.5, "val/nll": 1.0}


@pytest.fixture
def small(tiny_study, tmp_path):
    """small(folder, searcher, …) -> a StudySearch of 9 points."""

    def open_search(folder, searcher, **search):
        (tmp_path / folder).mkdir(exist_ok=True)
        space = FLAT if searcher in ("gp", "cma-es") else SMALL
        settings = {"searcher": searcher, "trials": 100, "startup": 2, **search}
        study = tiny_study(space=space, objectives={"val/ece": "min"}, search=settings)
        return StudySearch(study, tmp_path / folder)

    return open_search


def go_through(reopen, trials=20):
    """Ask and tell until the search is through; what was asked for."""
    asked, search = [], reopen()
    while not search.through and len(asked) < trials:
        number, values = search.ask()
        asked.append(values)
        search.tell(number, "complete", spread(values))
        search = reopen()
    return asked


@pytest.mark.parametrize(
    "searcher", [pytest.param(searcher, marks=[pytest.mark.slow] * (searcher == "gp")) for searcher in SEARCHERS]
)
@pytest.mark.parametrize("enqueue", [[], [{"distill.ipc": 2}, {"distill.ipc": 2}]])
def test_a_finite_space_is_gone_through_without_repeats(small, searcher, enqueue):
    search = small("a", searcher, enqueue=enqueue)
    asked = go_through(lambda: search)
    points = {tuple(sorted(values.items())) for values in asked}
    assert len(points) == len(asked) == 9 and search.through
    assert all(values["distill.ipc"] == 2 for values in asked[: len(enqueue)])
    assert go_through(lambda: small("b", searcher, enqueue=enqueue)) == asked, "opened anew for every trial"
    assert small("b", searcher, enqueue=enqueue).through, "also for the next driver"


def test_three_trials_on_three_points_try_them_all(tiny_study):
    """TPE suggested one of the three twice, and another never."""
    space = {"distill.ipc": {"choice": [1, 2, 3]}}
    for seed in range(8):
        search = StudySearch(tiny_study(space=space, search={"searcher": "tpe", "trials": 3, "seed": seed}), None)
        assert sorted(values["distill.ipc"] for values in run(search, 3)) == [1, 2, 3]


@pytest.mark.parametrize("searcher", ["tpe", "nsga2", "cma-es"])
@pytest.mark.parametrize("lines", range(1, 8))
def test_a_journal_that_ends_anywhere_in_a_replaced_ask_goes_on_to_the_same_values(small, tmp_path, searcher, lines):
    search, replaced = small("a", searcher), None
    while replaced is None:
        before = (tmp_path / "a" / JOURNAL).read_bytes()
        number, values = search.ask()
        added = (tmp_path / "a" / JOURNAL).read_bytes().removeprefix(before).splitlines(keepends=True)
        if "fixed_params" in search.optuna.get_trials()[number].system_attrs:
            replaced = (number, values)
        else:
            search.tell(number, "complete", spread(values))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / JOURNAL).write_bytes(before + b"".join(added[:lines]))
    assert small("b", searcher).unfinished() == [replaced]


def test_a_study_that_an_earlier_version_began_keeps_its_repeats_and_goes_on_without(small):
    """Three trials of one point, the last of them not told, and a fourth asked for but not for all of its names."""
    search = small("a", "tpe")
    for told in (True, True, False):
        trial = search.optuna.ask()
        search.optuna._storage.set_trial_param(trial._trial_id, "distill.backbone", 0, BACKBONE)
        search.optuna._storage.set_trial_param(trial._trial_id, "distill.ipc", 2, IPC)
        if told:
            search.optuna.tell(trial, 0.5)
    trial = search.optuna.ask()
    search.optuna._storage.set_trial_param(trial._trial_id, "distill.backbone", 0, BACKBONE)
    old = {"distill.backbone": "real", "distill.ipc": 2}
    again = small("a", "tpe")
    (third, fourth) = again.unfinished()
    assert third == (2, old) and fourth[0] == 3 and fourth[1]["distill.backbone"] == "real"
    for number, values in (third, fourth):
        again.tell(number, "complete", spread(values))
    rest = go_through(lambda: again)
    every = [*rest, old, fourth[1]]
    assert len(rest) == len({repr(sorted(values.items())) for values in rest})
    assert old not in rest and fourth[1] not in rest
    assert len({repr(sorted(values.items())) for values in every}) == 9


@pytest.mark.parametrize("searcher", ["tpe", "random", "nsga2"])
def test_what_is_suggested_does_not_depend_on_the_order_of_the_names(searching, searcher, monkeypatch):
    """Studies that an earlier version began asked for names without a condition first."""
    suggested = run(searching("a", searcher=searcher), 12)

    def former(space):
        conditions = {name: [other for other in domain.when if other in space] for name, domain in space.items()}
        return tuple(graphlib.TopologicalSorter(conditions).static_order())

    search = searching("b", searcher=searcher)
    assert former(search.config.space) != search_order(search.config.space)
    monkeypatch.setattr("ddcal.study.search.search.search_order", former)
    assert run(search, 12) == suggested


def test_nsga2_crosses_conditional_names_too(searching):
    """Names that not every trial has are carried by all: Optuna would draw them at random."""
    search = searching(searcher="nsga2")
    suggested = run(search, 30)
    for trial, values in zip(search.optuna.get_trials(), suggested, strict=True):
        assert set(trial.params) == set(SPACE)
        assert values == {name: value for name, value in trial.params.items() if name in values}
    old = {values["distill.mask.ratio"] for values in suggested[:15] if "distill.mask.ratio" in values}
    assert any(values.get("distill.mask.ratio") in old for values in suggested[15:]), "inherited"


@pytest.mark.parametrize("searcher", ["gp", "cma-es"])
def test_after_the_startup_every_name_follows_the_model(searching, searcher):
    search = searching(searcher=searcher)
    run(search, 6)
    search.ask()
    trial = next(iter(search._asked.values()))
    assert set(trial.relative_params) == set(SPACES[searcher]) and trial.relative_params == trial.params


@pytest.mark.slow
def test_gp_takes_two_objectives_and_constraints(searching):
    objectives = {"val/ece": "min", "val/accuracy": "max"}
    settings = {"searcher": "gp", "objectives": objectives, "constraints": {"val/accuracy": ">= 0.3"}}
    undisturbed = run(searching("a", **settings), 8)
    assert run(None, 8, reopen=lambda: searching("b", **settings)) == undisturbed


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"cma-es needs the package cmaes: pip install 'ddcal\[cmaes\]'"):
        check_installed("cma-es")
    check_installed("tpe")


def test_studies_of_different_names_share_nothing(searching):
    first, second = searching(name="one"), searching(name="two")
    run(first, 3)
    assert len(second.optuna.get_trials()) == 0
    storage = first.optuna._storage
    assert {study.study_name for study in optuna.get_all_study_summaries(storage)} == {"one", "two"}


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_trials_that_were_never_told_come_back_with_their_values(searching, searcher):
    search = searching("a", searcher=searcher)
    run(search, 6)
    asked = [search.ask() for _ in range(3)]
    again = searching("a", searcher=searcher)
    assert again.unfinished() == asked
    for number, values in asked:
        again.tell(number, "complete", quality(values))
    assert searching("a", searcher=searcher).unfinished() == []


@pytest.mark.slow
@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("told", [4, 6])
@pytest.mark.parametrize("lines", range(1, 8))
def test_a_journal_that_ends_anywhere_in_an_ask_goes_on_to_the_same_values(searching, tmp_path, searcher, told, lines):
    search = searching("a", searcher=searcher)
    run(search, told)
    before = (tmp_path / "a" / JOURNAL).read_bytes()
    asked = search.ask()
    added = (tmp_path / "a" / JOURNAL).read_bytes().removeprefix(before).splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / JOURNAL).write_bytes(before + b"".join(added[:lines]))
    again = searching("b", searcher=searcher)
    assert again.unfinished() == [asked]


def test_the_journal_says_what_a_person_looks_for(searching):
    """For optuna-dashboard: names of the objectives, and a trial's key and stages."""
    search = searching()
    number, values = search.ask()
    search.tell(number, "complete", quality(values), {"trial_key": "tiny-0000", "ddcal": {"outcome": "complete"}})
    again = searching()
    assert again.optuna.metric_names == ["val/ece", "val/accuracy"]
    assert frozen(again).user_attrs == {"trial_key": "tiny-0000", "ddcal": {"outcome": "complete"}}
