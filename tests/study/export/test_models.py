"""Calibrated models in exports: loaded as a user loads them, they give what ``evaluate`` scored."""

import json
import os
import pickletools
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import mlflow
import numpy as np
import pytest
import torch
import yaml
from nodes import free_port
from safetensors.torch import load_file
from servers import scoring_server
from typer.testing import CliRunner

from ddcal.calibration import score
from ddcal.cli import app
from ddcal.config import NetworkConfig, TrialConfig
from ddcal.data.dataset import split_by_class
from ddcal.data.preprocessing import fit_normalisation, fit_whitening, from_tensors
from ddcal.errors import BadInput
from ddcal.networks import build_network
from ddcal.pipeline import calibrated
from ddcal.pipeline.calibrated import CalibratedModel, Temperature, calibration_module
from ddcal.seeding import generator
from ddcal.study import run_study
from ddcal.study.export import program as exported_program
from ddcal.study.export.export import export_trial
from ddcal.study.export.models import ModelRequest

NORMALISED, WHITENED = "0", "1"
"""Trials of the study."""


def ddcal(*arguments):
    """Run a verb in this process; whatever happens, nobody sees a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_study):
    """Two trials of two networks each, which temperatures change a lot: one on normalised images, one on whitened."""
    base = {"calibrate.method": "ts_val", "distill.ipc": 10, "train.epochs": 40, "train.networks": 2}
    search = {"trials": 2, "enqueue": [{"data.zca": False}, {"data.zca": True}]}
    config = tiny_study(base=base, space={"data.zca": {"choice": [False, True]}}, search=search, tracking={})
    return run_study(config, output=tmp_path_factory.mktemp("runs"), debug=True)


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    """The first trial's export with its second network in every format; read it only."""
    folder = tmp_path_factory.mktemp("exports") / "best"
    arguments = ("--trial", NORMALISED, "--network", 1, "--model", "mlflow,torch", "--model", "onnx")
    assert ddcal("export", study.directory, "--to", folder, *arguments).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def digits():
    """The test images as scikit-learn has them, float32 (N, 1, 8, 8) in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    _, test = split_by_class(labels, torch.arange(len(labels)), 0.3, "digits-test")
    return (bunch.images[test.numpy(), None] / 16).astype(np.float32), labels[test.numpy()]


def of_evaluate(study, trial, network):
    """Test logits, temperature and float64 probabilities of one network as the stages in the store have them."""
    keys = study.trial(trial).keys
    store = study.directory.parent / "store"
    logits = load_file(next(store.rglob(f"train/**/{keys['train']}/logits.safetensors")))["test_logits"][network]
    fits = json.loads(next(store.rglob(f"calibrate/**/{keys['calibrate']}/calibration.json")).read_text())["fits"]
    temperature = fits[network]["temperature"]
    return logits, temperature, torch.softmax(logits.double() / temperature, 1).numpy()


def loaded(folder, name):
    return {
        "mlflow": lambda: mlflow.pyfunc.load_model(str(folder / "model")).predict,
        "torch": lambda: exported_program.load_program(folder / "model.pt2"),
        "onnx": lambda: exported_program.load_onnx(folder / "model.onnx"),
    }[name]()


# Probabilities


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "torch", "onnx"])
def test_every_format_gives_the_probabilities_that_evaluate_scored(study, exported, digits, name):
    images, labels = digits
    logits, temperature, expected = of_evaluate(study, NORMALISED, 1)
    assert abs(temperature - 1) > 0.2, "a temperature that matters"
    assert np.abs(expected - torch.softmax(logits.double(), 1).numpy()).max() > 0.02
    assert np.abs(expected - of_evaluate(study, NORMALISED, 0)[2]).max() > 0.1, "and another network"
    predict = loaded(exported, name)
    probabilities = predict(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=2e-6, rtol=0)
    np.testing.assert_allclose(predict(images[5:6]), probabilities[5:6], atol=1e-6, rtol=0)
    ours, theirs = score(np.log(probabilities), labels), score(logits, labels, temperature)
    assert ours["accuracy"] == theirs["accuracy"]
    for metric in ("ece", "nll", "brier"):
        assert ours[metric] == pytest.approx(theirs[metric], abs=1e-5)


def test_the_exported_metrics_are_those_of_the_models(study, digits, tmp_path):
    images, labels = digits
    found = []
    for network in (0, 1):
        export_trial(study, study.trial(NORMALISED), tmp_path / str(network), ModelRequest(("torch",), network))
        found.append(score(np.log(loaded(tmp_path / str(network), "torch")(images)), labels))
    metrics = yaml.safe_load((tmp_path / "0" / "run.yaml").read_text())["metrics"]
    for name in ("ece", "accuracy", "nll"):
        assert np.mean([one[name] for one in found]) == pytest.approx(metrics[f"test/{name}"], abs=1e-5)
    assert metrics["test/ece"] < metrics["test/raw/ece"]


@pytest.mark.slow
def test_whitening_is_a_part_of_the_model(study, digits, tmp_path):
    assert ddcal("export", study.directory, "--trial", WHITENED, "--to", tmp_path / "out", "--model", "onnx, torch")
    for name in ("torch", "onnx"):
        probabilities = loaded(tmp_path / "out", name)(digits[0])
        np.testing.assert_allclose(probabilities, of_evaluate(study, WHITENED, 0)[2], atol=5e-6, rtol=0)


def test_the_preprocessing_is_there_for_those_who_load_the_networks(study, exported, digits):
    from safetensors import safe_open

    path = exported / "networks" / "preprocessing.safetensors"
    with safe_open(path, "pt") as file:
        kind = file.metadata()["kind"]
    images = from_tensors(kind, load_file(path)).transform(torch.from_numpy(digits[0]))
    network = build_network(NetworkConfig(width=8), 1, 8, 10, generator(0, "test", "network")).eval()
    weights = load_file(exported / "networks" / "networks.safetensors")
    network.load_state_dict({name[2:]: value for name, value in weights.items() if name.startswith("1.")})
    torch.testing.assert_close(network(images).detach(), of_evaluate(study, NORMALISED, 1)[0], atol=1e-4, rtol=0)


NETWORKS = [
    {"name": "lenet"},
    {"name": "mlp", "width": 4},
    {"name": "convnet", "width": 4, "norm": "batch"},
    {"name": "alexnet", "width": 4, "norm": "instance"},
    {"name": "vgg11", "width": 4, "norm": "batch"},
    {"name": "resnet18", "width": 4, "norm": "instance"},
]


@pytest.mark.slow
@pytest.mark.parametrize("values", NETWORKS, ids=lambda values: "-".join(map(str, values.values())))
def test_every_network_can_be_traced_for_any_number_of_images(tmp_path, values):
    config = NetworkConfig(**values)
    network = build_network(config, 3, 32, 7, generator(0, "test", "network"))
    images = torch.rand((5, 3, 32, 32), generator=generator(0, "test", "images"))
    model = CalibratedModel(fit_normalisation(images), network, Temperature(2.0))
    program = exported_program.trace(model, images[:2])
    if config.name == "resnet18":
        exported_program.save_onnx(program, tmp_path / "model.onnx")
        found = exported_program.load_onnx(tmp_path / "model.onnx")(images.numpy())
        np.testing.assert_allclose(found, model(images).numpy(), atol=1e-6, rtol=0)
    exported_program.save_program(program, tmp_path / "model.pt2")
    predict = exported_program.load_program(tmp_path / "model.pt2")
    for count in (1, 5):
        np.testing.assert_allclose(predict(images[:count].numpy()), model(images[:count]).numpy(), atol=1e-6, rtol=0)
    assert model(images).std() > 1e-5, "images and classes differ"


def test_the_model_is_preprocessing_network_and_softmax_in_this_order():
    images = torch.rand((6, 2, 4, 4), generator=generator(0, "test", "images"))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 3))
    for fit in (fit_normalisation, fit_whitening):
        preprocessing = fit(images)
        expected = torch.softmax(network(preprocessing.transform(images)) / 0.5, 1)
        torch.testing.assert_close(CalibratedModel(preprocessing, network, Temperature(0.5))(images), expected)


# The MLflow model


def test_the_mlflow_model_says_what_goes_in_and_comes_out(exported):
    info = mlflow.models.get_model_info(str(exported / "model"))
    (images,), (probabilities,) = info.signature.inputs.inputs, info.signature.outputs.inputs
    assert (images.type, images.shape) == (np.dtype("float32"), (-1, 1, 8, 8))
    assert (probabilities.type, probabilities.shape) == (np.dtype("float32"), (-1, 10))
    assert info.metadata["calibration"] == "ts_val" and info.metadata["network"] == 1
    assert info.metadata["classes"] == [str(digit) for digit in range(10)]
    requirements = (exported / "model" / "requirements.txt").read_text().split()
    assert [one.split("==")[0] for one in requirements] == ["mlflow", "torch", "numpy"]
    assert f"mlflow=={mlflow.__version__}" in requirements and not any("+" in one for one in requirements)
    model = mlflow.pyfunc.load_model(str(exported / "model"))
    example = model.input_example
    assert example.shape == (2, 1, 8, 8) and 0 <= example.min() < example.max() <= 1
    assert model.predict(example).shape == (2, 10)


def test_other_images_than_the_model_takes_are_refused(exported, digits):
    model = mlflow.pyfunc.load_model(str(exported / "model"))
    images = digits[0][:3]
    for wrong in (images.astype(np.float64), (255 * images).astype(np.uint8), images[:, :, :4]):
        with pytest.raises(mlflow.MlflowException, match="schema"):
            model.predict(wrong)
    for wrong in (16 * images, images - 0.5, images * np.float32("nan")):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            model.predict(wrong)


def test_no_pickle_and_no_path_of_this_machine_is_in_any_model(exported):
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    contents = {str(path): path.read_bytes() for path in files}
    for path in (exported / "model.pt2", exported / "model" / "artifacts" / "model.pt2"):
        with zipfile.ZipFile(path) as archive:
            contents |= {f"{path}/{name}": archive.read(name) for name in archive.namelist()}
    assert any(name.endswith("weight_0") for name in contents)
    for name, content in contents.items():
        assert str(exported.parent).encode() not in content and b"site-packages" not in content, name
        if "/data/sample_inputs/" in name:
            assert content == b""
        if content.startswith(b"\x80"):  # a pickle's first byte
            with pytest.raises(ValueError):
                list(pickletools.genops(content))


WITHOUT_DDCAL = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ddcal", "ray"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
numpy.save(sys.argv[2], model.predict(numpy.load(sys.argv[3])))
"""


@pytest.mark.slow
def test_the_model_needs_no_ddcal_and_may_lie_elsewhere(study, exported, digits, tmp_path):
    moved = shutil.copytree(exported / "model", tmp_path / "moved")
    np.save(tmp_path / "images.npy", digits[0])
    command = [sys.executable, "-c", WITHOUT_DDCAL, moved, tmp_path / "out.npy", tmp_path / "images.npy"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), of_evaluate(study, NORMALISED, 1)[2], atol=2e-6, rtol=0)


@pytest.mark.slow
def test_a_registered_version_is_the_model_and_keeps_it(study, digits, tmp_path):
    expected = {}
    for network in (0, 1):
        arguments = ("--model", "mlflow", "--network", network, "--register", "classifier")
        for again in (False, True):
            to = tmp_path / str(network)
            result = ddcal("export", study.directory, "--trial", NORMALISED, "--to", to, *arguments)
            assert result.exit_code == 0, result.output
            assert f"is version {network + 1} of classifier{', as before' if again else ''}\n" in result.output
        expected[network + 1] = of_evaluate(study, NORMALISED, network)[2]
    uri = f"sqlite:///{study.directory.parent}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    for version, probabilities in expected.items():
        source = client.get_model_version("classifier", str(version)).source
        assert source.endswith("/model")
        found = mlflow.pyfunc.load_model(source).predict(digits[0])
        np.testing.assert_allclose(found, probabilities, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_served_probabilities_are_those_that_evaluate_scored(study, exported, digits, tmp_path):
    images, labels = digits
    port = free_port()

    def post(values):
        body = json.dumps({"inputs": values.tolist()}).encode()
        request = urllib.request.Request(f"{uri}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return np.array(json.load(answer)["predictions"])

    with scoring_server(exported / "model", tmp_path, port) as uri:
        served = post(images)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(16 * images[:1])
        assert refused.value.code == 400 and "must be in [0, 1]" in refused.value.read().decode()
    logits, temperature, expected = of_evaluate(study, NORMALISED, 1)
    np.testing.assert_allclose(served, expected, atol=2e-6, rtol=0)
    assert score(np.log(served), labels)["ece"] == pytest.approx(score(logits, labels, temperature)["ece"], abs=1e-5)


# The export


def test_models_do_not_disturb_a_replay_and_an_edited_one_is_noticed(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "best")
    models_of = yaml.safe_load((copy / "run.yaml").read_text())["models"]
    on_disk = {str(path.relative_to(copy)) for path in (copy / "model").rglob("*") if path.is_file()}
    extras = {"model.pt2", "model.onnx", "networks/preprocessing.safetensors"}
    assert set(models_of["files"]) == on_disk | extras
    said = (copy / "README.md").read_text()
    assert "mlflow models serve" in said and "model.onnx" in said and "(N, 1, 8, 8)" in said
    assert ddcal("replay", copy).exit_code == 0
    code = copy / "model" / "served_model.py"
    code.write_text(code.read_text() + "# mine\n")
    (copy / "model.onnx").unlink()
    result = ddcal("replay", copy)
    assert result.exit_code == 2
    assert "served_model.py was changed" in result.output and "model.onnx is missing" in result.output


def test_only_what_is_asked_for_is_written(study, tmp_path):
    assert ddcal("export", study.directory, "--to", tmp_path / "out", "--model", "mlflow").exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("model")} == {"model"}
    assert ddcal("export", study.directory, "--to", tmp_path / "plain").exit_code == 0
    assert "models" not in yaml.safe_load((tmp_path / "plain" / "run.yaml").read_text())
    assert not (tmp_path / "plain" / "networks" / "preprocessing.safetensors").exists()


# Refusals


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tensorflow"], ["--model tensorflow", "mlflow, torch, onnx"]),
        (["--model", "torch,"], ["--model", "mlflow, torch, onnx"]),
        (["--model", "torch", "--network", "2"], ["--network 2", "networks 0 to 1"]),
        (["--model", "torch", "--network", "-1"], ["--network -1", "networks 0 to 1"]),
        (["--network", "0"], ["--network 0", "--model"]),
    ],
)
def test_what_is_no_model_is_said(study, tmp_path, arguments, said):
    result = ddcal("export", study.directory, "--to", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and all(word in result.output for word in said)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_their_extra(study, tmp_path, monkeypatch):
    monkeypatch.setattr(exported_program, "find_spec", lambda name: None if name == "onnxscript" else name)
    result = ddcal("export", study.directory, "--to", tmp_path / "out", "--model", "torch,onnx")
    assert result.exit_code == 2 and "needs onnxscript: pip install 'ddcal[onnx]'" in result.output
    assert not list(tmp_path.iterdir())


def test_a_study_of_distilled_sets_has_no_model(tiny_study, tmp_path):
    config = tiny_study(trial="distill", space={"distill.ipc": {"choice": [1, 2]}}, search={"trials": 1})
    results = run_study(config, output=tmp_path / "runs", debug=True)
    result = ddcal("export", results.directory, "--to", tmp_path / "out", "--model", "torch")
    assert result.exit_code == 2 and "has no network" in result.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "fit"),
    [
        ("isotonic_val", {"calibrator": "isotonic", "nll": 0.3}),
        ("ets_val", {"calibrator": "ensemble_temperature_scaling", "temperature": 2.0, "weights": [0.5, 0.4, 0.1]}),
    ],
)
def test_a_calibration_that_is_more_than_a_temperature_is_refused(method, fit):
    with pytest.raises(BadInput, match=rf"calibrate\.method is '{method}', which has no single temperature"):
        calibration_module(method, fit)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_model_that_does_not_give_what_evaluate_scored_is_not_written(study, tmp_path, monkeypatch, name):
    monkeypatch.setattr(calibrated, "normalise", lambda images, mean, std: mean[:, None, None] - images)
    result = ddcal("export", study.directory, "--trial", NORMALISED, "--to", tmp_path / "out", "--model", name)
    assert result.exit_code == 2 and f"--model {name}: its probabilities differ from evaluate's" in result.output
    assert not list(tmp_path.iterdir())


def test_other_data_is_refused(study, tmp_path):
    trial = study.trial(NORMALISED)
    before = trial.fingerprint
    try:
        object.__setattr__(trial, "fingerprint", "0" * 64)
        with pytest.raises(BadInput, match="other data has another preprocessing"):
            export_trial(study, trial, tmp_path / "out", ModelRequest(("torch",)))
    finally:
        object.__setattr__(trial, "fingerprint", before)
    assert not list(tmp_path.iterdir())


def test_a_network_that_torch_cannot_trace_is_refused():
    class Stubborn(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, : int(images.sum())]

    images = torch.rand((4, 1, 8, 8), generator=generator(0, "test", "images"))
    with pytest.raises(BadInput, match=r"torch\.export cannot trace this network"):
        exported_program.trace(CalibratedModel(fit_normalisation(images), Stubborn(), Temperature(1.0)), images)


def test_a_full_data_network_shows_no_real_image(tiny_study, tmp_path):
    base = {"distill.backbone": "full", "distill.ipc": 1, "train.epochs": 1}
    space = {"calibrate.method": {"choice": ["none", "ts_val"]}}
    config = tiny_study(base=base, space=space, search={"trials": 1, "enqueue": [{"calibrate.method": "none"}]})
    results = run_study(config, output=tmp_path / "runs", debug=True)
    assert ddcal("export", results.directory, "--to", tmp_path / "out", "--model", "mlflow").exit_code == 0
    model = mlflow.pyfunc.load_model(str(tmp_path / "out" / "model"))
    assert (model.input_example == 0.5).all() and model.metadata.metadata["temperature"] == 1.0
    assert TrialConfig.model_validate(results.records[0].config).distill.backbone == "full"
