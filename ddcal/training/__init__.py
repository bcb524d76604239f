"""Training of networks on distilled sets (DDNNs) or on full data (FDNNs)."""

from ddcal.training.ddnn import DDNNTraining, split_holdout

__all__ = ["DDNNTraining", "split_holdout"]
