"""The training batches of an epoch: the same ones for the same (seed, epoch), whoever shuffles them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch

from lissom.errors import DataError
from lissom.task import Batch, Task
from lissom.training.chance import Chance, seed_of

SEEDS_APART = 2**20
"""Epochs that a seed has to itself in a loader with `at_epoch`."""


@runtime_checkable
class Epochs(Protocol):
    """Batches that know what another epoch looks like, such as `lissom.data.Batches`."""

    def at_epoch(self, epoch: int) -> Iterable[Any]: ...


def epoch_of(task: Task, seed: int, epoch: int) -> Iterator[Batch]:
    """The training batches of one epoch.

    A loader with `at_epoch` is asked for the epoch. Any other is iterated while the generators that it draws from
    (the global ones, those of a `DataLoader` and its samplers) have states that follow from seed and epoch; between
    two batches they are as the caller left them. A list is read in its own order every time.

    Raises:
        DataError: no training data, one-shot, empty, or not finite.
    """
    loader: Any = task.train
    if isinstance(loader, Epochs):
        task = replace(task, train=loader.at_epoch(seed * SEEDS_APART + epoch))
    chance = Chance(seed_of("order", seed, epoch), _generators(loader))
    batches = task.batches("train")
    while True:
        with chance():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def steps_of(task: Task, seed: int) -> int:
    """Batches in an epoch: the loader's length, or counted in one pass if it has none.

    Raises:
        DataError: as `epoch_of`.
    """
    loader: Any = task.train
    if isinstance(loader, Sized):
        try:
            if (length := len(loader)) > 0:
                return length
        except TypeError:  # a DataLoader has a length only if its data set has one
            pass
    return sum(1 for _ in epoch_of(task, seed, 0))


def refuse_divided(task: Task, processes: int) -> None:
    """
    Raises:
        DataError: the loader already gives each process its own part, and the loop would divide it again.
    """
    replicas = getattr(getattr(task.train, "sampler", None), "num_replicas", 1)
    if processes > 1 and replicas > 1:
        raise DataError(
            f"Task(train=...) has a sampler that divides the data over {replicas} processes, and the training loop "
            "divides every batch itself. Give every process the same loader, without a DistributedSampler."
        )


def _generators(loader: Any) -> list[torch.Generator]:
    holders = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    holders.append(getattr(holders[2], "sampler", None))
    found = {id(one): one for holder in holders if (one := getattr(holder, "generator", None)) is not None}
    return [one for one in found.values() if isinstance(one, torch.Generator)]
