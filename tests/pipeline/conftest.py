"""Tiny trials, and packages of a user's own, from the modules of the same names."""

from own_packages import own_package  # noqa: F401 - a fixture
from tiny_trials import datasets, environment, make_trial, threads_as_before  # noqa: F401 - fixtures
