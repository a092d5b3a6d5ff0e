"""Penalties that make coupled channels small while a network is trained, so that cutting them costs little.

A channel is everything that is cut with it: slices of several parameters. Its energy is the sum of their squares, its
norm the root of that. Energies are gathered in two steps, both linear in the weights: the squares of every parameter
are summed along its cut axes into one vector of positions, and positions are added up by channel. Where the channels
lie is prepared once (`Layout`).

Symbols: e_c the energy of channel c, n_c the number of its weights, s_c its strength, g(c) its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RISE = 4.0
"""The exponent of Fang et al. 2023: the weakest channel of a group is pulled 2^4 times as hard as the best."""


class Layout(NamedTuple):
    """Where channels lie in the vector of `position_energies`. Channels of all groups are numbered in one row."""

    source: Tensor
    """(places,) positions, int64."""
    owner: Tensor
    """(places,) the channel that each of them belongs to."""
    weights: Tensor
    """(channels,) n_c, float."""
    group: Tensor
    """(channels,) the number of its group."""
    groups: int


def position_energies(parameters: Sequence[tuple[Tensor, Sequence[int]]]) -> Tensor:
    """Sums of squares over everything but one axis, for every axis named, one after the other; float32 at least."""
    found: list[Tensor] = []
    for parameter, axes in parameters:
        half = parameter.dtype in (torch.float16, torch.bfloat16)
        square = (parameter.float() if half else parameter).square()
        for axis in axes:
            others = [a for a in range(square.ndim) if a != axis]
            found.append(square.sum(others) if others else square)
    return torch.cat(found)


def channel_energies(positions: Tensor, layout: Layout) -> Tensor:
    """e_c; (positions,) -> (channels,)."""
    taken = positions.index_select(0, layout.source)
    return positions.new_zeros(len(layout.weights)).index_add(0, layout.owner, taken)


def root(energies: Tensor) -> Tensor:
    """sqrt(e_c), with the subgradient 0 where a channel is zero."""
    alive = energies > 0
    return torch.where(alive, torch.where(alive, energies, 1.0).sqrt(), 0.0)


def group_lasso(energies: Tensor, weights: Tensor, strengths: Tensor | float) -> Tensor:
    """sum_c s_c sqrt(n_c e_c). Its gradient for a weight w of channel c is s_c sqrt(n_c) w / sqrt(e_c).

    With the factor sqrt(n_c) a weight of average size is pulled with s_c, however many a channel has; a channel of one
    weight gives s_c |w|, the L1 penalty.

    References: Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables", equation 2.3,
    for the factor; Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks" (arXiv:1608.03665),
    equation 3; for one weight per channel Liu et al. 2017, "Network Slimming" (arXiv:1708.06519), equation 1.
    """
    return (strengths * weights.sqrt() * root(energies)).sum()


def rising(energies: Tensor, layout: Layout, exponent: float = RISE) -> Tensor:
    """2^(alpha (max I - I_c) / (max I - min I)), max and min over the group, I_c = sqrt(e_c); no gradient.

    1 for the largest channel of a group, 2^alpha for the smallest; all 1 where they are equal.

    Reference: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv:2301.12900), section 3.3, equation 6.
    Deviations: I_c is the norm, there its square; it is used with `group_lasso`, there with the sum of squares.
    """
    size = energies.detach().sqrt()
    most = size.new_zeros(layout.groups).scatter_reduce(0, layout.group, size, "amax", include_self=False)
    least = size.new_zeros(layout.groups).scatter_reduce(0, layout.group, size, "amin", include_self=False)
    span = (most - least)[layout.group]
    below = torch.where(span > 0, (most[layout.group] - size) / torch.where(span > 0, span, 1.0), 0.0)
    return torch.exp2(exponent * below)


def weighted_decay(energies: Tensor, strengths: Tensor) -> Tensor:
    """1/2 sum_c s_c e_c. Its gradient for a weight w of channel c is s_c w: weight decay, stronger for some."""
    return 0.5 * (strengths * energies).sum()


def grown(step: int, steps: int, every: int, peak: float) -> float:
    """peak (floor(t / N) + 1) / ceil(T / N): a strength that grows every N steps and ends at `peak`.

    Reference: Wang et al. 2021, "Neural Pruning via Growing Regularization" (arXiv:2012.09243), section 3.2 (GReg-1).
    Deviation: there the increment is given and the ceiling is reached early; here the increment follows from the length
    of the training, so that the whole of it is used.
    """
    periods = -(-steps // every)
    return peak * min(step // every + 1, periods) / periods
