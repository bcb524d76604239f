"""What a stage is: everything that is asked about one before, while and after it computes, in one place.

A stage has two files: ``stages/NAME.py`` says what it is, free of torch, and ``compute/NAME.py`` computes it. Nobody
else compares a stage's name: whoever wants to know something asks the stages in their order.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

from ddcal.config import DataConfig, TrialConfig
from ddcal.config.backbones.halving import half, width_of
from ddcal.config.components import source_of
from ddcal.config.networks import ARCHITECTURES, architecture
from ddcal.pipeline.costs import Amount, Cost, Kind
from ddcal.pipeline.environment import Environment

if TYPE_CHECKING:
    from ddcal.data import Dataset
    from ddcal.data.shapes import DatasetShape
    from ddcal.pipeline.compute.base import Found, StageWork
    from ddcal.pipeline.place import TrialPlace


class Work(Protocol):
    """The module that computes a stage: ``begin`` one that goes in steps, ``compute`` one that does not."""

    def begin(self, place: TrialPlace) -> StageWork:
        """Return the unfinished stage of a trial, at its beginning."""

    def compute(self, place: TrialPlace) -> Found:
        """Return what the stage of a trial finds."""

    def measure(self, config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
        """Return what the stage costs on this machine, from a few steps of it; nothing is published."""


class Stage(ABC):
    """One stage of a trial: a pure function of its settings, the stages before it, the data, the seed and the machine.

    Attributes:
        name: Its name: in stores, ledgers, tables and exports.
        span: Which part of ``progress`` it is: fixed, so that a point means the same whether computed or cached.
        builds_on: The stages whose results it reads; their keys are part of its own.
        reads: Names of trials, or beginnings of names, that can change it.
        step: What one step of it is, in words.
        values_file: The file of its values, of a stage that is computed in one go; None of one that goes in steps.
        optional: Whether most trials do without it: tables have columns for it only where a trial has it.
        points_compared: At which of its fidelity points schedulers compare trials; what is done is kept.
        shared_files: File of its entry → folder of an export in which it lies.
    """

    name: ClassVar[str]
    span: ClassVar[tuple[float, float]]
    builds_on: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]]
    step: ClassVar[str]
    values_file: ClassVar[str | None] = None
    optional: ClassVar[bool] = False
    points_compared: ClassVar[Literal["none", "all", "all but the last"]] = "none"
    shared_files: ClassVar[Mapping[str, str]] = {}

    # What it is. Every ``config`` is resolved.

    def in_trial(self, config: TrialConfig) -> bool:
        """Return whether a trial has this stage."""
        return True

    @abstractmethod
    def version(self, config: TrialConfig) -> int:
        """Return the version of its algorithm: raised where numbers change, so that old artefacts are not taken."""

    @abstractmethod
    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return the part of a trial's config that its numbers depend on; settings without effect are left out."""

    def identity(self, config: TrialConfig, fingerprint: str, environment: Environment) -> dict[str, Any]:
        """Return what decides its numbers, but for the stages before it.

        Args:
            config: The trial.
            fingerprint: Of the data source, from `ddcal.data.dataset_fingerprint`.
            environment: Device, precision and threads.
        """
        # What only image files have stays out of the keys of the others; the variant is told by the fingerprint.
        without = {"root", "variant"} | (set() if config.data.spec.image_files else {"resize"})
        without |= {"train_images"} if config.data.train_images is None else set()
        without |= {"background"} if config.data.background == DataConfig().background else set()
        settings = self.settings(config)
        networks = _network_versions(settings, environment.device)
        return ({"networks": networks} if networks else {}) | {
            "stage": self.name,
            "algorithm_version": self.version(config),
            "config": settings,
            "data": config.data.model_dump(mode="json", exclude=without) | {"fingerprint": fingerprint},
            "seed": config.seed,
            "environment": environment.identity(),
        }

    def key(self, config: TrialConfig, fingerprint: str, environment: Environment, earlier: Mapping[str, str]) -> str:
        """Return its key, a sha256 in hex; ``earlier`` has the keys of the stages before it."""
        upstream = sorted(earlier[name] for name in self.needs(config) if name in earlier)
        return digest(self.identity(config, fingerprint, environment) | {"upstream": upstream})

    def needs(self, config: TrialConfig) -> tuple[str, ...]:
        """Return the stages of ``builds_on`` that it reads in a trial."""
        return self.builds_on

    # What it leaves

    def exported(self, files: Iterable[str]) -> dict[str, str]:
        """Return which files of its entry lie in an export: file → folder of the export.

        What lies in a folder of the entry lies in one there too.

        Args:
            files: The names of the entry's files.
        """
        return {name: self.shared_files[name] for name in files if name in self.shared_files}

    def metrics(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the final metrics of a trial that ends with this stage, from the manifest's ``meta``."""
        return {}

    # What it costs

    @abstractmethod
    def kind(self, config: TrialConfig) -> Kind:
        """Return what makes two of it cost the same."""

    @abstractmethod
    def amount(self, config: TrialConfig) -> Amount:
        """Return how much it computes."""

    @abstractmethod
    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return an upper bound of the bytes that it leaves in the store."""

    def checkpoint_size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of its checkpoint, twice while it is replaced; 0 of a stage that has none."""
        return 0

    def memory(self, config: TrialConfig) -> dict[str, Any] | None:
        """Return the settings that decide how much memory it holds, rates and counts among them; None if it needs none.

        (`ddcal.study.gpu.packing` leaves out what changes only how long a stage computes.)
        """
        return {self.name: self.settings(config)}

    def what_to_halve(self, config: TrialConfig) -> list[str]:
        """Return settings that shrink its peak of memory, the one that counts most first: ``name (now → then)``."""
        return half("train.network.width", width_of(config.network, config.train.network))

    # What computes it

    @property
    def work(self) -> Work:
        """The module that computes it, with torch."""
        return cast(Work, import_module(f"ddcal.pipeline.compute.{self.name}"))

    def _kind(self, what: str, values: Mapping[str, Any]) -> Kind:
        return Kind(self.name, what, self.step, json.dumps({"stage": self.name, **values}, sort_keys=True))


def _network_versions(settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return, of the networks in a stage's settings, what their names do not tell: sources of users' own, versions."""
    found = dict[str, Any]()
    for name in _networks_in(settings):
        if name not in ARCHITECTURES:
            found[name] = _network_source(name)
        elif device == "cpu" and ARCHITECTURES[name].cpu_version > 1:
            found[name] = {"cpu": ARCHITECTURES[name].cpu_version}
    return found


def _networks_in(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the networks in a stage's settings."""
    for key, value in settings.items():
        if isinstance(value, dict):
            if key == "network" and isinstance(value.get("name"), str):
                yield value["name"]
            yield from _networks_in(value)


def _network_source(name: str) -> dict[str, Any]:
    spec = architecture(name)
    return {"version": spec.version, "sha256": source_of("network", name, spec.builder)["sha256"]}


def digest(identity: Mapping[str, Any]) -> str:
    """Return the key of an identity: its sha256 in hex."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
