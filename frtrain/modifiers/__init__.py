"""What is put on top of any loss: focal weighting, hard mining, label smoothing, filtering, margin warm-up."""

from __future__ import annotations

from typing import Any

from frtrain.config import ModifiersConfig
from frtrain.errors import ConfigError
from frtrain.losses.base import Head
from frtrain.modifiers.base import Modifier, loss_name
from frtrain.modifiers.focal import Focal
from frtrain.modifiers.hard_mining import HardMining
from frtrain.modifiers.interclass_filter import InterclassFilter
from frtrain.modifiers.label_smoothing import LabelSmoothing

__all__ = ["Focal", "HardMining", "InterclassFilter", "LabelSmoothing", "Modifier", "modified"]


def modified(head: Head[Any], config: ModifiersConfig) -> Head[Any]:
    """The loss with all that `config` turns on, in the order in which a step meets it.

    Margins warm up, wrong classes are filtered, labels smoothed, the loss of each sample gets its focal factor, and the
    hardest of these are kept. What is off is not there: with all off, this is `head` itself.

    Raises:
        ConfigError: the loss cannot be modified so; names the key and the loss.
    """
    try:
        if config.margin_warmup_steps:
            _warm_up_margin(head, config.margin_warmup_steps)
        if config.interclass_filter is not None:
            head = InterclassFilter(head, config.interclass_filter)
        if config.label_smoothing:
            head = LabelSmoothing(head, config.label_smoothing)
        if config.focal_gamma:
            head = Focal(head, config.focal_gamma)
        if config.hard_mining < 1:
            head = HardMining(head, config.hard_mining)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return head


def _warm_up_margin(head: Head[Any], steps: int) -> None:
    try:
        head.warm_up_margin(steps)
    except ValueError as error:
        raise ValueError(f"modifiers.margin_warmup_steps={steps} with {loss_name(head)}: {error}") from error
