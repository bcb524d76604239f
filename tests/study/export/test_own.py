"""A user's own backbone from ``validate`` to ``replay``: the package that the guide's tutorial shows."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from own_packages import forget
from test_cli_export_replay import ddcal

from ddcal.config import TrialConfig
from ddcal.config.base import RECORDED
from ddcal.config.trial import MDTMaskConfig
from ddcal.pipeline import Environment, TrialRunner, open_store
from ddcal.study import load_study

BACKBONE = "my_lab.herding:SPEC"
SPACE = {"distill.settings.candidates": {"choice": [5, 40]}, "distill.backbone": {"choice": [BACKBONE, "real"]}}
SPACE["distill.settings.candidates"]["when"] = {"distill.backbone": [BACKBONE]}
ENQUEUE = [
    {"distill.backbone": BACKBONE, "distill.settings.candidates": 40},
    {"distill.backbone": BACKBONE, "distill.settings.candidates": 5},
    {"distill.backbone": "real"},
]


@pytest.mark.slow
def test_a_backbone_of_ones_own_goes_from_validate_to_replay(herding, write_study, tmp_path):
    study = write_study(space=SPACE, search={"searcher": "random", "trials": 3, "enqueue": ENQUEUE})
    assert ddcal("validate", study).exit_code == 0
    planned = ddcal("plan", study, "--probe")
    assert planned.exit_code == 0 and BACKBONE in planned.output, planned.output
    ran = ddcal("run", study, "--debug", "--output", tmp_path / "runs")
    assert ran.exit_code == 0, ran.output
    results = load_study(tmp_path / "runs" / "tiny")
    keys = {trial.values.get("distill.settings.candidates"): trial.keys["distill"] for trial in results.records}
    assert len(set(keys.values())) == 3  # a setting of its own, and another backbone, are other sets
    best = next(trial for trial in results.records if trial.values.get("distill.settings.candidates") == 5)

    folder = tmp_path / "export"
    assert ddcal("export", results.directory, "--trial", best.trial_key, "--to", folder).exit_code == 0
    told = yaml.safe_load((folder / "run.yaml").read_text())["components"]["distill.backbone"]
    assert told["path"] == BACKBONE and told["others"] == ["my_lab.images:HerdedImages"] and len(told["sha256"]) == 64
    replayed = ddcal("replay", folder)
    assert replayed.exit_code == 0 and "equal" in replayed.output, replayed.output

    # Another source, in either module
    for module in ("herding.py", "images.py"):
        text = (herding / module).read_text()
        (herding / module).write_text(text + "# another version\n")
        forget()
        changed = ddcal("replay", folder)
        assert changed.exit_code == 2
        assert f"config.distill.backbone is '{BACKBONE}': its source has changed since the run" in changed.output
        assert "my_lab" not in sys.modules  # that is said before any of it is imported
        again = ddcal("replay", folder, "--ignore-versions")
        assert again.exit_code in (0, 1) and "has changed" not in again.output
        refused = ddcal("export", results.directory, "--trial", best.trial_key, "--to", tmp_path / "other")
        assert refused.exit_code == 2 and "has changed since it ran" in " ".join(refused.output.split())
        (herding / module).write_text(text)
        forget()

    # No package at all
    shutil.rmtree(herding)
    forget()
    missing = ddcal("replay", folder)
    assert missing.exit_code == 2 and "there is no my_lab.herding here: install the package" in missing.output
    for verb in ("status", "pareto", "compare"):  # what was found can be seen anywhere
        assert ddcal(verb, results.directory).exit_code == 0, verb
    assert [trial.outcome for trial in load_study(results.directory).records] == ["complete"] * 3
    resumed = ddcal("resume", results.directory, "--trials", "4", "--debug")
    assert resumed.exit_code == 2 and "my_lab" in resumed.output


def test_its_settings_are_checked_like_ours(herding, write_study):
    base = {"distill.backbone": BACKBONE}
    wrong = ddcal("validate", write_study({**base, "distill.settings": {"candidates": 0, "colour": "red"}}))
    assert wrong.exit_code == 2
    said = " ".join(wrong.output.split())
    assert "settings.candidates is 0: Input should be greater than or equal to 1" in said
    assert "settings.colour is 'red': unknown setting (it has candidates)" in said
    searched = ddcal("validate", write_study(base, space={"distill.settings.candidates": {"int": [0, 9]}}))
    assert searched.exit_code == 2 and "settings.candidates is 0" in searched.output
    unknown = ddcal("validate", write_study({"distill.backbone": "my_lab.herding:SPAC"}))
    assert unknown.exit_code == 2 and "my_lab.herding has no SPAC" in unknown.output


def test_validating_it_needs_no_torch(herding, write_study):
    study = write_study({"distill.backbone": BACKBONE})
    code = f"import sys; from ddcal.config import read_study; read_study({str(study)!r}); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert found.stdout.strip() == "False", found.stderr


@pytest.mark.slow
def test_an_entry_point_is_a_name(herding, write_study, tmp_path):
    info = herding.parent / "my_lab-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.2\n")
    (info / "RECORD").write_text("my_lab/__init__.py,,\nmy_lab/herding.py,,\n")
    (info / "entry_points.txt").write_text(f"[ddcal.backbones]\npixel_herding = {BACKBONE}\n")
    (info / "top_level.txt").write_text("my_lab\n")
    forget()
    study = write_study({"distill.backbone": "pixel_herding"}, search={"searcher": "random", "trials": 1})
    ran = ddcal("run", study, "--debug", "--output", tmp_path / "runs")
    assert ran.exit_code == 0, ran.output
    folder = tmp_path / "export"
    assert ddcal("export", tmp_path / "runs" / "tiny", "--to", folder).exit_code == 0
    told = json.loads((folder / "run.lock.json").read_text())["components"]["distill.backbone"]
    assert (told["path"], told["package"], told["version"]) == (BACKBONE, "my-lab", "1.2")
    shutil.rmtree(herding)
    shutil.rmtree(info)
    forget()
    missing = ddcal("replay", folder)
    assert missing.exit_code == 2 and "(package my-lab 1.2)" in missing.output


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("SPEC = 3", "is of type int, and must be a Backbone"),
        ("from ddcal.config.backbones import Backbone\nSPEC = Backbone()", "must say its name, and its distiller"),
        (
            "from ddcal.config.backbones import Backbone\nclass Mine(Backbone):\n    name = 'mine'\n"
            "    distiller = 'my_lab.images:X'\n"
            "    presets = {'published': {'any': {'all': {'distill.settings.a': 1}}}}\nSPEC = Mine()",
            "its presets name distill.settings.a, which its settings have not",
        ),
    ],
)
def test_what_is_no_backbone_is_said(own_package, write_study, spec, said):
    own_package({"herding.py": spec})
    wrong = ddcal("validate", write_study({"distill.backbone": BACKBONE}))
    assert wrong.exit_code == 2 and said in " ".join(wrong.output.split()), wrong.output


def test_what_was_recorded_is_read_without_its_package():
    values = {"distill": {"backbone": "not_here.at_all:SPEC", "settings": {"k": 3}}}
    assert TrialConfig.model_validate(values, context={RECORDED: True}).distill.settings == {"k": 3}
    with pytest.raises(ValueError, match=r"not_here\.at_all cannot be imported"):
        TrialConfig.model_validate(values)


LEARNED = '''
import torch
from ddcal.config.backbones import Backbone, Config
from ddcal.distill import LearnedImages, RealBatches
from ddcal.seeding import generator

class Settings(Config):
    rate: float = 1.0

class Means(Backbone):
    """Moves the mean of a class's images to that of real ones."""
    name = "means"
    distiller = "my_lab.means:MovedImages"
    settings = Settings
    presets = {"published": {"any": {"all": {"distill.iterations": 6, "train.epochs": 5, "train.augment": "none"}}}}

SPEC = Means()

class MovedImages(LearnedImages):
    def __init__(self, dataset, config, seed, device):
        super().__init__(dataset, config, seed, device, "noise")
        self.real, self.rate = RealBatches(dataset, 16, device), config.spec.own(config).rate

    def step(self):
        self.mask.begin(self.iteration, tuple(self.images.shape))
        draws, leaf, loss = generator(self.seed, "distill", "real", self.iteration), self.images.requires_grad_(), 0.0
        for label in range(self.dataset.num_classes):
            part = self.class_part(label)
            masked = self.mask.apply(leaf[part], part, "matching")
            loss = loss + (masked.mean(0) - self.real.draw(label, draws).mean(0)).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        self.images = leaf.detach()
        self.descend(gradient, self.rate, 0.5, float(loss.detach()), "distill.settings.rate", usual=1e6)
        self.iteration += 1
        return float(loss.detach())
'''


def test_one_that_learns_has_masks_points_pictures_and_goes_on_to_the_same_bits(own_package, tmp_path):
    own_package({"means.py": LEARNED})
    trial = {"network": {"width": 4}, "train": {"networks": 1}}
    trial["distill"] = {
        **{"backbone": "my_lab.means:SPEC", "ipc": 2, "mask": {"ratio": 0.3}, "settings": {"rate": 0.5}},
        "probe": {"points": 2, "epochs": 1},
    }
    config = TrialConfig.model_validate(trial)
    points = []
    whole = TrialRunner(config, open_store(tmp_path / "whole"), Environment("cpu", 1))
    metrics = whole.run(points.append)
    assert len([advance for advance in points if advance.stage == "distill" and advance.point]) == 2
    found = whole.entries["distill"].files
    assert "pictures.safetensors" in found

    cut = TrialRunner(config, open_store(tmp_path / "cut"), Environment("cpu", 1))
    for _ in range(3):
        assert cut.advance().stage == "distill"
    state = cut.state()
    cut.close()
    other = TrialRunner(config, open_store(tmp_path / "cut"), Environment("cpu", 1))
    other.restore(state)
    assert other.run() == metrics
    assert other.entries["distill"].files == found

    plain = config.model_copy(update={"distill": config.distill.model_copy(update={"mask": MDTMaskConfig()})})
    unmasked = TrialRunner(plain, open_store(tmp_path / "cut"), Environment("cpu", 1))
    unmasked.run()
    assert unmasked.entries["distill"].files["synthetic.safetensors"] != found["synthetic.safetensors"]


ASKING = '''
from ddcal.config.backbones import Backbone
from ddcal.distill import FixedImages
from ddcal.distill.experts import expert_network
from ddcal.distill.real import random_subset
from ddcal.networks import predict_logits

class Asking(Backbone):
    """Takes one expert, and images that depend on all that it is given."""
    name = "asking"
    distiller = "my_lab.asking:Asked"
    learns = False
    takes_experts = True

    def experts(self, distill):
        return 1

SPEC = Asking()

class Asked(FixedImages):
    def __init__(self, dataset, config, seed, device, experts):
        self.images, self.labels = random_subset(dataset, config.ipc, seed)
        for index in range(len(experts)):
            network = expert_network(experts, index, 1, dataset, config, device)
            self.images = self.images + predict_logits(network, self.images).mean()
'''


def test_experts_that_label_are_not_given_to_one_that_takes_fewer(own_package, tmp_path):
    """The stage has one key with and without them, so it must have one set."""
    own_package({"asking.py": ASKING})
    distill = {"backbone": "my_lab.asking:SPEC", "ipc": 1, "probe": {"points": 0}}
    distill["mtt"] = {"experts": {"epochs": 1, "batch_size": 256}}
    trial = {"network": {"width": 4}, "train": {"networks": 1, "epochs": 1}, "distill": distill}
    runners = []
    for labels in ({}, {"source": "experts", "experts": 2}):
        config = TrialConfig.model_validate({**trial, "labels": labels})
        runners.append(TrialRunner(config, open_store(tmp_path / str(len(runners))), Environment("cpu", 1)))
        runners[-1].run()
    plain, labelled = runners
    assert plain.keys["distill"] == labelled.keys["distill"]
    found = [runner.entries["distill"].files["synthetic.safetensors"] for runner in runners]
    assert found[0] == found[1]
