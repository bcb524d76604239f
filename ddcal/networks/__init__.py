"""The networks that are distilled with, trained and calibrated: the ConvNet of PAPER.md, and prediction with it."""

from ddcal.networks.convnet import ConvNet, build_network, default_depth
from ddcal.networks.predict import predict_logits

__all__ = ["ConvNet", "build_network", "default_depth", "predict_logits"]
