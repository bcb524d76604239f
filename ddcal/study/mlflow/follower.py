"""The thread that keeps MLflow up to the ledger while a study runs."""

from __future__ import annotations

import logging
import threading
import time

from ddcal.study.mlflow.mirror import Mirror

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Waits between attempts at an event; the last one repeats."""

CLOSE_SECONDS, CLOSE_SECONDS_FAILING = 15.0, 5.0
"""How long the end of a study waits for MLflow while nothing arrives there; less if the last attempt has failed."""

CLOSE_SECONDS_MORE = 60.0
"""After `CLOSE_SECONDS`, the end of a study waits on only if at the pace so far no more than this is left."""


class Tracking:
    """The mirror in a thread of its own, for as long as a study runs."""

    def __init__(self, mirror: Mirror | None) -> None:
        """Start to mirror; None (``tracking.uri: none``) mirrors nothing."""
        self.mirror = mirror
        self._news = threading.Event()
        self._closing = threading.Event()
        self._given_up = False
        self._failures = 0
        self._moved = time.monotonic()
        self._thread: threading.Thread | None = None
        if mirror is not None:
            self._thread = threading.Thread(target=self._follow, name="ddcal-mlflow", daemon=True)
            self._thread.start()

    def notify(self) -> None:
        """Say that the ledger has grown."""
        self._news.set()

    def close(self) -> int:
        """Wait until MLflow has everything, but not for one that does not move or is too slow.

        Returns:
            How many bytes of the ledger are not sent: 0 if all is there.
        """
        if self._thread is None or self.mirror is None:
            return 0
        began = self._moved = time.monotonic()
        pending = self.mirror.pending
        self._closing.set()
        self._news.set()
        while self._thread.is_alive():
            patience = CLOSE_SECONDS_FAILING if self._failures else CLOSE_SECONDS
            waited, sent = time.monotonic() - began, pending - self.mirror.pending
            too_slow = waited > patience and self.mirror.pending * waited > CLOSE_SECONDS_MORE * sent
            if too_slow or time.monotonic() - self._moved > patience:
                self._given_up = True  # after the event that it is at; who syncs next waits for that
                break
            self._thread.join(0.05)
        return max(0, self.mirror.pending)

    def _follow(self) -> None:
        assert self.mirror is not None
        while not self._given_up:
            self._news.clear()
            try:
                moved = self.mirror.advance()
            except Exception as error:
                if not self._failures:
                    logger.warning("MLflow at %s: %s; the study goes on", self.mirror.place, self.mirror.said(error))
                wait = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
                self._failures += 1
                self._closing.wait(wait)
                if self._closing.is_set():
                    time.sleep(min(wait, 1.0))
                continue
            if self._failures:
                logger.warning("MLflow at %s answers again", self.mirror.place)
                self._failures = 0
            if moved:
                self._moved = time.monotonic()
            elif self._closing.is_set():
                return
            else:
                self._news.wait(POLL_SECONDS)
