"""Tiny datasets built in memory, and distilling configs that take milliseconds an iteration."""

import pytest
import torch

from ddcal.config import DistillConfig
from ddcal.data import Dataset, Split
from ddcal.data.preprocessing import Normalisation
from ddcal.seeding import generator


@pytest.fixture(autouse=True)
def one_thread():
    """1 and 2 threads give different bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_dataset(name="digits", classes=3, per_class=7, channels=1, size=8):
    """Every class is a pattern of its own with noise around it; ``name`` decides about flips alone."""
    draws = generator(0, "test", "tiny-dataset")
    patterns = torch.randn(classes, channels, size, size, generator=draws)

    def split(count):
        labels = torch.arange(classes * count) % classes
        return Split(patterns[labels] + 0.5 * torch.randn(len(labels), channels, size, size, generator=draws), labels)

    return Dataset(
        name=name,
        train=split(per_class),
        val=split(2),
        test=split(2),
        num_classes=classes,
        channels=channels,
        image_size=size,
        class_names=tuple("abcdefghij"[:classes]),
        fingerprint="0" * 64,
        preprocessing=Normalisation(torch.zeros(channels), torch.ones(channels)),
    )


@pytest.fixture
def make_dataset():
    return tiny_dataset


@pytest.fixture
def dataset():
    return tiny_dataset()


def tiny_config(backbone="dc", **settings):
    """A DistillConfig with tiny settings for every backbone."""
    values = {
        "backbone": backbone,
        "ipc": 2,
        "iterations": 3,
        "matching": {"outer": 2, "inner": 2, "real_batch": 5, "inner_batch": 4},
        "mtt": {
            "student_steps": 4,
            "expert_epochs": 1,
            "max_start": 2,
            "image_lr": 3.0,
            "rate_lr": 1e-4,
            "rate": 0.05,
            "experts": {"count": 2, "batch_size": 8},
        },
        "rtp": {"bases": 3, "steps": 4, "batch_per_class": 4, "real_batch": 5, "inner_lr": 0.05},
        "network": {"width": 5, "depth": 2},
    }
    for name in ("matching", "dm", "mtt", "rtp", "network", "mask"):
        values[name] = {**values.get(name, {}), **settings.pop(name, {})}
    return DistillConfig.model_validate(values | settings)


@pytest.fixture
def make_config():
    return tiny_config
