"""A package of a user's own, from the module of the same name."""

from own_packages import herding, own_package  # noqa: F401 - fixtures
