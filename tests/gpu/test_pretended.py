"""The pretended device refuses what CUDA refuses, and counts what makes the host wait."""

import pytest
import torch
from pretended_cuda import CUDA, OnCuda


def test_values_are_the_cpus_and_the_device_is_not(cuda):
    here = torch.arange(6.0).view(2, 3)
    there = here.to("cuda")
    assert there.device == CUDA and there.is_cuda and isinstance(there, OnCuda)
    assert torch.equal((there.sin() @ there.T).cpu(), here.sin() @ here.T)
    assert torch.zeros(2, device="cuda").device.type == "cuda" and torch.tensor([1.0], device="cuda").is_cuda
    leaf = there.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(leaf.square().sum(), leaf)
    assert gradient.is_cuda and torch.equal(gradient.cpu(), 2 * here)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: there.add_(here),
        lambda here, there: torch.nn.functional.cross_entropy(there, torch.tensor([0, 1])),
        lambda here, there: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda here, there: torch.randn(3, generator=torch.Generator("cuda")),
    ],
)
def test_two_devices_and_foreign_generators_are_refused(cuda, wrong):
    here = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"same device|device type for generator"):
        wrong(here, here.to("cuda"))


@pytest.mark.parametrize(
    "function",
    [
        lambda images: torch.nn.functional.grid_sample(images, images.new_zeros(1, 4, 4, 2), align_corners=False),
        lambda images: torch.nn.functional.interpolate(images, scale_factor=2.0, mode="bilinear"),
        lambda images: images.flatten().median(0).values,
    ],
)
def test_what_adds_in_any_order_is_refused(cuda, function):
    images = torch.ones(1, 2, 4, 4, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="deterministic implementation"):
        torch.autograd.grad(function(images).sum(), images)


def test_numbers_and_indices_from_the_cpu_are_taken(cuda):
    there = torch.arange(4.0).to("cuda")
    cuda.forget()
    assert (there * torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0, 6.0]
    assert sum(cuda.waits.values()) == 1  # of tolist
    assert there[torch.tensor([1, 2])].is_cuda
    assert cuda.waits["index", ""] == 1


def test_waits_and_kernels_are_counted(cuda):
    there = torch.ones(3).to("cuda")
    cuda.forget()
    total = (there + 1.0).sum()
    assert not cuda.waits and cuda.kernels == {"add": 1, "sum": 1}
    assert float(total) == 6.0 and bool((there > 0).all())
    assert cuda.waits == {("_local_scalar_dense", ""): 1, ("is_nonzero", ""): 1} or sum(cuda.waits.values()) == 2


def test_copies_from_page_locked_memory_are_not_waited_for(cuda):
    here = torch.empty(3, pin_memory=True).fill_(1.0)
    cuda.forget()
    there = here.to("cuda", non_blocking=True)
    assert cuda.moves == 1 and not cuda.waits and there.is_cuda
    here.to("cuda")
    torch.ones(3).to("cuda", non_blocking=True)
    assert cuda.moves == 1 and sum(cuda.waits.values()) == 2
    assert there.tolist() == [1.0, 1.0, 1.0]


def test_everything_is_as_before_once_it_is_left(cuda):
    cuda.__exit__(None, None, None)
    try:
        assert torch.cuda.is_available() is (torch.cuda.device_count() > 0)
        assert type(torch.Generator()) is torch._C.Generator
    finally:
        cuda.__enter__()
