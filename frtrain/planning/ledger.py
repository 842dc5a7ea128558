"""The memory that a piece of torch code holds, moment by moment, counted as it runs: on real tensors or on fake ones.

A fake tensor (`torch._subclasses.FakeTensorMode`) has a shape, a type and a device, but no memory, and computes nothing. The very
code that trains can so be run for a million identities on a laptop, and what it would allocate be added up.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Bytes = Mapping[str, int]
"""Bytes by what they hold."""

WRITES = frozenset({torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default, torch.ops.aten.copy_.default})
"""Operations that do nothing but write values, in place: nothing at all on a fake tensor, and slow there."""


@dataclass
class _Storage:
    """One live storage: what it holds, how large it is, and the reference that tells when it is gone."""

    label: str
    nbytes: int
    reference: weakref.ref[Any] = field(repr=False)


class Ledger(TorchDispatchMode):
    """While it is entered, every new storage is counted under the label of `under` until its last tensor has gone.

    Views share a storage, which is counted once. What an operation allocates and frees within itself is not seen. On fake tensors a
    number that is asked for (`item`, `bool`) is 0, or true: the step that is rehearsed is one with finite numbers.

    Attributes:
        flops: floating point operations (two for a multiplication with its addition) of convolutions and matrix products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._label = "other"
        self._live: dict[int, _Storage] = {}
        self._bytes: dict[str, int] = {}
        self._total = 0
        self._peak: dict[str, int] = {}
        self._peak_total = 0

    @contextmanager
    def under(self, label: str) -> Iterator[None]:
        """Within this context new storages hold `label`."""
        before, self._label = self._label, label
        try:
            yield
        finally:
            self._label = before

    def enter(self, label: str, tensors: Iterable[Tensor]) -> None:
        """Count these tensors, and count them as `label`, whatever they were counted as."""
        for tensor in tensors:
            self._see(tensor)
            storage = self._live[id(tensor.untyped_storage())]
            self._add(storage.label, -storage.nbytes)
            storage.label = label
            self._add(label, storage.nbytes)
        self._remember()

    @property
    def live(self) -> Bytes:
        """What is held now."""
        return {label: count for label, count in self._bytes.items() if count}

    def take_peak(self) -> Bytes:
        """What was held at the moment when most was, since the last call; the next peak is sought from now on."""
        peak = {label: count for label, count in self._peak.items() if count}
        self._peak, self._peak_total = dict(self._bytes), self._total
        return peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it returns."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and _without_values(args[0]):
            dtype = args[0].dtype
            return 0.0 if dtype.is_floating_point else True if dtype == torch.bool else 0
        if func in WRITES and _without_values(args[0]):
            return args[0]
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        self._remember()
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._live:
            known = self._live[key]
            if known.nbytes != storage.nbytes():  # resized
                self._add(known.label, storage.nbytes() - known.nbytes)
                known.nbytes = storage.nbytes()
            return
        # torch keeps the Python object of a storage as long as the storage itself, so its end is the end of the memory.
        reference = weakref.ref(storage, lambda _: self._forget(key))
        self._live[key] = _Storage(self._label, storage.nbytes(), reference)
        self._add(self._label, storage.nbytes())

    def _forget(self, key: int) -> None:
        storage = self._live.pop(key)
        self._add(storage.label, -storage.nbytes)

    def _add(self, label: str, nbytes: int) -> None:
        self._bytes[label] = self._bytes.get(label, 0) + nbytes
        self._total += nbytes

    def _remember(self) -> None:
        if self._total > self._peak_total:
            self._peak, self._peak_total = dict(self._bytes), self._total


def _without_values(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) or tensor.device.type == "meta"


def total(held: Bytes) -> int:
    """All of it."""
    return sum(held.values())


def without(held: Bytes, part: Bytes) -> Bytes:
    """What is held besides `part`, label by label."""
    rest = {label: count - part.get(label, 0) for label, count in held.items()}
    return {label: count for label, count in rest.items() if count > 0}


def together(*holdings: Bytes) -> Bytes:
    """The sum, label by label."""
    summed: dict[str, int] = {}
    for held in holdings:
        for label, count in held.items():
            summed[label] = summed.get(label, 0) + count
    return summed
