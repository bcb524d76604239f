"""Stage keys are promises: trials of every shipped study have the keys that they had when `shipped_keys.json` was made.

A key may change only with an algorithm version. Then ``python tests/pipeline/test_shipped_keys.py`` writes the table
again, and the commit says why.
"""

import json
import random
from pathlib import Path

import pytest

from ddcal.analysis.report.studies import paper_studies, studies_folder
from ddcal.config import StudyConfig, read_study, resolve, trial_from
from ddcal.config.baselines import enqueued_points
from ddcal.config.space import search_order
from ddcal.pipeline import Environment, stage_keys

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("shipped_keys.json")
POINTS = 10
FINGERPRINT = "0" * 64
DIGITS = 16
"""How much of a key the table holds."""


def shipped_studies() -> dict[str, StudyConfig]:
    """Return every study of ``studies/``, and those of the paper as the scales change them."""
    studies = {path.stem: read_study(path) for path in sorted((ROOT / "studies").glob("*.yaml"))}
    for scale, dataset in (("cpu", "digits"), ("cpu", "cifar10"), ("gpu", "cifar10"), ("gpu", "tiny-imagenet")):
        for study in paper_studies(scale, [dataset], studies_folder(), extra=True):
            studies[f"{scale}/{dataset}/{study.config.name}"] = study.config
    return studies


def drawn_points(study: StudyConfig) -> list[dict]:
    """Return the points that the study names, and random ones."""
    draw, points = random.Random(0), []
    for _ in range(POINTS):
        values = {}
        for name in search_order(study.space):
            domain = study.space[name]
            if not study.active(values, name):
                continue
            low_high = domain.corners
            if domain.kind == "choice":
                values[name] = draw.choice(low_high)
            elif domain.kind == "int":
                values[name] = draw.randint(*low_high)
            else:
                values[name] = round(draw.uniform(*low_high), 6)
        points.append(values)
    return [*enqueued_points(study)[:POINTS], *points]


def keys_of(study: StudyConfig, values: dict) -> dict[str, str]:
    trial = resolve(trial_from(study.base, values))
    keys = stage_keys(trial, FINGERPRINT, Environment("cpu", study.resources.threads), study.trial)
    return {stage: key[:DIGITS] for stage, key in keys.items()}


STUDIES = shipped_studies()
KEYS = json.loads(TABLE.read_text()) if TABLE.exists() else {}


def test_the_table_has_every_shipped_study():
    assert sorted(KEYS) == sorted(STUDIES)


@pytest.mark.parametrize("name", sorted(KEYS))
def test_the_stage_keys_of_a_shipped_study_are_what_they_were(name):
    for values, keys in KEYS[name]:
        assert keys_of(STUDIES[name], values) == keys, values


if __name__ == "__main__":
    made = {  # the points of a study that is in the table already stay what they are
        name: [[v, keys_of(study, v)] for v in [v for v, _ in KEYS.get(name, ())] or drawn_points(study)]
        for name, study in sorted(STUDIES.items())
    }
    rows = [
        f" {json.dumps(name)}: [\n  " + ",\n  ".join(map(json.dumps, points)) + "\n ]" for name, points in made.items()
    ]
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
