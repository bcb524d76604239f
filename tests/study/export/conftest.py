"""Packages of a user's own, from the module of the same name."""

from own_packages import components, herding, own_package  # noqa: F401 - fixtures
