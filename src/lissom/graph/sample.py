"""A few examples out of many, chosen by what they hold and not by where they came."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Sample:
    """The `size` different examples whose contents have the smallest hashes, of all that were offered.

    The same examples whatever the order and the batches: a bottom-k sample (Cohen and Kaplan 2007, "Summarizing data
    using bottom-k sketches"). Memory does not grow with the number of offers.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._largest: list[int] = []  # a heap of negated hashes
        self._kept: dict[int, tuple[Any, ...]] = {}

    def offer_(self, inputs: Sequence[Any]) -> None:
        """Keep a copy of the flat inputs of one call, if they are among the chosen so far."""
        mark = _hash(inputs)
        if mark in self._kept or (len(self._kept) == self._size and mark > -self._largest[0]):
            return
        heapq.heappush(self._largest, -mark)
        self._kept[mark] = tuple(given.clone() if isinstance(given, Tensor) else given for given in inputs)
        if len(self._kept) > self._size:
            del self._kept[-heapq.heappop(self._largest)]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """By hash: an order of their own."""
        return (self._kept[mark] for mark in sorted(self._kept))

    def __len__(self) -> int:
        return len(self._kept)


def _hash(inputs: Sequence[Any]) -> int:
    digest = hashlib.blake2b(digest_size=16)
    for given in inputs:
        if isinstance(given, Tensor):
            plain = given.detach().cpu().contiguous()
            digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(given).encode())
    return int.from_bytes(digest.digest())
