"""Networks that turn an aligned crop into an embedding."""

from frtrain.backbones import iresnet, resnet
from frtrain.backbones.base import BACKBONES
from frtrain.backbones.cost import Cost, cost, cost_of

__all__ = ["BACKBONES", "Cost", "cost", "cost_of", "iresnet", "resnet"]
