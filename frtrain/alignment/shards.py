"""Several ranks, each with its share of the photographs. They need not run at the same time, or on one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frtrain.errors import ConfigError

_LARGEST_CHUNK = 64
_CHUNKS_OF_A_RANK = 8


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that share the photographs, by its number from 0."""

    number: int = 0
    count: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Rank:
        """That of torchrun's `RANK` and `WORLD_SIZE`; alone without them.

        Raises:
            ConfigError: they are not two numbers of which the first is the smaller.
        """
        number, count = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise ConfigError(
                f"RANK={number}, WORLD_SIZE={count}: expected numbers from 0 and the rank the smaller one"
            )
        return cls(int(number), int(count))

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1

    def share(self, photographs: Sequence[str]) -> list[str]:
        """Every `count`-th chunk of the list: the shares of all ranks are the list, and none overlap."""
        size = max(1, min(_LARGEST_CHUNK, len(photographs) // (self.count * _CHUNKS_OF_A_RANK)))
        return [path for at, path in enumerate(photographs) if at // size % self.count == self.number]


ALONE = Rank()
