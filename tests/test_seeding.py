import subprocess
import sys

import pytest
import torch

from ddcal.seeding import derive_seed, generator

ARGUMENTS = [
    (0, "distill", "real", 0),
    (1, "distill", "real", 0),
    (10, "distill", "real", 0),
    (0, "train", "real", 0),
    (0, "distill", "mask", 0),
    (0, "distill", "real-1", 0),
    (0, "distill", "real", 1),
    (0, "distill", "real", 10),
]


def test_every_argument_counts():
    seeds = [derive_seed(*arguments) for arguments in ARGUMENTS]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "1", "a", 0), (11, "", "a", 0)),
        ((0, "ab", "c", 0), (0, "a", "bc", 0)),
        ((0, "a", "b1", 2), (0, "a", "b", 12)),
    ],
)
def test_arguments_do_not_run_into_each_other(one, other):
    assert derive_seed(*one) != derive_seed(*other)


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((0, "distill", "init"), 5590305648929551106),
        ((7, "train", "order-1", 3), 3970324668552868989),
        ((2**63 - 1, "data", "val-split"), 6253016049945113776),
    ],
)
def test_seeds_stay_what_they_are(arguments, seed):
    """Every stored artefact depends on these numbers."""
    assert derive_seed(*arguments) == seed


def test_a_generator_draws_from_its_derived_seed():
    expected = torch.rand(5, generator=torch.Generator().manual_seed(derive_seed(3, "a", "b", 4)))
    assert torch.equal(torch.rand(5, generator=generator(3, "a", "b", 4)), expected)
    assert not torch.equal(torch.rand(5, generator=generator(3, "a", "b", 5)), expected)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "a", "b"))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_are_the_same_in_every_process():
    """Python's own ``hash`` is not."""
    code = "from ddcal.seeding import derive_seed; print(derive_seed(3, 'a', 'b', 4))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert int(done.stdout) == derive_seed(3, "a", "b", 4)
