"""Export: a trial as a folder that anyone can replay."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ddcal import __version__
from ddcal.config.calibrations import reported
from ddcal.config.own import replay_with
from ddcal.config.places import is_url
from ddcal.config.reading.yaml_reader import dump_yaml
from ddcal.errors import StoreError
from ddcal.pipeline.compute.diagram import DIAGRAM, SHIFT_PICTURE
from ddcal.pipeline.stages import STAGES
from ddcal.store.base import Entry, Store, file_sha256
from ddcal.store.opening import open_store
from ddcal.study.export.layout import (
    FORMAT_VERSION,
    LOCK,
    LOCK_SUM,
    NOT_COMPARED,
    RUN,
    SOURCE,
    ExportError,
    read_run,
)
from ddcal.study.export.models import (
    PLACES,
    PREPROCESSING,
    ModelRequest,
    ReadyModel,
    check_model,
    ready_model,
    write_models,
)
from ddcal.study.export.own import recorded_sources
from ddcal.study.record.chance import chance_facts, chance_warning
from ddcal.study.record.confirmation import confirmed_words
from ddcal.study.record.references import Reference
from ddcal.study.record.results import StudyResults, Trial
from ddcal.study.record.study_store import cache_place


def export_trial(results: StudyResults, trial: Trial, target: Path | str, models: ModelRequest | None = None) -> Path:
    """Write one trial's export into a new folder.

    Args:
        results: The study.
        trial: A trial that has finished with metrics.
        target: The folder to create; it appears in full or not at all.
        models: The calibrated models that it shall hold, too.

    Returns:
        The folder, absolute.

    Raises:
        ExportError: if the folder exists, the trial has no result, or the store no longer holds it.
        BadInput: if it has no such model (`ddcal.study.export.models`).
    """
    folder = Path(target).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"--to {target}: exists and is not an empty folder; name a new one")
    if trial.outcome not in ("complete", "infeasible") or not trial.keys:
        raise ExportError(
            f"trial {trial.trial_key} is {trial.outcome or 'unfinished'}, so it has no result to export; "
            "`ddcal export` without --trial takes the winner"
        )
    if models is not None:
        check_model(results, trial, models)
    store = results_store(results)
    entries = {stage: store.get(stage, key) for stage, key in trial.keys.items()}
    missing = [stage for stage, entry in entries.items() if entry is None]
    if missing:
        raise ExportError(
            f"trial {trial.trial_key}: the store {store.place} no longer holds its {', '.join(missing)} stage: "
            "run its study.yaml under another name, which takes finished stages from the store, and export from there"
        )
    found = {stage: entry for stage, entry in entries.items() if entry is not None}
    ready = None
    if models is not None:
        ready = ready_model(trial, found, models, trial.computed["environment"]["device"])
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, results, trial, found, store, ready)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        reference = Reference(store, "export", folder, results.directory.parent, trial.trial_key)
        reference.add(entry.key for entry in found.values())
        reference.write(needed=False)  # the export is whole
    except OSError as error:
        raise ExportError(f"--to {target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def results_store(results: StudyResults) -> Store:
    """Return the store of a study, without creating one where there is none.

    Raises:
        ExportError: if it is not there.
    """
    if not is_url(results.store) and not Path(results.store).is_dir():
        raise ExportError(
            f"{results.directory}: its artefact store {results.store} is not there: a study and its store are moved or "
            "copied together, as their output root; where the store is lost, run its study.yaml under another name"
        )
    return open_store(results.store, cache_place(results.study))


def exported_already(
    results: StudyResults, trial: Trial, target: Path | str, models: ModelRequest | None = None
) -> bool:
    """Return whether ``target`` is this very trial's export, whole and unedited, with the models that are asked for."""
    try:
        run = read_run(target)
    except ExportError:
        return False
    same = ("study", "trial_key", "config", "metrics", "data_fingerprint", "git_commit", "versions")
    now = describe_run(results, trial, {})
    keys = {stage: record["key"] for stage, record in run["stages"].items()}
    if models is not None:
        held = run.get("models") or {}
        if held.get("formats") != list(models.formats) or held.get("network") != models.network:
            return False
    return all(run.get(name) == now[name] for name in same) and keys == trial.keys


def describe_run(results: StudyResults, trial: Trial, entries: dict[str, Entry]) -> dict[str, Any]:
    """Return what run.yaml holds: all that is needed to run the trial again and to compare the outcome."""
    return {
        "format_version": FORMAT_VERSION,
        "ddcal": __version__,
        "study": results.study.name,
        "trial_key": trial.trial_key,
        "outcome": trial.outcome,
        "confirmed": results.confirmed(trial),
        "target": results.study.trial,
        "config": trial.config.model_dump(mode="json"),
        **trial.computed,
        "data_fingerprint": trial.fingerprint,
        "tolerance": 0.0,
        "metrics": trial.metrics,
        "chance": chance_facts(trial),
        "stages": {
            stage: {
                "key": entry.key,
                "files": {name: digest for name, digest in sorted(entry.files.items()) if name not in NOT_COMPARED},
            }
            | ({"versions": entry.meta["versions"]} if "versions" in entry.meta else {})
            for stage, entry in entries.items()
        },
    }


def _write(
    folder: Path,
    results: StudyResults,
    trial: Trial,
    entries: dict[str, Entry],
    store: Store,
    ready: ReadyModel | None,
) -> None:
    folder.mkdir(parents=True)
    for stage, entry in entries.items():
        for name, place in STAGES[stage].exported(entry.files).items():
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry.folder / name, path)
            if file_sha256(path) != entry.files[name]:
                raise StoreError(f"{entry.folder / name} changed while it was copied")
    run = describe_run(results, trial, entries)
    if sources := recorded_sources(results, trial):
        run["components"] = sources
    if ready is not None:
        run["models"] = write_models(folder, ready)
    (folder / "MLproject").write_text(f"name: {trial.trial_key}\nentry_points:\n  main:\n    command: ddcal replay .\n")
    pictures = _draw_distilled(folder, results, trial, store)
    (folder / "README.md").write_text(_readme(folder, results, trial, run, pictures))
    others = [folder / "MLproject", folder / "README.md", *pictures, folder / DIAGRAM, folder / SHIFT_PICTURE]
    run["files"] = {path.name: file_sha256(path) for path in others if path.is_file()}
    (folder / LOCK).write_text(json.dumps(run, indent=1, sort_keys=True) + "\n")
    header = (
        f"# {trial.trial_key}: the whole of one run. `ddcal replay .` in this folder runs it again and compares.\n"
        f"# {LOCK} holds the same values: an edit of either is noticed and named.\n"
        f"{LOCK_SUM}{file_sha256(folder / LOCK)}\n"
    )
    (folder / RUN).write_text(header + dump_yaml(run))


def _draw_distilled(folder: Path, results: StudyResults, trial: Trial, store: Store) -> list[Path]:
    """Copy the pictures of the distilled images into the export, drawn now if the study has none; return them."""
    if not trial.keys or "distill" not in trial.keys:
        return []
    from ddcal.pipeline.distilled_picture import DistilledPictures  # torch and matplotlib

    with tempfile.TemporaryDirectory(prefix="ddcal-") as scratch:
        pictures = DistilledPictures(Path(scratch))
        data, key = trial.config.data.model_dump(mode="json"), trial.keys["distill"]
        drawn = [path for path in (pictures.picture(store, key, data), pictures.progress(store, key)) if path]
        return [Path(shutil.copyfile(path, folder / path.name)) for path in drawn]


def _readme(folder: Path, results: StudyResults, trial: Trial, run: dict[str, Any], pictures: list[Path]) -> str:
    values = "\n".join(f"| `{name}` | {value} |" for name, value in trial.values.items())
    metrics = trial.metrics or {}
    rows = []
    for calibration, prefix in reported(trial.config.calibrate.method).items():
        if f"test/{prefix}ece" in metrics:
            label = calibration if prefix else f"{calibration} (this run)"
            cells = [f"{metrics[f'test/{prefix}{name}']:.4f}" for name in ("ece", "nll", "accuracy")]
            rows.append(f"| {label} | {' | '.join(cells)} |")
    table = "\n".join(["| calibration | test ECE | test NLL | test accuracy |", "|-|-|-|-|", *rows]) if rows else ""
    warning = chance_warning(trial)
    warned = f"\n**Beware:** {warning}.\n" if warning else ""
    confirmed = confirmed_words(run["confirmed"]) + (", see run.yaml" if run["confirmed"] else "")
    return f"""# {trial.trial_key}

One run of the study **{results.study.name}** ({trial.outcome}; {confirmed}). Run it again and compare:

    {replay_with(trial.config)} .

It needs ddcal {run["ddcal"]} with the package versions of `run.yaml`, and the same data
(`{run["config"]["data"]["name"]}`, fingerprint `{(run["data_fingerprint"] or "")[:12]}`). On the CPU, or on the
GPU model that made it, every metric and artefact comes out equal to the last bit; on another GPU metrics are close.
{warned}
| searched | value |
|-|-|
{values}

{table}

- `run.yaml`: resolved config, expected metrics, the digest of every artefact, versions, device, threads, commit.
- `distilled/`: the distilled images with labels and their preprocessing (safetensors and JSON){_labelled(run)}.
{_described(trial, pictures)}- `networks/`: the trained networks and their calibration.
- `evaluation.json`, `reliability.png`: all metrics, and the reliability diagram on the test images.
{_described_shift(folder)}{_described_models(run["models"]) if "models" in run else ""}"""


def _described_shift(folder: Path) -> str:
    """Return the line on the picture of corrupted images, where there is one."""
    there = (folder / SHIFT_PICTURE).is_file()
    return f"- `{SHIFT_PICTURE}`: accuracy and ECE on corrupted test images (`evaluate.shift`).\n" if there else ""


def _labelled(run: dict[str, Any]) -> str:
    """Return that networks were trained on other labels than those that came with the set."""
    there = any("labels.safetensors" in record["files"] for record in run["stages"].values())
    return "; `labels.safetensors`: the experts' labels, which the networks were trained on" if there else ""


def _described_models(models: dict[str, Any]) -> str:
    """Return the part on the calibrated models: what goes in, what comes out, and how each is loaded."""
    said = {
        "mlflow": "an MLflow model: `mlflow models serve -m model --env-manager local`, or `mlflow.pyfunc.load_model`",
        "torch": "`torch.export.load('model.pt2').module()`",
        "onnx": "for ONNX Runtime; input `images`, output `probabilities`",
    }
    lines = [f"- `{PLACES[name]}{'/' if name == 'mlflow' else ''}`: {said[name]}." for name in models["formats"]]
    channels, height, width = models["input"]["shape"][1:]
    temperature = format(models["temperature"], ".4g")
    return f"""
## The calibrated model

Network {models["network"]} with its preprocessing and its calibration (`{models["calibration"]}`, T = {temperature}).
In: images of that size, float32 (N, {channels}, {height}, {width}), with values in [0, 1] (bytes divided by 255).
Out: probabilities, float32 (N, {models["output"]["shape"][1]}); `models.classes` of `run.yaml` names the classes.

{chr(10).join(lines)}
- `{PREPROCESSING}`: the preprocessing alone, for those who load `networks.safetensors` themselves.
"""


def _described(trial: Trial, pictures: list[Path]) -> str:
    """Return the lines on the pictures of the distilled images, and on the tensors that they were imported from."""
    said = {
        "distilled.png": "the distilled images, a row a class, with the preprocessing undone",
        "progress.png": "the first image of each class at the start, at every quarter of distillation and at its end",
    }
    lines = [f"- `{path.name}`: {said[path.name]}.\n" for path in pictures]
    if trial.config.distill.spec.imports:
        lines.insert(0, f"- `{SOURCE}`: the imported tensors as they were; a replay needs no other file.\n")
    return "".join(lines)
