"""Tune trainables: thin drivers of `TrialRunner` through `Worker`."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import ray
from ray.tune import PlacementGroupFactory, Trainable

from ddcal import collecting
from ddcal.pipeline import DatasetCache
from ddcal.study.record.rights import let_group_write
from ddcal.study.remote.stop_signal import SignalledToStop
from ddcal.study.run.cluster_leases import cluster_leases
from ddcal.study.run.worker import Assignment, Worker

STATE = "trial.pt"


class DDNNTrainable(Trainable):
    """Runs a trial from data to calibrated metrics (distill → train → calibrate → evaluate).

    The Tune config is an `Assignment`: ``trial`` (a TrialConfig as a dictionary) and ``store`` (an absolute path or an
    ``s3://`` URL) are needed; ``resources`` (``cpu``, ``gpu``), ``threads`` and ``device`` are optional. A result is
    reported at the fixed points of ``progress`` alone and carries every ``val/…`` metric and ``complete``; ``test/…``
    is in the last one. A worker that dies loses at most 30 seconds: unfinished stages are kept in the store. The last
    result of a trial that could not begin (no data on this node) has no record, but ``unusable``: why, and what to do.
    """

    target: ClassVar[Literal["ddnn", "distill"]] = "ddnn"

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the trial of ``config``, in a process that keeps to one thread between torch's operations."""
        with collecting.held():
            import torch

            with suppress(RuntimeError):  # set already: it can be set once
                torch.set_num_interop_threads(1)
            self._datasets = DatasetCache()
            self._signalled: SignalledToStop | None = None  # this process runs trials of one driver alone
            self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial in the same process, with torch and the dataset already loaded."""
        self.worker.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run to the next report."""
        return self.worker.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state."""
        import torch

        torch.save(self.worker.state(), Path(checkpoint_dir) / STATE)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from `save_checkpoint`."""
        import torch

        self.worker.restore(torch.load(Path(checkpoint) / STATE, map_location="cpu", weights_only=True))

    def cleanup(self) -> None:
        """Save what is unfinished."""
        self.worker.close()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Ask for ``resources.cpu`` and a fraction ``resources.gpu`` of a GPU (default: one CPU, no GPU)."""
        resources = config.get("resources", {})
        bundle = {"CPU": float(resources.get("cpu", 1))}
        if resources.get("gpu"):
            bundle["GPU"] = float(resources["gpu"])
        return PlacementGroupFactory([bundle])

    def _begin(self, config: dict[str, Any]) -> None:
        assignment = Assignment.from_config({**config, "target": self.target})
        if assignment.access == "group":
            let_group_write()  # this process runs trials of this study alone
        if assignment.stop_signal is not None and self._signalled is None:
            self._signalled = SignalledToStop(assignment.stop_signal)
        self.worker = Worker(assignment, self._datasets, node=_node(), leases=cluster_leases, signalled=self._signalled)


class DistillTrainable(DDNNTrainable):
    """Stops at the distilled set; its metrics are those of a short probe network on ``val``."""

    target: ClassVar[Literal["ddnn", "distill"]] = "distill"


def _node() -> str | None:
    """Return this node's name in the cluster, ``host/first letters of Ray's node id``; None without Ray."""
    if not ray.is_initialized():
        return None
    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"
