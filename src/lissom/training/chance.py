"""Randomness that follows from numbers and leaves no trace: nothing outside sees a generator move.

Every draw of a training follows from (seed, epoch, step). So there is no random state to save, and a training that
goes on draws what an unbroken one does.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
import torch


def seed_of(*parts: int | str) -> int:
    """A seed below 2^48 that differs wherever a part does."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:6])


def generator_of(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))


class Chance:
    """Own states of the global generators (Python's, NumPy's, torch's) and of `generators`.

    Inside `with chance():` draws go on from where the last such block ended; outside, everything is as it was.
    """

    def __init__(self, seed: int, generators: Iterable[torch.Generator] = ()) -> None:
        self._seed = seed
        self._generators = tuple(generators)
        self._own: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        outer = self._states()
        try:
            if self._own is None:
                self._begin()
            else:
                self._set(self._own)
            yield
            self._own = self._states()
        finally:
            self._set(outer)

    # The global NumPy generator is what data sets written for DataLoader workers draw from.

    def _begin(self) -> None:
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(self._seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(self._seed)
        for generator in self._generators:
            generator.manual_seed(self._seed)

    def _states(self) -> tuple[Any, ...]:
        return (
            random.getstate(),
            np.random.get_state(),  # noqa: NPY002
            torch.default_generator.get_state(),
            torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            [generator.get_state() for generator in self._generators],
        )

    def _set(self, states: tuple[Any, ...]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])
        if states[3] is not None:
            torch.cuda.set_rng_state(states[3])
        for generator, state in zip(self._generators, states[4], strict=True):
            generator.set_state(state)
