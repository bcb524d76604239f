"""What would make a stage fit that ran out of a GPU's memory: settings to halve, in words."""

from __future__ import annotations

from ddcal.config.networks import NetworkConfig, NetworkOverride


def half(name: str, value: int | None) -> list[str]:
    """Return the advice to halve a setting; none where it is 1 already, or a network has no such setting."""
    return [f"{name} ({value} → {value // 2})"] if value is not None and value > 1 else []


def width_of(base: NetworkConfig, network: NetworkOverride) -> int | None:
    """Return the width of one of a trial's networks, over its ``network``; None where its layers have fixed widths."""
    return network.over(base).width


def less_graph(section: str, gradient: str) -> list[str]:
    """Return which method holds less: the graph of all steps, one step's and all weights, or few weights."""
    lighter = {"auto": "segments", "full": "exact", "exact": "segments"}.get(gradient)
    return [f"{section}.gradient ({gradient} → {lighter})"] if lighter else []
