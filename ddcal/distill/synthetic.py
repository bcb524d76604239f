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

from ddcal.soft_labels import classes_in_order, hard_labels, probability_problem
from ddcal.untrusted import read_json

TENSORS = "synthetic.safetensors"
DESCRIPTION = "synthetic.json"
SOFT_LABELS = "labels.safetensors"
"""Labels (M, K) that experts gave to a set, beside it in an export: they stand for its own."""
FORMAT_VERSION = 1


@dataclass(frozen=True, repr=False)
class SyntheticSet:
    """A distilled set in network-input space, ordered by class.

    Attributes:
        images: float32 (M, C, H, W), preprocessed as ``provenance["preprocessing"]`` says.
        labels: int64 (M,), ``images_per_class`` consecutive images of every class; or float32 (M, K), a row of
            probabilities an image (soft labels), in the same order.
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
        if self.images.ndim != 4 or self.labels.ndim == 0 or len(self.images) != len(self.labels):
            raise ValueError(
                f"images {tuple(self.images.shape)} and labels {tuple(self.labels.shape)} do not fit: "
                "expected (M, C, H, W) and (M,), or (M, K) for soft labels"
            )
        labels = self.labels
        if labels.ndim == 2 and labels.dtype == torch.float32:
            if problem := probability_problem(labels):
                raise ValueError(f"soft labels: {problem}")
            if not labels.shape[1] or not len(labels) or len(labels) % labels.shape[1]:
                raise ValueError(
                    f"soft labels are {tuple(labels.shape)}; a distilled set has the same count of images of each of "
                    "its K classes, so M must be a multiple of K"
                )
            return
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; they must be integers (M,), or float32 "
                "probabilities (M, K)"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(labels):
            raise ValueError("labels must be 0 … K-1, and every class must have images")
        counts = torch.bincount(labels)
        if len(counts) == 0 or int(counts.min()) != int(counts.max()):
            raise ValueError(f"images per class differ: {counts.tolist()}; a distilled set has the same count of each")

    def __repr__(self) -> str:
        backbone = self.provenance.get("backbone") or "images"
        shape = "x".join(map(str, self.images.shape[1:]))
        per_class = f"{self.images_per_class} image{'s' * (self.images_per_class != 1)} of {shape}"
        soft = ", soft labels" if self.labels.ndim == 2 else ""
        return f"<SyntheticSet {backbone}: {self.num_classes} classes, {per_class} each (ipc {self.ipc}){soft}>"

    def _repr_html_(self) -> str:
        from ddcal.distill.shown import synthetic_html

        return synthetic_html(self)

    @property
    def images_per_class(self) -> int:
        """How many decoded images there are of every class (more than ``ipc`` where a storage decodes to more)."""
        return len(self.images) // self.num_classes

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.labels.shape[1] if self.labels.ndim == 2 else int(self.labels.max()) + 1

    @property
    def classes(self) -> Tensor:
        """The class that each image stands for, int64 (M,): its label, or with soft labels its place in the set."""
        return classes_in_order(self.labels)

    def hard_labels(self) -> Tensor:
        """Return the class of each label, int64 (M,): of a soft one the most probable class."""
        return hard_labels(self.labels)

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
        """Read what `save` wrote; in an export with the labels that its networks were trained on.

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
        name = TENSORS
        try:
            tensors = load_file(folder / TENSORS)
            preprocessing = {
                name.removeprefix("preprocessing."): value
                for name, value in tensors.items()
                if name.startswith("preprocessing.")
            }
            labels = tensors["labels"]
            if (folder / SOFT_LABELS).is_file():
                name = SOFT_LABELS
                labels = load_file(folder / name)["labels"]
            return cls(
                images=tensors["images"],
                labels=labels,
                ipc=ipc,
                learning_rate=learning_rate,
                provenance=provenance,
                preprocessing=preprocessing,
            )
        except (KeyError, ValueError, SafetensorError) as error:
            raise ValueError(f"{folder / name} is damaged ({error})") from error
