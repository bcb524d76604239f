"""Pure data: what a trial and a study are. Imports neither torch nor ray, so reading a config costs milliseconds."""

from ddcal.config.datasets import DataConfig
from ddcal.config.names import trial_from
from ddcal.config.networks import NetworkConfig
from ddcal.config.problems import ConfigError, Problem
from ddcal.config.reading.loading import read_study, study_problems
from ddcal.config.resolved import resolve
from ddcal.config.study import StudyConfig
from ddcal.config.training import TrainConfig
from ddcal.config.trial import (
    CalibrateConfig,
    DistillConfig,
    EvaluateConfig,
    MaskConfig,
    TrialConfig,
)

__all__ = [
    "CalibrateConfig",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "MaskConfig",
    "NetworkConfig",
    "Problem",
    "StudyConfig",
    "TrainConfig",
    "TrialConfig",
    "read_study",
    "resolve",
    "study_problems",
    "trial_from",
]
