"""A board on which processes leave each other short notes, without any of them having to be in a collective."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store  # as torch.distributed has them, but with types

_numbers = itertools.count()


class Board:
    """Notes by name, kept by the store through which the processes met; with torchrun its agent keeps it.

    Args:
        store: of the process group.
        prefix: of all names, the same on every process and new for every use.
        timeout_seconds: after which reading fails.

    Every method raises RuntimeError where the store does not answer, and may hang where its host has stopped. A store that
    has failed once is not asked again: it has gone with its host, and torch prints a page for every further question.
    """

    def __init__(self, store: Store, prefix: str, timeout_seconds: float):
        # A connection of its own: on a shared one, a thread that waits for an answer would keep the others waiting.
        self._store = PrefixStore(prefix, store.clone())
        self._store.set_timeout(timedelta(seconds=timeout_seconds))
        self._failure = ""

    @classmethod
    def of_the_group(cls, timeout_seconds: float) -> Board:
        """A new board of the processes of `torch.distributed`, each of which must make it."""
        store = dist.distributed_c10d._get_default_store()
        return cls(store, f"frtrain/board/{next(_numbers)}", timeout_seconds)

    def pin(self, name: str, note: str) -> None:
        """Leave a note, in place of an earlier one of this name."""
        with self._asked():
            self._store.set(name, note)

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the notes that are there."""
        with self._asked():
            there = [name for name in names if self._store.check([name])]
            return {name: self._store.get(name).decode() for name in there}

    @contextmanager
    def _asked(self) -> Iterator[None]:
        if self._failure:
            raise RuntimeError(self._failure)
        try:
            yield
        except RuntimeError as error:
            self._failure = f"the store does not answer any more ({str(error).splitlines()[0]})"
            raise
