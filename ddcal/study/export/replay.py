"""Replay: run an export again from scratch and compare every metric and artefact with what was recorded."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddcal.config import DataConfig, TrialConfig
from ddcal.config.base import RECORDED
from ddcal.config.own import own_names
from ddcal.data import DataError, dataset_fingerprint, own_cache
from ddcal.distill.synthetic import DESCRIPTION
from ddcal.pipeline import Advance, DatasetCache, Environment, TrialRunner, open_store
from ddcal.pipeline.environment import lacks
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.stages.evaluate import EVALUATE
from ddcal.study.export.layout import CUDA_ERRORS, CUDA_TOLERANCE, NOT_COMPARED, SOURCE, ExportError, read_run
from ddcal.study.export.other_data import other_data_problem, places, with_other_data_here
from ddcal.study.export.own import source_problems
from ddcal.untrusted import read_json
from ddcal.versions import NUMERIC_PACKAGES, package_versions


@dataclass(frozen=True)
class Comparison:
    """One recorded value beside the replayed one; ``tolerance`` is absolute, 0 means equal to the last bit.

    With a tolerance the two were computed by different kernels: metrics are compared within it, digests are not.
    """

    name: str
    recorded: float | str | None
    replayed: float | str | None
    tolerance: float

    @property
    def compared(self) -> bool:
        """Whether the two count: digests say nothing where the last bits may differ, not even where they are equal."""
        digests = isinstance(self.recorded, str) and isinstance(self.replayed, str)
        return not (digests and self.tolerance > 0)

    @property
    def same(self) -> bool:
        """Whether the replayed value is the recorded one, within the tolerance."""
        if self.recorded == self.replayed:
            return True
        if isinstance(self.recorded, float | int) and isinstance(self.replayed, float | int):
            return abs(self.recorded - self.replayed) <= self.tolerance
        return False


def check_replayable(run: dict[str, Any], data: DataConfig, fingerprint: str, *, ignore_versions: bool = False) -> None:
    """Refuse, before anything is computed, what cannot give the recorded numbers.

    Args:
        run: From `read_run`.
        data: Its data as it lies here.
        fingerprint: Of that data.
        ignore_versions: Go on with other versions of numeric packages.

    Raises:
        ExportError: naming every difference in the data, the device and the versions of numeric packages.
    """
    problems = []
    if fingerprint != run["data_fingerprint"]:
        problems.append(
            f"data_fingerprint: this {data.name} has {fingerprint[:16]}…, "
            f"the run used {run['data_fingerprint'][:16]}…: other data gives other numbers"
        )
    environment = Environment.recorded(run["environment"])
    problems += [f"environment.{key}: {said}" for key, said in lacks(environment)]
    if not ignore_versions:
        here = package_versions()
        problems += [
            f"versions.{package}: here {here.get(package, 'not installed')}, the run{_of(stages, run)} used {recorded}"
            f": install {package}=={recorded}, or --ignore-versions to compare all the same"
            for (package, recorded), stages in _other_versions(run).items()
        ]
    if problems:
        raise ExportError("\n".join(problems))


def replay(
    folder: Path | str,
    *,
    store: Path | str | None = None,
    data_root: Path | str | None = None,
    ignore_versions: bool = False,
    trust_code: bool = False,
    on_advance: Callable[[Advance], None] | None = None,
) -> list[Comparison]:
    """Run an export again and compare.

    The export is untrusted: tolerance, precision and what is computed come from this code and the device, and what is
    derived from its data is kept in the user's own cache. A data function that it names is called if that is trusted.

    Args:
        folder: The export.
        store: A store (folder or URL) whose finished stages may be used; None computes everything from scratch.
        data_root: Where the run's data lies here: in place of ``data.root``, or the folder that holds what is called
            like it. Default: the run's own place, else the same in ``$DDCAL_DATA``.
        ignore_versions: Go on with other versions of numeric packages.
        trust_code: Whether the function that the export names as ``data.name``, if it does, may be called.
        on_advance: Called after every chunk of work.

    Returns:
        Every metric and every artefact digest, recorded beside replayed.

    Raises:
        ExportError: as `read_run` and `check_replayable`, or if its stages are not those of its trial.
        ddcal.data.DataError: if the data is nowhere, naming both ways to say where it is.
    """
    folder = Path(folder)
    run = read_run(folder)
    named = _config(run, {RECORDED: True})
    if problems := source_problems(named, run.get("components", {}), ignore_versions=ignore_versions):
        raise ExportError("\n".join(problems))
    if not trust_code and (called := own_names(named).get("data.name")):
        raise ExportError(
            f"{folder}: config.data.name is {called!r}, a function that is called with your rights: if you trust this "
            "export and know that function, give --trust-code (trust_code=True)"
        )
    config = _from_copy(_config(run), folder)
    data, fingerprint = _located(config.data, run["data_fingerprint"], folder, data_root)
    config = with_other_data_here(config.model_copy(update={"data": data}), data_root)
    check_replayable(run, data, fingerprint, ignore_versions=ignore_versions)
    if EVALUATE.name in run["stages"] and (problem := other_data_problem(folder, config)):
        raise ExportError(f"{folder}: {problem}")
    environment = Environment.recorded(run["environment"])
    same_gpu = environment.device == "cuda" and environment.device_kind == run["environment"]["device"]
    exact = environment.device == "cpu" or (same_gpu and not _other_versions(run))
    target = "ddnn" if {"train", "calibrate", "evaluate"} & run["stages"].keys() else "distill"
    if target == "distill" and not config.distill.spec.distills:
        raise ExportError(
            f"{folder}: distill.backbone is {config.distill.backbone!r}, which has no distilled set; the export has no "
            "other stage"
        )
    with tempfile.TemporaryDirectory(prefix="ddcal-replay-") as scratch:
        datasets = DatasetCache(own_cache(data))
        runner = TrialRunner(config, open_store(store or scratch), environment, target=target, datasets=datasets)
        if not ignore_versions and exact and (problem := _other_algorithm(run, runner.keys)):
            raise ExportError(f"{folder}: {problem}")
        if runner.keys.keys() != run["stages"].keys() or target != run["target"]:
            raise ExportError(
                f"{folder}: a trial with this config has the stages {', '.join(runner.keys)}; the export has "
                f"{', '.join(run['stages'])}, and its target is {run['target']}"
            )
        runner.run(on_advance)
        found, networks = runner.metrics, config.train.networks
        comparisons = [
            Comparison(
                name, run["metrics"].get(name), found.get(name), 0.0 if exact else _tolerance(name, found, networks)
            )
            for name in sorted(run["metrics"].keys() | found.keys())
        ]
        for stage, recorded in run["stages"].items():
            entry = runner.entries[stage]
            files = {n: d for n, d in entry.files.items() if n not in NOT_COMPARED}
            described = STAGES[stage].exported([DESCRIPTION]).get(DESCRIPTION)
            if described and _same_but_for_versions(folder / described, entry.folder, ignore_versions):
                files[DESCRIPTION] = recorded["files"][DESCRIPTION]
            comparisons += [
                Comparison(
                    f"{stage}/{name}", recorded["files"].get(name), files.get(name), 0.0 if exact else CUDA_TOLERANCE
                )
                for name in sorted(recorded["files"].keys() | files.keys())
            ]
    return comparisons


def _other_versions(run: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return (numeric package, its version of the run) → stages, of those that have another version here.

    A stage that was in the store already says which versions computed it; older ones do not.
    """
    here, found = package_versions(), dict[tuple[str, str], list[str]]()
    for package in NUMERIC_PACKAGES:
        for stage, record in run["stages"].items():
            recorded = (record.get("versions") or {}).get(package, run["versions"].get(package))
            if recorded is not None and here.get(package) != recorded:
                found.setdefault((package, recorded), []).append(stage)
    return found


def _of(stages: list[str], run: dict[str, Any]) -> str:
    """Return the words for some of the stages of a run; nothing for all."""
    return "" if len(stages) == len(run["stages"]) else f"'s {' and '.join(stages)}"


def _tolerance(name: str, metrics: dict[str, Any], networks: int) -> float:
    """Return how far a metric may be from one that other kernels computed.

    Rounding grows to what another seed would give, nearly: two means over the networks differ by its standard error.
    What decides is computed here, nothing is taken from the export.

    Args:
        name: The metric.
        metrics: The replayed ones; some have their standard deviation over networks beside them, ``…_std``.
        networks: Of the trial.
    """
    value, spread = metrics.get(name), metrics.get(f"{name}_std")
    if not isinstance(value, int | float):
        return CUDA_TOLERANCE
    least = CUDA_TOLERANCE * max(1.0, abs(value))
    return least if spread is None else max(least, CUDA_ERRORS * float(spread) * math.sqrt(2.0 / networks))


def _other_algorithm(run: dict[str, Any], keys: dict[str, str]) -> str:
    """Return that a stage is computed otherwise than when the run was made, or an empty string.

    Config, data, seed and threads are the run's: what is left in a key are the versions of algorithms.
    """
    for stage, key in keys.items():
        if stage in run["stages"] and run["stages"][stage]["key"] != key:
            return (
                f"the algorithm of its {stage} stage has another version since ddcal {run['ddcal']}, which made "
                "the run: its numbers would differ. Install that version, or --ignore-versions to compare all the same"
            )
    return ""


def _same_but_for_versions(exported: Path, replayed: Path, ignored: bool) -> bool:
    """Return whether two distilled sets' descriptions are equal but for package versions, which they hold too.

    Args:
        exported: The export's description.
        replayed: The folder of the replayed stage.
        ignored: Whether all packages may differ; else ddcal alone, whose stages have versions of their own.
    """
    try:
        descriptions = [read_json(folder / DESCRIPTION) for folder in (exported, replayed)]
        for description in descriptions:
            versions = description["provenance"].pop("versions")
            told = {} if ignored else {name: versions.get(name) for name in NUMERIC_PACKAGES if name != "ddcal"}
            description["versions"] = told
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return bool(descriptions[0] == descriptions[1])


def _config(run: dict[str, Any], context: dict[str, Any] | None = None) -> TrialConfig:
    """Return the run's config."""
    try:
        return TrialConfig.model_validate(run["config"], context=context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ExportError(f"config.{where}: not a trial of this ddcal: {first['msg']}") from error


def _from_copy(config: TrialConfig, folder: Path) -> TrialConfig:
    """Return a config whose imported set, if it has one, is read from the copy of its tensors in the export."""
    if not config.distill.spec.imports:
        return config
    copied = {"images": str((folder / SOURCE).absolute()), "labels": None, "index": 0}
    distill = config.distill.model_copy(update={"file": config.distill.file.model_copy(update=copied)})
    return config.model_copy(update={"distill": distill})


def _located(data: DataConfig, fingerprint: str, folder: Path, data_root: Path | str | None) -> tuple[DataConfig, str]:
    """Return the run's data as it lies here, and its fingerprint: of several places, the one with the recorded one."""
    found: list[tuple[DataConfig, str]] = []
    missing: DataError | None = None
    for root in places(data.root, data_root):
        there = data.model_copy(update={"root": root})
        try:
            found.append((there, dataset_fingerprint(there, own_cache(there))))
        except DataError as error:
            missing = missing or error
            continue
        if found[-1][1] == fingerprint:
            return found[-1]
    if found:
        return found[0]
    command = f"ddcal replay {shlex.quote(str(folder))} --data-root PLACE"
    raise DataError(
        f"{missing}. If the run's data lies elsewhere here: `{command}`, or set $DDCAL_DATA to the folder that has it"
    ) from missing
