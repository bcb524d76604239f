"""The networks that are distilled with, trained and calibrated, and prediction with them.

The ConvNet of method.md, and those that distilled sets are evaluated on across architectures.
"""

from ddcal.config.networks import default_depth
from ddcal.networks.alexnet import AlexNet
from ddcal.networks.base import Network
from ddcal.networks.build import build_network, network_on_meta
from ddcal.networks.convnet import ConvNet
from ddcal.networks.fresh import FreshNetworks
from ddcal.networks.lenet import LeNet
from ddcal.networks.mlp import MLP
from ddcal.networks.predict import predict_logits
from ddcal.networks.resnet import ResNet18
from ddcal.networks.statistics import fix_statistics
from ddcal.networks.vgg import VGG11

__all__ = [
    "MLP",
    "VGG11",
    "AlexNet",
    "ConvNet",
    "FreshNetworks",
    "LeNet",
    "Network",
    "ResNet18",
    "build_network",
    "default_depth",
    "fix_statistics",
    "network_on_meta",
    "predict_logits",
]
