"""Errors that several floors raise and that have a meaning of their own for a trial's outcome."""

from __future__ import annotations


class BadInput(ValueError):
    """The user gave something that cannot be used; the message says what and what would be right (exit code 2)."""


class DivergedError(ArithmeticError):
    """A loss or a learned value is not finite or has exploded; the message says where and which setting to lower."""


class StoreError(RuntimeError):
    """The artefact store cannot be read or written; the message names the path and the cause."""


class TrackingError(RuntimeError):
    """MLflow cannot be reached or refuses; the message names the URI and the cause."""


class ResourceError(BadInput):
    """Something was asked of a machine or cluster that it does not have; the message names the key and the value."""
