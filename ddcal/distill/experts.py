"""Expert trajectories: networks trained on the real data, kept epoch by epoch, for MTT to match and others to ask.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR 2022); method.md, MTT.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from ddcal.compiling import call_network, compile_network
from ddcal.config import DistillConfig, NetworkConfig
from ddcal.config.datasets import dataset_spec
from ddcal.data import Dataset
from ddcal.data.augment import augment, draw_augmentation, move_augmentations
from ddcal.divergence import loss_problem, usual_cross_entropy
from ddcal.errors import DivergedError
from ddcal.moving import move_together
from ddcal.networks import Network, build_network
from ddcal.networks.norm import differentiated_once
from ddcal.seeding import generator

TRAJECTORY = "trajectory.safetensors"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ExpertTraining:
    """One expert, one epoch a `step`; its trajectory is the weights before the first epoch and after each.

    Attributes:
        index: Which expert; its initialisation, order and augmentation derive from (seed, index).
        epoch: Epochs done.
        epochs: Epochs to do, `MTTConfig.kept_epochs`.
        snapshots: Copies of the weights as vectors (P,), on the CPU, in the precision of the config.
        errors: What that precision costs each snapshot: ‖stored − computed‖ / ‖computed‖.
        losses: The mean loss of each epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: DistillConfig,
        seed: int,
        index: int,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self.dataset, self.settings, self.seed, self.index, self.device = (
            dataset,
            config.mtt.experts,
            seed,
            index,
            device,
        )
        self.epochs, self.epoch = config.mtt.kept_epochs, 0
        self.network = skeleton(dataset, config, generator(seed, "experts", "network", index)).to(device)
        differentiated_once(self.network)
        if compiled:
            compile_network(self.network)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.settings.lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        self.flip = dataset_spec(dataset.name).flips
        self.snapshots: list[Tensor] = []
        self.errors: list[float] = []
        self.losses: list[float] = []
        self._keep()

    def step(self) -> float:
        """Train one epoch and return its mean loss.

        Raises:
            DivergedError: if the loss of a batch is not finite or has exploded (`ddcal.divergence`), at that batch, or
                a weight is not finite at the end.
        """
        split = self.dataset.train
        order_stream = generator(self.seed, "experts", f"order-{self.index}", self.epoch)
        augment_stream = generator(self.seed, "experts", f"augment-{self.index}", self.epoch)
        total, losses = torch.zeros((), device=self.device), list[Tensor]()
        batches = torch.randperm(len(split), generator=order_stream).split(self.settings.batch_size)
        for chosen in batches:
            (images,) = move_together([split.images[chosen]], self.device)
            (labels,) = move_together([split.labels[chosen]], self.device)
            if self.settings.augment == "dsa":
                drawn = draw_augmentation(len(images), images.shape[2], augment_stream, siamese=False, flip=self.flip)
                images = augment(images, *move_augmentations([drawn], self.device))
            loss = cross_entropy(call_network(self.network, images, len(batches[0])), labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total = total + loss.detach() * len(chosen)
            losses.append(loss.detach())
            if self.device.type == "cpu":
                self._check(float(losses[-1]), len(losses), len(batches))
        *seen, summed = torch.stack([*losses, total]).tolist()  # a GPU is looked at once an epoch
        for batch, value in enumerate(seen, 1):
            self._check(value, batch, len(batches))
        self.epoch += 1
        self._keep()
        if not bool(torch.isfinite(self.snapshots[-1]).all()):
            raise self._diverged(self.epoch, "its weights are not finite")
        self.losses.append(summed / len(split))
        return self.losses[-1]

    def _check(self, loss: float, batch: int, batches: int) -> None:
        if problem := loss_problem("loss", loss, usual_cross_entropy(self.dataset.num_classes)):
            raise self._diverged(self.epoch + 1, f"{problem} at batch {batch} of {batches}")

    def _diverged(self, epoch: int, problem: str) -> DivergedError:
        return DivergedError(
            f"experts: expert {self.index + 1} diverged in epoch {epoch} of {self.epochs} ({problem}): lower "
            f"distill.mtt.experts.lr ({self.settings.lr:g})"
        )

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on bit-exactly."""
        buffers = [self.optimizer.state[p].get("momentum_buffer") for p in self.network.parameters()]
        return {
            "epoch": self.epoch,
            "network": {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()},
            "momentum": [buffer.cpu().clone() for buffer in buffers if buffer is not None],
            "snapshots": torch.stack(self.snapshots),
            "errors": list(self.errors),
            "losses": list(self.losses),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        self.optimizer.state.clear()
        for parameter, buffer in zip(self.network.parameters(), state["momentum"], strict=False):
            self.optimizer.state[parameter]["momentum_buffer"] = buffer.to(self.device).clone()
        self.snapshots = list(state["snapshots"].clone())
        self.errors, self.losses = list(state["errors"]), list(state["losses"])

    def save(self, folder: Path) -> None:
        """Write the trajectory, (epochs + 1, P), into the folder."""
        save_file({"trajectory": torch.stack(self.snapshots)}, folder / TRAJECTORY)

    def _keep(self) -> None:
        """Copy the weights: `parameters_to_vector` concatenates, so nothing is a view of live parameters."""
        vector = parameters_to_vector(self.network.parameters()).detach().cpu()
        stored = vector.to(PRECISIONS[self.settings.precision])
        exact = vector.double()
        self.snapshots.append(stored)
        self.errors.append(float((stored.double() - exact).norm() / exact.norm()))


class Experts:
    """The trajectories of several experts, read epoch by epoch from files or from memory."""

    def __init__(self, trajectories: Sequence[Path | Tensor]) -> None:
        """Take folders that `ExpertTraining.save` wrote, or tensors (epochs + 1, P)."""
        self._trajectories = list(trajectories)

    def __len__(self) -> int:
        return len(self._trajectories)

    def first(self, count: int) -> Experts:
        """Return the first ``count`` of them."""
        return Experts(self._trajectories[:count])

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return an expert's weights after ``epoch`` epochs, float32 (P,); other epochs are not read."""
        trajectory = self._trajectories[expert]
        if isinstance(trajectory, Tensor):
            return trajectory[epoch].float()
        with safe_open(str(trajectory / TRAJECTORY), framework="pt") as file:
            return file.get_slice("trajectory")[epoch].float()


def train_experts(
    dataset: Dataset,
    config: DistillConfig,
    seed: int,
    device: torch.device,
    compiled: bool = False,
    count: int | None = None,
) -> Experts:
    """Train ``count`` experts of a resolved config here and now, or all that MTT has, and keep them in memory."""
    trajectories = []
    for index in range(config.mtt.experts.count if count is None else count):
        training = ExpertTraining(dataset, config, seed, index, device, compiled)
        while training.epoch < training.epochs:
            training.step()
        trajectories.append(torch.stack(training.snapshots))
    return Experts(trajectories)


def expert_network(
    experts: Experts, index: int, epoch: int, dataset: Dataset, config: DistillConfig, device: torch.device
) -> Network:
    """Return an expert as it was after ``epoch`` epochs, in evaluation mode."""
    network = skeleton(dataset, config, generator(0, "experts", "skeleton")).to(device)
    load_weights(network, experts.weights(index, epoch))
    return network.eval()


def skeleton(dataset: Dataset, config: DistillConfig, draws: torch.Generator) -> Network:
    """Return the distilling network of a config, newly initialised."""
    network = config.network.over(NetworkConfig())
    return build_network(network, dataset.channels, dataset.image_size, dataset.num_classes, draws)


def load_weights(network: nn.Module, vector: Tensor) -> None:
    """Copy a weight vector (P,) into a network's parameters, wherever that is."""
    with torch.no_grad():
        for parameter, part in zip(network.parameters(), unflatten(vector, network), strict=True):
            parameter.copy_(part)


def unflatten(vector: Tensor, network: nn.Module) -> list[Tensor]:
    """Return a weight vector (P,) as the network's parameters, in order, as views of it."""
    shapes = [parameter.shape for parameter in network.parameters()]
    parts = vector.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
