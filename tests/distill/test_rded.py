"""RDED against plain loops, and its crops against torch's own resizing."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from ddcal.config import DataConfig, DistillConfig, TrialConfig, resolve
from ddcal.config.resolved import resolve_distill
from ddcal.data import load_dataset
from ddcal.distill import distill, images_per_class, make_distiller
from ddcal.distill.experts import expert_network, train_experts
from ddcal.distill.rded import AT_ONCE, Crops, StitchedCrops, drawn_crops, resized, stitched
from ddcal.errors import BadInput
from ddcal.seeding import generator


def settings(coreset=None, **changes):
    values = {"backbone": "rded", "ipc": 1, "network": {"width": 5, "depth": 2}, "coreset": coreset or {}}
    values["mtt"] = {"experts": {"epochs": 2, "batch_size": 8, "lr": 0.05}}
    return DistillConfig.model_validate(values | changes)


def slow_resized(image, top, left, side, height, width):
    """One channel and one pixel after the other: triangles as wide as a pixel of the larger grid."""

    def line(begin, target):
        scale = side / target
        reach = max(scale, 1.0)
        weights = []
        for i in range(target):
            middle = begin + scale * (i + 0.5)
            row = [max(0.0, 1.0 - abs(j + 0.5 - middle) / reach) for j in range(begin, begin + side)]
            weights.append([weight / sum(row) for weight in row])
        return weights

    rows, columns = line(top, height), line(left, width)
    out = np.zeros((len(image), height, width))
    for channel in range(len(image)):
        for y in range(height):
            for x in range(width):
                for j in range(side):
                    for i in range(side):
                        out[channel, y, x] += rows[y][j] * columns[x][i] * image[channel, top + j, left + i]
    return out


@pytest.mark.parametrize("target", [3, 8, 11])
def test_a_crop_is_resized_as_torch_does_it(target):
    images = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    crops = Crops(torch.tensor([0, 3, 1, 0, 7, 2]), torch.tensor([0, 1, 2, 4, 7, 0]), torch.tensor([8, 5, 3, 4, 1, 6]))
    found = resized(images, crops, target, target + 1)
    for place, (top, left, side) in enumerate(zip(crops.tops, crops.lefts, crops.sides, strict=True)):
        part = images[place : place + 1, :, top : top + side, left : left + side]
        expected = interpolate(part, (target, target + 1), mode="bilinear", antialias=True, align_corners=False)
        torch.testing.assert_close(found[place], expected[0], rtol=1e-5, atol=1e-6)


def test_a_crop_of_everything_is_the_image_to_the_bit():
    images = torch.rand(3, 1, 8, 8)
    zeros = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(resized(images, Crops(zeros, zeros, zeros + 8), 8, 8), images)


def test_crops_lie_in_the_image_and_are_as_large_as_drawn():
    crops = drawn_crops(2000, 5, 32, generator(0, "test", "crops"))
    ends = torch.stack([crops.tops, crops.lefts]) + crops.sides
    assert int(crops.sides.min()) == 9 and int(crops.sides.max()) == 32  # √0.08 of 32 is 9.05
    assert int(crops.tops.min()) == int(crops.lefts.min()) == 0 and int(ends.max()) == 32
    shares = (crops.sides.double() / 32).square()
    assert float(shares.mean()) == pytest.approx(0.54, abs=0.01)  # uniform in [0.08, 1]
    whole = crops.at(crops.sides == 20)
    assert set(whole.tops.tolist()) == set(whole.lefts.tolist()) == set(range(13))


@pytest.mark.parametrize(("size", "factor", "sizes"), [(8, 2, [4, 4]), (8, 3, [3, 3, 2]), (5, 1, [5]), (5, 5, [1] * 5)])
def test_stitching_lays_crops_row_by_row(size, factor, sizes):
    """The first crops are the first place of every image; a side that does not divide makes first places larger."""
    count = 2
    pixels = torch.rand(count * factor**2, 3, size, size, generator=torch.Generator().manual_seed(2))
    crops = drawn_crops(len(pixels), 1, size, generator(0, "test", "stitched")).at(slice(None), torch.tensor(0))
    found = stitched(pixels, crops, count, factor)
    expected = np.zeros((count, 3, size, size))
    place = 0
    for row in range(factor):
        for column in range(factor):
            for image in range(count):
                y, x = sum(sizes[:row]), sum(sizes[:column])
                values = slow_resized(
                    pixels[place].double().numpy(),
                    *(int(part[place]) for part in (crops.tops, crops.lefts, crops.sides)),
                    sizes[row],
                    sizes[column],
                )
                expected[image, :, y : y + sizes[row], x : x + sizes[column]] = values
                place += 1
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def slow_set(dataset, made, experts, epoch):
    """Every crop of every candidate, its mean loss, the best crop of each, the best of these: one after the other."""
    coreset, ipc, size, images = made.config.coreset, made.config.ipc, dataset.image_size, []
    networks = [
        expert_network(experts, index, epoch, dataset, made.config, torch.device("cpu"))
        for index in range(coreset.experts)
    ]
    for label in range(dataset.num_classes):
        indices = dataset.train.indices_of(label)
        order = torch.randperm(len(indices), generator=generator(made.seed, "distill", "candidates", label))
        candidates = sorted(indices[order[: coreset.candidates]].tolist())
        crops = drawn_crops(len(candidates), coreset.crops, size, generator(made.seed, "distill", "crops", label))
        best = []
        for place, index in enumerate(candidates):
            picture = dataset.inverse_transform(dataset.train.images[index : index + 1])[0].double().numpy()
            losses = []
            for crop in range(coreset.crops):
                box = tuple(int(part[place, crop]) for part in (crops.tops, crops.lefts, crops.sides))
                whole = torch.tensor(slow_resized(picture, *box, size, size)[None]).float()
                with torch.no_grad():
                    logits = [network(dataset.preprocessing.transform(whole))[0].double() for network in networks]
                loss = float(np.mean([-float(row[label] - torch.logsumexp(row, 0)) for row in logits]))
                losses.append((loss, index, picture, box))
            best.append(min(losses, key=lambda one: one[0]))
        best.sort(key=lambda one: one[0])
        sizes = [len(part) for part in np.array_split(np.arange(size), coreset.factor)]
        for image in range(ipc):
            canvas = np.zeros((dataset.channels, size, size))
            for row in range(coreset.factor):
                for column in range(coreset.factor):
                    _, _, picture, box = best[(row * coreset.factor + column) * ipc + image]
                    y, x = sum(sizes[:row]), sum(sizes[:column])
                    tile = slow_resized(picture, *box, sizes[row], sizes[column])
                    canvas[:, y : y + sizes[row], x : x + sizes[column]] = tile
            images.append(torch.tensor(canvas).float())
    return dataset.preprocessing.transform(torch.stack(images))


@pytest.mark.parametrize(
    ("coreset", "ipc"),
    [
        ({"factor": 1, "crops": 2}, 2),
        ({"factor": 2, "crops": 3, "candidates": 5, "experts": 2}, 1),
        ({"factor": 1, "crops": 1, "candidates": 3, "epoch": 1}, 3),
    ],
)
def test_a_set_is_what_trying_every_crop_gives(coreset, ipc, dataset):
    made = make_distiller(dataset, settings(coreset, ipc=ipc), 5)
    made.step()
    experts = train_experts(dataset, made.config, 5, torch.device("cpu"), count=made.config.coreset.experts)
    expected = slow_set(dataset, made, experts, coreset.get("epoch", 2))
    torch.testing.assert_close(made.images, expected, rtol=1e-5, atol=1e-5)
    assert made.labels.tolist() == [label for label in range(3) for _ in range(ipc)]


def test_whitened_images_are_cropped_as_pixels_and_whitened_again():
    dataset = load_dataset(DataConfig(zca=True, train_images=200))
    config = settings({"factor": 2, "crops": 1, "candidates": 4})
    made = make_distiller(dataset, config, 0)
    images = made.chosen(3)
    experts = train_experts(dataset, made.config, 0, torch.device("cpu"), count=1)
    expected = slow_set(dataset, made, experts, 2)[3:4]
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


def test_how_many_candidates_are_scored_together_changes_nothing(make_dataset, monkeypatch):
    dataset = make_dataset(per_class=AT_ONCE + 9)
    config = settings({"factor": 2, "crops": 2}, ipc=3)
    first = distill(dataset, config, 0)
    monkeypatch.setattr("ddcal.distill.rded.AT_ONCE", 7)
    torch.testing.assert_close(distill(dataset, config, 0).images, first.images, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(("crops", "together"), [(1, 32), (5, 160), (9, 153), (200, 200)])
def test_many_crops_of_an_image_are_scored_with_those_of_fewer_others(crops, together, make_dataset):
    class Watched(StitchedCrops):
        def losses(self, indices, crops, label):
            seen.append(crops.sides.numel())
            return super().losses(indices, crops, label)

    seen, dataset = [], make_dataset(per_class=40, classes=2)
    config = resolve_distill(settings({"crops": crops}, ipc=2), "digits")
    experts = train_experts(dataset, config, 0, torch.device("cpu"), count=1)
    Watched(dataset, config, 0, torch.device("cpu"), experts).chosen(1)
    assert max(seen) == together and sum(seen) == 40 * crops


def test_stitching_is_for_large_images_alone_unless_it_is_asked_for():
    def factor(name, **coreset):
        data = {"name": name} | ({"root": "x.npz"} if name == "npz" else {})
        distill = {"backbone": "rded", "coreset": coreset}
        return resolve(TrialConfig.model_validate({"data": data, "distill": distill})).distill.coreset.factor

    assert [factor(name) for name in ("digits", "cifar10", "tiny-imagenet")] == [1, 1, 1]
    assert [factor(name) for name in ("imagenette", "npz")] == [2, 2] and factor("digits", factor=3) == 3


@pytest.mark.parametrize(
    ("coreset", "ipc", "said"),
    [
        ({"factor": 2}, 2, r"coreset\.factor 2, which takes crops of 8 images of a class, but class 0 of digits has 7"),
        ({"candidates": 4}, 5, r"candidates is 4, but crops of 5 images"),
        ({"factor": 9, "candidates": 100}, 1, r"takes crops of 81 images"),
        ({}, 8, r"distill\.ipc is 8 but class 0 of digits has 7"),
    ],
)
def test_more_crops_than_there_are_images_are_refused(coreset, ipc, said, dataset):
    with pytest.raises(ValueError, match=said):
        distill(dataset, settings(coreset, ipc=ipc), 0)
    if ipc == 5:
        with pytest.raises(ValueError, match=r"distill\.coreset\.candidates is 4, but distill\.ipc 5"):
            TrialConfig.model_validate({"distill": {"backbone": "rded", "ipc": 5, "coreset": coreset}})


def test_more_crops_than_pixels_are_refused(make_dataset):
    dataset = make_dataset(per_class=90, classes=2)
    with pytest.raises(ValueError, match=r"factor is 9 but images of digits are 8 pixels high"):
        distill(dataset, settings({"factor": 9}), 0)
    trial = {"data": {"name": "digits"}, "distill": {"backbone": "rded", "ipc": 1, "coreset": {"factor": 9}}}
    with pytest.raises(ValueError, match=r"coreset\.factor is 9, but images have 8 pixels a side.*at most 8"):
        TrialConfig.model_validate(trial)
    own = TrialConfig.model_validate({**trial, "data": {"name": "npz", "root": "x.npz"}})  # the file says how many
    with pytest.raises(BadInput, match=r"coreset\.factor is 9, but images have 8 pixels a side"):
        images_per_class(resolve(own).distill, 2, 1, 8)
    assert images_per_class(resolve(own).distill, 2, 1, 9) == 1
