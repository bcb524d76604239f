"""Mutations of files of tensors: every one is read or refused with one clear line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import EXAMPLES, changes, examples, mutated, mutated_inside, outcome
from safetensors.torch import save_file

from ddcal.config.backbones import FileConfig
from ddcal.distill.importing.tensor_file import TensorFileError, check_tensors, read_tensor_file

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 1, 2, 0])
RESULT = {"data": [[IMAGES, LABELS]], "accs_all_exps": {"ConvNet": [np.float64(0.25)]}}
FORMS = {
    "result.pt": lambda path: torch.save(RESULT, path),
    "old.pt": lambda path: torch.save(RESULT, path, _use_new_zipfile_serialization=False),
    "plain.npz": lambda path: np.savez(path, images=IMAGES.numpy(), labels=LABELS.numpy()),
    "packed.npz": lambda path: np.savez_compressed(path, images=IMAGES.numpy(), labels=LABELS.numpy()),
    "set.safetensors": lambda path: save_file({"images": IMAGES, "labels": LABELS}, path),
}


@pytest.mark.parametrize("count", [EXAMPLES // 5, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_mutations_are_read_or_refused(tmp_path, form, count):
    path = tmp_path / form
    FORMS[form](path)
    whole = path.read_bytes()
    config = FileConfig(images=str(path), preprocessing="normalized")
    refused = []

    @examples(count)
    @given(changes, st.integers(0, 5))
    def check(what, member):
        inside = member and path.name not in ("old.pt", "set.safetensors")
        path.write_bytes(mutated_inside(whole, member - 1, what) if inside else mutated(whole, what))

        def read():
            found = read_tensor_file(config)
            for shape in (None, (3, 1, 8)):
                [str(fault) for fault in check_tensors(found, config, 2, shape)]

        refused.append(outcome(read, TensorFileError, path))

    check()
    print(f"{form}: {len(refused)} mutations, {sum(refused)} refused")
    assert sum(refused) > len(refused) / 4
