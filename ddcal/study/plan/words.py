"""Seconds as a person says them: a name of `ddcal.pipeline.durations`."""

from ddcal.pipeline.durations import duration

__all__ = ["duration"]
