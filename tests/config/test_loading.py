"""Reading study files: YAML 1.2 scalars, overrides, and nothing but ConfigError whatever the input."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddcal.config import ConfigError, StudyConfig, TrialConfig, read_study, trial_from
from ddcal.config.checks.study import check_study
from ddcal.config.names import nest
from ddcal.config.reading.overrides import parse_overrides
from ddcal.config.space import search_order

GOOD = """
name: good
base: {distill: {backbone: dc}, distill.ipc: 5}
space:
  distill.mask.ratio: {uniform: [0, .5]}
  calibrate.method: {choice: [mts, none]}
  calibrate.mask.ratio: {choice: [0.5, 0.9], when: {calibrate.method: [mts]}}
objectives: {val/nll: min, val/accuracy: max}
search: {enqueue: [{distill.mask.ratio: 0}]}
"""


@pytest.fixture
def good(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    return file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-3", 0.001),
            ("1E5", 1e5),
            ("-1.5e+2", -150.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1", 1),
            ("-3", -3),
            ("007", 7),
        ),
        *(("0x1F", 31), ("0o17", 15), ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None)),
        *(("yes", "yes"), ("on", "on"), ("off", "off"), ("no", "no"), ("1_000", "1_000"), ("12:30", "12:30")),
        *(("2020-01-01", "2020-01-01"), ("nan", "nan"), ('"1e-3"', "1e-3"), ("'true'", "true"), ("1e", "1e")),
        *(("[1, 2e0]", [1, 2.0]), ("{a: 1}", {"a": 1}), ("a=b", "a=b")),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    [(key, parsed, _)], problems = parse_overrides([f"a.b={text}"])
    assert (key, problems) == ("a.b", [])
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("search.trials=4", lambda s: s.search.trials, 4),
        ("name=other", lambda s: s.name, "other"),
        ("base.data.name=cifar10", lambda s: s.base["data"], {"name": "cifar10"}),
        ("base.distill.ipc=1", lambda s: s.base["distill"], {"backbone": "dc", "ipc": 1}),
        ("base.distill.mask={ratio: 0.2}", lambda s: s.base["distill"]["mask"], {"ratio": 0.2}),
        ("base.distill={mask.unit: pixel}", lambda s: s.base["distill"], {"mask": {"unit": "pixel"}}),
        ("space.distill.mask.ratio.uniform=[0,0.3]", lambda s: s.space["distill.mask.ratio"].uniform, (0.0, 0.3)),
        ("space.train.lr.loguniform=[1e-4,1e-1]", lambda s: s.space["train.lr"].loguniform, (1e-4, 0.1)),
        ("space.seed={choice: [0, 1]}", lambda s: s.space["seed"].choice, (0, 1)),
        (
            "space.calibrate.mask.ratio.when.calibrate.method=[mts]",
            lambda s: s.space["calibrate.mask.ratio"].when,
            {"calibrate.method": ("mts",)},
        ),
        ("search.enqueue.0.distill.mask.ratio=0.4", lambda s: s.search.enqueue, ({"distill.mask.ratio": 0.4},)),
        ("search.enqueue.0.calibrate.method=none", lambda s: s.search.enqueue[0]["calibrate.method"], "none"),
        ("constraints.val/accuracy='>= 0.3'", lambda s: s.constraints, {"val/accuracy": ">= 0.3"}),
        ("resources.gpu=0.5", lambda s: s.resources.gpu, 0.5),
        ("resources.gpu=auto", lambda s: s.resources.gpu, "auto"),
        ("resources.on_oom=grow", lambda s: s.resources.on_oom, "grow"),
    ],
)
def test_overrides_reach_their_key(good, override, read, value):
    assert read(read_study(good, [override])) == value


def test_a_list_in_the_space_is_short_for_a_choice(tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text(
        "name: x\nobjectives: {val/nll: min}\nspace: {distill.ipc: [1, 5], calibrate.method: [mts, none]}\n"
    )
    full = {"distill.ipc": {"choice": [1, 5]}, "calibrate.method": {"choice": ["mts", "none"]}}
    study = read_study(file)
    assert study == StudyConfig.model_validate({"name": "x", "objectives": {"val/nll": "min"}, "space": full})
    assert study.model_dump(mode="json")["space"]["distill.ipc"]["choice"] == [1, 5]  # as earlier versions read it
    changed = read_study(file, ["space.distill.ipc.choice=[1]", "space.train.epochs=[2, 3]"])
    assert (changed.space["distill.ipc"].choice, changed.space["train.epochs"].choice) == ((1,), (2, 3))


def test_later_override_wins(good):
    assert read_study(good, ["search.trials=4", "search.trials=5"]).search.trials == 5


def test_aliases_are_copies(tmp_path):
    file = tmp_path / "alias.yaml"
    file.write_text(
        "name: x\nobjectives: {val/nll: min}\n"
        "space: {distill.mask.ratio: &d {uniform: [0, 0.5]}, calibrate.mask.ratio: *d}\n"
    )
    study = read_study(file, ["space.distill.mask.ratio.uniform=[0.1, 0.2]"])
    assert study.space["calibrate.mask.ratio"].uniform == (0.0, 0.5)


def test_config_error_carries_problems(good):
    with pytest.raises(ConfigError) as caught:
        read_study(good, ["search.trials=0", "space.train.lr.uniform=[2, 1]"])
    assert [problem.path for problem in caught.value.problems] == ["space.train.lr", "search.trials"]
    assert "search.trials: 0 is not allowed: must be at least 1" in str(caught.value)


def test_trial_from_puts_values_over_the_base(good):
    study = read_study(good)
    trial = trial_from(study.base, {"distill.mask.ratio": 0.25, "distill.ipc": 7, "distill.network.norm": "none"})
    assert (trial.distill.backbone, trial.distill.ipc, trial.distill.mask.ratio) == ("dc", 7, 0.25)
    assert trial.distill.network is not None and trial.distill.network.norm == "none"
    assert study.base == {"distill": {"backbone": "dc", "ipc": 5}}, "the base is left as it was"
    assert trial_from({}, {}) == TrialConfig()
    assert trial_from({"calibrate.mask.unit": "pixel"}, {}).calibrate.mask.ratio == 0.9
    with pytest.raises(ValueError, match=r"distill\.ipc"):
        trial_from({}, {"distill.ipc": 0})


def test_nest_merges_and_finds_conflicts():
    assert nest({"a.b": 1, "a": {"c": 2, "d.e": 3}}) == ({"a": {"b": 1, "c": 2, "d": {"e": 3}}}, [])
    assert nest({"a.b": 1, "a": {"b": 2}})[1] == [("a", "b")]
    assert nest({"a": 1, "a.b": 2})[1] == [("a", "b")]
    assert nest({"a.b": 1, "a": 2})[1] == [("a",)]


def test_search_order_puts_conditions_first():
    space = {"calibrate.mask.ratio": {"choice": (1,), "when": {"calibrate.method": ("mts",)}}}
    space["calibrate.method"] = {"choice": ("mts",)}
    study = StudyConfig.model_validate({"name": "x", "objectives": {"val/nll": "min"}, "space": space})
    assert search_order(study.space) == ("calibrate.method", "calibrate.mask.ratio")
    assert check_study(study) == []


def test_condition_protects_a_corner():
    """A corner that breaks a rule is no problem where a condition keeps it from running."""
    holdout = {"choice": (0.1, 0.2), "when": {"calibrate.method": ("ts_holdout",)}}
    space = {"train.holdout": holdout, "calibrate.method": {"choice": ("mts", "ts_holdout")}}
    values = {"name": "x", "objectives": {"val/nll": "min"}, "base": {"distill": {"ipc": 10}}, "space": space}
    assert check_study(StudyConfig.model_validate(values)) == []


SECTIONS = ["name", "description", "trial", "base", "space", "objectives", "constraints", "search", "scheduler"]
NAMES = ["distill.ipc", "distill", "ipc", "calibrate.t_min", "calibrate.t_max", "train.holdout", "calibrate.method"]
WORDS = ["enqueue", "trials", "when", "uniform", "int", "choice", "loguniform", "val/nll", "test/ece", "mask", "ratio"]
KEYS = st.sampled_from([*SECTIONS, *NAMES, *WORDS, "network", "data", ".", "..", "a..b"]) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["min", "max", "mts", "ts_holdout", "dsa", "full", ">= 1", "distill"])
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)
STUDIES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | TREES,
        "trial": st.sampled_from(["ddnn", "distill"]) | TREES,
        "objectives": st.just({"val/nll": "min"}) | TREES,
        "base": st.dictionaries(KEYS, TREES, max_size=4) | TREES,
        "space": st.dictionaries(KEYS, st.dictionaries(KEYS, TREES, max_size=2) | TREES, max_size=4) | TREES,
        "search": st.dictionaries(KEYS, TREES, max_size=3) | TREES,
    },
)
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@QUICK
@given(tree=STUDIES | TREES, dump=st.sampled_from([yaml.safe_dump, json.dumps]))
def test_any_structure_is_a_study_or_a_config_error(tmp_path, tree, dump):
    file = tmp_path / "any.yaml"
    file.write_text(dump(tree))
    try:
        assert isinstance(read_study(file), StudyConfig)
    except ConfigError as error:
        assert error.problems
        assert all(str(problem).startswith(f"{file}") for problem in error.problems)


@QUICK
@given(content=st.binary(max_size=60) | st.text(alphabet="[]{}:,-&*!|>'\"#? \nab01.e", max_size=60).map(str.encode))
def test_any_bytes_are_a_config_error(tmp_path, content):
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        read_study(file)


@QUICK
@given(
    override=st.text(max_size=20)
    | st.builds("{}={}".format, st.lists(KEYS, max_size=4).map(".".join), st.text(max_size=9))
)
def test_any_override_is_applied_or_a_config_error(good, override):
    try:
        read_study(good, [override])
    except ConfigError as error:
        assert error.problems


MERGED = """
name: merged
objectives: {val/nll: min}
space: {distill.ipc: {choice: [1, 2]}, seed: {choice: [1, 2, 3]}}
search:
  enqueue:
  - &first {distill.ipc: 1, seed: 1}
  - &second
    <<: *first
    seed: 2
  - <<: [{seed: 3}, *second]
"""


def test_merge_keys_are_merged_and_what_is_given_beside_them_wins(tmp_path):
    file = tmp_path / "merged.yaml"
    file.write_text(MERGED)
    study = read_study(file)
    assert list(study.search.enqueue) == [{"distill.ipc": 1, "seed": seed} for seed in (1, 2, 3)]
    file.write_text(MERGED.replace("seed: 1}\n", "seed: 9}\n"))
    with pytest.raises(ConfigError) as raised:
        read_study(file)
    assert [(problem.path, problem.line) for problem in raised.value.problems] == [("search.enqueue.0.seed", 7)]
    file.write_text(MERGED.replace("*first", "first"))
    with pytest.raises(ConfigError, match=r":9: search.enqueue.1.<<: merges mappings: write an alias of one, \*name"):
        read_study(file)


def test_merging_does_not_get_around_the_limits(tmp_path):
    file = tmp_path / "bomb.yaml"
    wide = ", ".join(f"k{index}: 1" for index in range(100))
    chain = (f"a{i}: &a{i} {{<<: *a{i - 1}, x{i}: *a{i - 1}}}" for i in range(1, 30))
    file.write_text("\n".join([f"a0: &a0 {{{wide}}}", *chain]))
    with pytest.raises(ConfigError, match="aliases counted as often as they are used"):
        read_study(file)
