"""The distilled set: images, labels and everything that is needed to train on them as they were meant."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddcal.untrusted import read_json

TENSORS = "synthetic.safetensors"
DESCRIPTION = "synthetic.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, repr=False)
class SyntheticSet:
    """A distilled set in network-input space, ordered by class.

    Attributes:
        images: float32 (M, C, H, W), preprocessed as ``provenance["preprocessing"]`` says.
        labels: int64 (M,), ``images_per_class`` consecutive images of every class.
        ipc: The storage budget in images per class.
        learning_rate: The learned training rate, where the backbone learns one.
        provenance: JSON values: backbone, config, seed, dataset and its fingerprint, preprocessing, versions.
        preprocessing: Small tensors of the preprocessing (mean and std); a ZCA is refitted from the fingerprinted data.
    """

    images: Tensor
    labels: Tensor
    ipc: int
    learning_rate: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise ValueError(
                f"images {tuple(self.images.shape)} and labels {tuple(self.labels.shape)} do not fit: "
                "expected (M, C, H, W) and (M,)"
            )
        if self.labels.ndim != 1 or self.labels.is_floating_point() or self.labels.is_complex():
            raise ValueError(f"labels are {self.labels.dtype} {tuple(self.labels.shape)}; they must be integers (M,)")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.labels):
            raise ValueError("labels must be 0 … K-1, and every class must have images")
        counts = torch.bincount(self.labels)
        if len(counts) == 0 or int(counts.min()) != int(counts.max()):
            raise ValueError(f"images per class differ: {counts.tolist()}; a distilled set has the same count of each")

    def __repr__(self) -> str:
        backbone = self.provenance.get("backbone") or "images"
        shape = "x".join(map(str, self.images.shape[1:]))
        per_class = f"{self.images_per_class} image{'s' * (self.images_per_class != 1)} of {shape}"
        return f"<SyntheticSet {backbone}: {self.num_classes} classes, {per_class} each (ipc {self.ipc})>"

    def _repr_html_(self) -> str:
        from ddcal.distill.shown import synthetic_html

        return synthetic_html(self)

    @property
    def images_per_class(self) -> int:
        """How many decoded images there are of every class (more than ``ipc`` only for addressable memories)."""
        return len(self.images) // self.num_classes

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return int(self.labels.max()) + 1

    def save(self, directory: Path | str) -> None:
        """Write ``synthetic.safetensors`` and ``synthetic.json`` into ``directory``, which is created if missing."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"images": self.images, "labels": self.labels}
        tensors.update({f"preprocessing.{name}": value for name, value in self.preprocessing.items()})
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TENSORS)
        description = {
            "format_version": FORMAT_VERSION,
            "ipc": self.ipc,
            "images_per_class": self.images_per_class,
            "learning_rate": self.learning_rate,
            "provenance": self.provenance,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, directory: Path | str) -> SyntheticSet:
        """Read what `save` wrote.

        Raises:
            ValueError: if a file is missing or not in the format, naming it.
        """
        folder = Path(directory)
        for name in (DESCRIPTION, TENSORS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is not a distilled set: {name} is missing")
        try:
            description = read_json(folder / DESCRIPTION, links=True)
            ipc, learning_rate, provenance = (description[name] for name in ("ipc", "learning_rate", "provenance"))
            if type(ipc) is not int or not isinstance(provenance, dict):
                raise ValueError("ipc is no integer, or provenance no mapping")
            if learning_rate is not None and not isinstance(learning_rate, float | int):
                raise ValueError("learning_rate is no number")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / DESCRIPTION} is damaged ({error})") from error
        try:
            tensors = load_file(folder / TENSORS)
            preprocessing = {
                name.removeprefix("preprocessing."): value
                for name, value in tensors.items()
                if name.startswith("preprocessing.")
            }
            return cls(
                images=tensors["images"],
                labels=tensors["labels"],
                ipc=ipc,
                learning_rate=learning_rate,
                provenance=provenance,
                preprocessing=preprocessing,
            )
        except (KeyError, ValueError, SafetensorError) as error:
            raise ValueError(f"{folder / TENSORS} is damaged ({error})") from error
