"""Runs as a process of its own: a compiled training, its logits, and DM; writes what they gave, and what was compiled.

python tests/compiled_process.py OUT.json [eager]
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from tiny_sets import tiny_config, tiny_dataset

from ddcal.config import TrainConfig
from ddcal.distill import make_distiller
from ddcal.pipeline import Environment
from ddcal.training import DDNNTraining


def train(batch, images, compiled):
    """Two epochs of two networks on images of 16 px, and their logits of 40 images."""
    draws = torch.Generator().manual_seed(0)
    shown = torch.randn(images, 3, 16, 16, generator=draws)
    settings = {"epochs": 2, "augment": "dsa", "lr": 0.01, "batch_size": batch, "weight_decay": 5e-4}
    network = {"width": 8, "depth": 2}
    config = TrainConfig.model_validate({**settings, "schedule": "step", "networks": 2, "network": network})
    training = DDNNTraining(
        shown, torch.arange(images) % 4, config, num_classes=4, flip=True, seed=0, compiled=compiled
    )
    losses = [training.step(), training.step()]
    return losses, training.predict(1, torch.randn(40, 3, 16, 16, generator=draws))


def main(out, compiled):
    """Run all of it."""
    Environment("cpu", 1, compile=compiled).apply()
    losses, logits = train(12, 24, compiled)
    found = {"losses": losses, "logits": logits.tolist()}
    train(12, 36, compiled)  # a third batch, no other size
    train(12, 27, compiled)  # a last batch too small to compile for
    if compiled:
        counters = torch._dynamo.utils.counters
        found["compiled"] = counters["stats"]["unique_graphs"]
    distiller = make_distiller(tiny_dataset(), tiny_config("dm", dm={"real_batch": 5}), 0, compiled=compiled)
    found["distilled"] = [distiller.step() for _ in range(distiller.iterations)]
    found["images"] = hashlib.sha256(distiller.images.numpy().tobytes()).hexdigest()
    if compiled:
        found["graphs"] = counters["stats"]["unique_graphs"]
        found["recompiled"] = dict(counters["recompile_limit"]) if "recompile_limit" in counters else {}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], "eager" not in sys.argv[2:])
