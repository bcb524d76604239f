"""Which trials to hold back: those that would only wait for a stage that another trial is computing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from ddcal.errors import StoreError
from ddcal.store.base import Store
from ddcal.store.leases import Leases

ASK_SECONDS = 0.5
"""How long the answer that a stage is missing, or leased, counts: Tune asks many times a second."""


class HoldBack:
    """Asks the store and its leases, and remembers the answers for a moment; what is there stays there."""

    def __init__(self, store: Store, leases: Leases) -> None:
        """Judge by ``store`` and ``leases``."""
        self._store, self._leases = store, leases
        self._there: set[str] = set()
        self._missing: dict[str, float] = {}
        self._leased: dict[str, tuple[bool, float]] = {}

    def blocked(self, keys: Mapping[str, str], running: Iterable[Mapping[str, str]]) -> bool:
        """Return whether the first stage that a trial would compute is being computed by another.

        Args:
            keys: The trial's stage → key, in the order of the stages.
            running: The same of this study's running trials; those of other studies are known by their leases.
        """
        for stage, key in keys.items():
            if self._is_there(stage, key):
                continue
            return any(other.get(stage) == key for other in running) or self._is_leased(key)
        return False

    def missing(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """Return the stages of a trial that the store does not have."""
        return tuple(stage for stage, key in keys.items() if not self._is_there(stage, key))

    def forget(self, keys: Iterable[str]) -> None:
        """Ask anew about keys of a trial that has ended."""
        for key in keys:
            self._missing.pop(key, None)
            self._leased.pop(key, None)

    def _is_there(self, stage: str, key: str) -> bool:
        now = time.monotonic()
        if key in self._there:
            return True
        if now - self._missing.get(key, -ASK_SECONDS) < ASK_SECONDS:
            return False
        try:
            there = self._store.has(stage, key)
        except StoreError:  # the trial itself will tell
            there = False
        if there:
            self._there.add(key)
            self._missing.pop(key, None)
        else:
            self._missing[key] = now
        return there

    def _is_leased(self, key: str) -> bool:
        now = time.monotonic()
        leased, asked = self._leased.get(key, (False, -ASK_SECONDS))
        if now - asked >= ASK_SECONDS:
            leased = self._leases.held(key)
            self._leased[key] = leased, now
        return leased
