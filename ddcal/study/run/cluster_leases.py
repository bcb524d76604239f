"""Leases on S3: one small actor a store in Ray's namespace ``ddcal`` knows who computes what on this cluster.

It belongs to whoever asked first, as a rule the driver, and holds soft state alone. Where it cannot be asked there is
no lease, and the stage is computed; where it has died it is made again and holders tell it anew with their next beat.
Other clusters, and drivers in debug mode, do not see it: on S3 they may compute a stage twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from typing import Any

from ddcal.store.base import Store
from ddcal.store.folder import FileStore
from ddcal.store.leases import BEAT_SECONDS, EXPIRY_SECONDS, FreeLease, Lease, Leases, beating, open_leases
from ddcal.store.lock_holder import Holder

logger = logging.getLogger(__name__)

NAMESPACE = "ddcal"
ANSWER_SECONDS = 10.0
"""How long the actor is waited for, its start included; then there is no lease."""


def cluster_leases(store: Store) -> Leases:
    """Return the leases of a store as a trial on Ray sees them: files in a folder, an actor for S3."""
    import ray

    if isinstance(store, FileStore) or not ray.is_initialized():
        return open_leases(store)
    return ActorLeases(store.place)


def lease_table() -> type:
    """Return the class of the actor; a class of a function is sent by value, so the actor need not import torch."""

    class LeaseTable:
        """Key → (holder, when it last showed that it lives, on this process's clock)."""

        def __init__(self, expiry: float) -> None:
            self._expiry = expiry
            self._held: dict[str, tuple[str, float]] = {}

        def take(self, key: str, holder: str, dead: str | None) -> str | None:
            """Give the lease to ``holder`` and return None, or return who has it; ``dead`` is proved to have ended."""
            import time

            other = self.holder(key)
            if other is not None and other not in (holder, dead):
                return other
            self._held[key] = holder, time.monotonic()
            return None

        def holder(self, key: str) -> str | None:
            """Return who has the lease on a key."""
            import time

            found = self._held.get(key)
            if found is None or time.monotonic() - found[1] > self._expiry:
                self._held.pop(key, None)
                return None
            return found[0]

        def beat(self, key: str, holder: str) -> None:
            """Note that a holder lives; one that this table does not know is written down, if nobody else is."""
            import time

            if self.holder(key) in (None, holder):
                self._held[key] = holder, time.monotonic()

        def release(self, key: str, holder: str) -> None:
            """End a holder's lease."""
            if self._held.get(key, ("",))[0] == holder:
                del self._held[key]

    return LeaseTable


class ActorLeases:
    """The leases of a store, kept by its actor."""

    def __init__(self, place: str, beat: float = BEAT_SECONDS, expiry: float = EXPIRY_SECONDS) -> None:
        """Use the actor of the store at ``place``; it is made if it is missing.

        Args:
            place: The store's URL.
            beat: How often a holder shows that it lives, in seconds.
            expiry: After how many seconds without that a lease has ended.
        """
        self.name = f"leases-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
        self._beat, self._expiry = beat, expiry
        self._me = json.dumps(asdict(Holder.here()), sort_keys=True)
        self._handle: Any = None  # kept: an actor of which no handle is left ends

    def take(self, key: str) -> Lease | None:
        """Return the lease, also over a holder that is proved dead; None while another process has it."""
        try:
            other = self._ask("take", key, self._me, None)
            if other is not None and _dead(other):
                other = self._ask("take", key, self._me, other)
        except Exception as error:
            logger.info("no lease, the stage is computed: %s", error)
            return FreeLease()
        return None if other is not None else _ActorLease(self, key, self._me, self._beat)

    def held(self, key: str) -> bool:
        """Return whether another process has the lease on a key."""
        try:
            other = self._ask("holder", key)
        except Exception:
            return False
        return other is not None and other != self._me and not _dead(other)

    def beat(self, key: str, holder: str) -> None:
        """Show that a holder lives."""
        self._ask("beat", key, holder)

    def release(self, key: str, holder: str) -> None:
        """End a holder's lease, without waiting for it."""
        try:
            self._actor().release.remote(key, holder)
        except Exception as error:
            logger.info("a lease was not given back and will end by itself: %s", error)

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._actor(), method).remote(*arguments), timeout=ANSWER_SECONDS)
        except ray.exceptions.ActorDiedError:  # with its owner: make it anew, once
            self._handle = None
            return ray.get(getattr(self._actor(), method).remote(*arguments), timeout=ANSWER_SECONDS)

    def _actor(self) -> Any:
        import ray

        if self._handle is None:
            options = {"name": self.name, "namespace": NAMESPACE, "get_if_exists": True, "num_cpus": 0}
            self._handle = ray.remote(lease_table()).options(**options).remote(self._expiry)
        return self._handle


class _ActorLease:
    """A lease of this process on one key."""

    def __init__(self, leases: ActorLeases, key: str, holder: str, seconds: float) -> None:
        self._release = beating(seconds, lambda: leases.beat(key, holder), lambda: leases.release(key, holder), self)

    def release(self) -> None:
        """Tell the actor."""
        self._release()


def _dead(holder: str) -> bool:
    return Holder.parse(holder).dead
