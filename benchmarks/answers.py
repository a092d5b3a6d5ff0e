"""Which examples a classifier gets right, and two classifiers compared on the same examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.results import Figure
from lissom.graph.trace import evaluation
from lissom.task import Batch


def right(model: nn.Module, batches: Iterable[Batch]) -> list[int]:
    """1 for every example whose class is found, else 0."""
    found: list[int] = []
    with torch.no_grad(), evaluation(model):
        for batch in batches:
            found += (model(*batch.args).argmax(1) == batch.target).int().tolist()
    return found


def percent(answers: Sequence[int]) -> float:
    return round(100 * sum(answers) / len(answers), 2)


def difference(one: Sequence[int], other: Sequence[int]) -> Figure:
    """Points between two classifiers, with the bootstrap interval over the examples that both have answered."""
    gaps = 100.0 * (np.array(one) - np.array(other))
    drawn = np.random.default_rng(0).integers(0, len(gaps), (2000, len(gaps)))
    low, high = np.percentile(gaps[drawn].mean(1), (2.5, 97.5))
    return Figure(
        value=round(float(gaps.mean()), 2), unit="points", low=round(float(low), 2), high=round(float(high), 2)
    )
