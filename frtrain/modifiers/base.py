"""What is put on top of a loss: a head around a head."""

from __future__ import annotations

from typing import Any

from torch import nn

from frtrain.losses.base import LOSSES, Head


class Modifier(Head[Any]):
    """A head that answers as the head in it does, but for what a subclass changes.

    The whole contract of `Head`, state and counting of steps included, is asked of `inner`, so an engine cannot tell a
    modified loss from a loss. Modifiers can be put around each other.

    Attributes:
        inner: the loss, or another modifier.
    """

    def __init__(self, inner: Head[Any]):
        nn.Module.__init__(self)  # not Head's: scale and state are those of the inner head
        self.inner = inner


CONTRACT = {name for name in (*vars(Head), *Head.__annotations__, "scale") if not name.startswith("_")}
"""Everything that a head can be asked."""


def _asked_of_inner(name: str) -> property:
    """A function of Python's, which torch.compile can look into."""

    def ask(modifier: Modifier) -> Any:
        return getattr(modifier.inner, name)

    return property(ask, doc="That of the inner head.")


for _name in CONTRACT:
    setattr(Modifier, _name, _asked_of_inner(_name))


def loss_under(head: Head[Any]) -> Head[Any]:
    """The loss under all modifiers."""
    while isinstance(head, Modifier):
        head = head.inner
    return head


def loss_name(head: Head[Any]) -> str:
    """`loss=NAME` of the loss under all modifiers, for messages."""
    loss = type(loss_under(head))
    names = [entry.name for entry in LOSSES if entry.factory is loss]
    return f"loss={names[0]}" if names else loss.__name__


def require_cross_entropy(head: Head[Any], setting: str) -> None:
    """Refuse a loss that is a sum over classes.

    Args:
        head: the loss.
        setting: `key=value` that asks for cross-entropy.

    Raises:
        ValueError: it has no probabilities.
    """
    if head.reduction != "cross_entropy":
        raise ValueError(
            f"{setting}: only for losses that are a cross-entropy, and {loss_name(head)} is a sum over classes: it "
            "gives no probabilities"
        )
