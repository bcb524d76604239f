"""Networks in configs: what each has, what an override takes over, and what is refused before anything runs."""

import pytest
from pydantic import ValidationError

from ddcal.config import NetworkConfig, TrialConfig, resolve, study_problems
from ddcal.config.networks import ARCHITECTURES, NetworkOverride

HEAD = "name: broken\nobjectives: {val/nll: min}\n"


@pytest.mark.parametrize(
    ("values", "width", "norm"),
    [
        ({}, 128, "instance"),
        ({"name": "convnet", "width": 32, "norm": "batch"}, 32, "batch"),
        ({"name": "mlp"}, 128, "none"),
        ({"name": "lenet", "width": None, "norm": None}, None, "none"),
        ({"name": "alexnet"}, 128, "instance"),
        ({"name": "vgg11", "width": 8}, 8, "instance"),
        ({"name": "resnet18", "norm": "batch"}, 64, "batch"),
    ],
)
def test_what_is_left_out_is_the_networks_own(values, width, norm):
    config = NetworkConfig.model_validate(values)
    assert (config.width, config.depth, config.norm) == (width, None, norm)
    assert NetworkConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "lenet", "width": 6}, "width is 6, but the layers of lenet have fixed widths: leave it out"),
        ({"name": "resnet18", "depth": 3}, "depth is 3, but resnet18 has a fixed depth: leave it out"),
        ({"name": "mlp", "norm": "batch"}, "norm is 'batch', but mlp has no norm: leave it out, or say 'none'"),
    ],
)
@pytest.mark.parametrize("model", [NetworkConfig, NetworkOverride])
def test_what_a_network_has_not_is_refused(model, values, words):
    with pytest.raises(ValidationError, match=words):
        model.model_validate(values)


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ({"width": 32, "depth": 2}, {}, ("convnet", 32, 2, "instance")),
        ({"width": 32, "depth": 2}, {"name": "convnet", "norm": "none"}, ("convnet", 32, 2, "none")),
        ({"width": 32, "depth": 2}, {"name": "mlp"}, ("mlp", 128, None, "none")),
        ({"width": 32, "norm": "batch"}, {"name": "vgg11"}, ("vgg11", 64, None, "batch")),
        ({"norm": "batch"}, {"name": "vgg11", "norm": "none", "width": 9}, ("vgg11", 9, None, "none")),
        ({"norm": "batch"}, {"name": "lenet"}, ("lenet", None, None, "none")),
        ({"name": "mlp", "width": 9}, {"name": "convnet"}, ("convnet", 128, None, "instance")),
        ({"name": "vgg11", "width": 9}, {"norm": "batch"}, ("vgg11", 9, None, "batch")),
    ],
)
def test_an_override_of_another_name_begins_anew(base, override, expected):
    trial = TrialConfig.model_validate({"data": {"resolution": 32}, "network": base, "train": {"network": override}})
    resolved = resolve(trial)
    assert tuple(resolved.train.network.model_dump().values()) == expected
    assert resolve(resolved) == resolved
    assert resolved.train.network.over(NetworkConfig()) == NetworkConfig(**resolved.train.network.model_dump())


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("base: {network: {name: resnet}}", ["base.network.name: 'resnet'", "did you mean 'resnet18'?"]),
        ("base: {network: {name: [mlp]}}", ["base.network.name: ['mlp']"]),
        ("base: {train.network: {name: lenet}}", ["train.network.name is lenet", "8-px images", "16 px do"]),
        ("base: {network.name: vgg11}", ["network.name is vgg11", "five poolings", "data.resolution"]),
        ("base: {network.name: resnet18}", ["network.name is resnet18", "set network.norm to 'none'"]),
        ("base: {network: {depth: 4}}", ["network.depth is 4", "8-px images of data.name 'digits'", "at most 3"]),
        ("base: {data.name: cifar10, network.depth: 6}", ["network.depth is 6", "32-px images", "at most 5"]),
        (
            "base: {network.name: mlp, train.network.norm: batch}",
            ["train.network.norm is 'batch', but mlp has no norm"],
        ),
        ("base: {network: {name: mlp, width: 9, depth: 2}}", ["network: depth is 2, but mlp has a fixed depth"]),
        (
            "space: {train.network.name: {choice: [convnet, lenet, vgg11]}}",
            ["space.train.network.name: train.network.name='lenet'", "train.network.name='vgg11'"],
        ),
        (
            "base: {data.resolution: 32, train.network.width: 8}\nspace: {train.network.name: {choice: [mlp, lenet]}}",
            ["space.train.network.name: train.network.name='lenet'", "width is 8, but the layers of lenet"],
        ),
        (
            "base: {distill.backbone: dm, distill.network: {name: alexnet, norm: batch}}",
            ["norm is 'batch'; one class at a time is compared", "use 'instance' or 'none'"],
        ),
        ("base: {distill.backbone: rtp, distill.rtp.bases: 4, network.norm: batch}", ["which rtp cannot use"]),
    ],
)
def test_a_study_is_refused_with_the_reason(tmp_path, text, fragments):
    file = tmp_path / "broken.yaml"
    file.write_text(f"{HEAD}{text}\n")
    study, problems = study_problems(file)
    assert study is None
    said = "\n".join(map(str, problems))
    for fragment in fragments:
        assert fragment in said


@pytest.mark.parametrize(
    "text",
    [
        "base: {distill.backbone: dsa, network.norm: batch}",
        "base: {distill.backbone: dc, distill.network: {name: resnet18, norm: batch}}",
        "base: {distill.backbone: dm, network: {name: mlp}}",
        "base: {distill.backbone: dm, network: {name: mlp}, train.network: {name: convnet, norm: batch}}",
        "base: {distill.backbone: full, network.name: lenet, train.network.name: mlp}",  # lenet is not used
        "base: {data: {name: npz, root: x.npz}, network.name: vgg11}",  # the size is not known
        "base: {data.name: fashion-mnist, network.name: vgg11}",  # 28-px grey images are padded to 32
        "base: {data.resolution: 32, network.width: 8}\nspace:\n"
        "  train.network.name: {choice: [convnet, mlp, lenet, alexnet, vgg11, resnet18]}\n"
        "  train.network.width: {choice: [4, 8], when: {train.network.name: [alexnet, vgg11]}}\n"
        "  train.network.depth: {int: [1, 3], when: {train.network.name: [convnet]}}",
    ],
)
def test_a_study_that_can_run_is_not(tmp_path, text):
    file = tmp_path / "good.yaml"
    file.write_text(f"{HEAD}{text}\n")
    assert study_problems(file)[1] == []


def test_every_network_has_a_norm_of_its_own_and_is_a_name():
    for name, architecture in ARCHITECTURES.items():
        config = NetworkConfig.model_validate({"name": name})
        assert (config.width, config.norm) == (architecture.width, architecture.norms[0])
