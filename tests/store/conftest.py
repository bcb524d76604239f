"""Tiny trials, from the module of the same name."""

from tiny_trials import datasets, environment, make_trial, threads_as_before  # noqa: F401 - fixtures
