"""Tiny datasets and configs, from the module of the same name."""

from tiny_sets import dataset, make_config, make_dataset, one_thread  # noqa: F401 - fixtures
