"""Importance of channels: one score per channel, the least important ones go first.

A coupled group of channels is cut in several parameters at once. Each of those slices is a *member*: the parameter with
its cut axis first and everything else flattened, a float tensor of shape (channels, rest). A score function maps one
member (or its gradient, or statistics of the activations) to scores of shape (channels,), float64; `reduce_members`
joins the members' scores, `normalize` makes the scores of different groups comparable. Higher is more important;
all scores are >= 0 (only `normalize(..., "gaussian")` gives negative ones). Every function commutes with a permutation
of the channels.

Symbols: w_c the values of channel c in a member, g_c = dL/dw_c, a_c its activation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "max", "product", "first"]
Normalization = Literal["none", "mean", "max", "gaussian", "lamp"]


def magnitude(weight: Tensor, p: Literal[1, 2] = 1) -> Tensor:
    """||w_c||_p = (sum_i |w_ci|^p)^(1/p); (channels, rest) -> (channels,).

    Reference: Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.1, for p = 1.
    """
    return torch.linalg.vector_norm(_member(weight), ord=p, dim=1)


def slice_norms(weight: Tensor, axis: int, p: Literal[1, 2]) -> Tensor:
    """The p-norm of each slice of an axis; (..., size of the axis, ...) -> (size of the axis,).

    Summed in the weight's own precision, without a copy: float32 is exact to 2e-6 for slices of ten thousand values.
    What that cannot hold is summed in float64.
    """
    rest = [at for at in range(weight.ndim) if at != axis]
    found = torch.linalg.vector_norm(weight, p, dim=rest) if rest else weight.abs()
    if not torch.isfinite(found).all():
        found = torch.linalg.vector_norm(weight.double(), p, dim=rest) if rest else found
    return _finite(found)


def gradient_magnitude(gradient: Tensor) -> Tensor:
    """sum_i |g_ci|; (channels, rest) -> (channels,). How strongly the loss reacts to a change of the channel.

    The simplest of the gradient criteria, a baseline: it ignores how large the channel is.
    """
    return _member(gradient).abs().sum(1)


def contribution(weight: Tensor, gradient: Tensor) -> Tensor:
    """sum_i w_ci g_ci, signed; (channels, rest) -> (channels,).

    To first order the loss changes by -contribution when the channel is set to zero. The contribution of a whole
    group is the sum over its members, and `taylor` of a group is the square of that sum. Behind a batch normalization
    in *training* mode it is exactly zero for the weight (the output does not depend on the weight's scale): take
    gradients in evaluation mode.
    """
    weight, gradient = _pair(weight, gradient)
    return (weight * gradient).sum(1)


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """(sum_i w_ci g_ci)^2; (channels, rest) -> (channels,).

    Reference: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), the
    joint first-order estimate of equation 8. The paper averages it over mini-batches: call it with each batch's
    gradient and take the mean; the square of the mean gradient instead lets batches cancel.
    """
    return contribution(weight, gradient).square()


def fisher(weight: Tensor, square_gradient: Tensor) -> Tensor:
    """1/2 sum_i w_ci^2 E[g_ci^2]; both (channels, rest) -> (channels,).

    Second order with the Hessian's diagonal replaced by the empirical Fisher information. `square_gradient` is the
    mean over batches of the squared gradient (of the mean loss): the smaller the batches, the closer to the Fisher
    information of single examples; the batch size scales all scores alike.

    Reference: LeCun et al. 1990, "Optimal Brain Damage"; Theis et al. 2018, "Faster gaze prediction with dense networks
    and Fisher pruning" (arXiv:1801.05787).
    """
    weight, square_gradient = _pair(weight, square_gradient)
    return 0.5 * (weight.square() * square_gradient).sum(1)


def scale_magnitude(gamma: Tensor) -> Tensor:
    """|gamma_c| of a normalization behind the channels; (channels,) or (channels, 1) -> (channels,).

    Reference: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming"
    (arXiv:1708.06519), section 3.
    """
    return magnitude(gamma.reshape(gamma.shape[0], -1))


def median_distance(weight: Tensor) -> Tensor:
    """FPGM: sum_j ||w_c - w_j||_2, small near the geometric median; (channels, rest) -> (channels,).

    A channel close to the median can be made up for by the others. Time O(channels^2 rest), memory O(channels^2).

    Reference: He et al. 2019, "Filter Pruning via Geometric Median" (arXiv:1811.00250), section 3.3.
    """
    weight = _member(weight)
    gram = weight @ weight.T
    energy = gram.diagonal()
    square = (energy[:, None] + energy[None, :] - 2.0 * gram).clamp_min(0.0)
    # What rounding leaves between equal channels would be blown up by the root: zero below its own bound.
    noise = 4.0 * weight.shape[1] * torch.finfo(weight.dtype).eps * (energy[:, None] + energy[None, :])
    return torch.where(square <= noise, 0.0, square).sqrt().sum(1)


def lamp(weight: Tensor) -> Tensor:
    """e_c / sum(e_v for all v with e_v >= e_c), e_c = sum_i w_ci^2; (channels, rest) -> (channels,), in [0, 1].

    The share of a channel among what is left once all smaller ones are gone: comparable between layers, which makes
    a global ranking choose sensible ratios per layer.

    Reference: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning" (arXiv:2010.07611), there for
    single weights. Deviation: equal energies share one denominator, so that the order of the channels does not
    matter.
    """
    return _lamp(_member(weight).square().sum(1))


def dissimilarity(weight: Tensor) -> Tensor:
    """1 - cos(w_c, w_j) to the most similar channel j that outlives c, in [0, 2]; (channels, rest) -> (channels,).

    A channel that points where another one points is redundant, whatever its size; of the two, the smaller goes and
    the other stays, judged by those that are left. An all-zero channel scores 0, the last one left 2.

    Reference: Ayinde et al. 2019, "Redundant feature pruning for accelerated inference in deep neural networks"
    (Neural Networks 118), which clusters by the same cosine and keeps one channel of each cluster. Deviation: pairs
    are taken one after the other, the most similar first, so that one order serves every ratio.
    """
    weight = _member(weight)
    norms = torch.linalg.vector_norm(weight, dim=1)
    scores = torch.zeros(len(weight), dtype=weight.dtype)
    alive = norms > 0
    unit = torch.where(alive[:, None], weight / norms.clamp_min(torch.finfo(weight.dtype).tiny)[:, None], 0.0)
    cosine = (unit @ unit.T).clamp(-1.0, 1.0).fill_diagonal_(-math.inf)
    cosine[~alive], cosine[:, ~alive] = -math.inf, -math.inf
    best, nearest = cosine.max(1)
    for _ in range(int(alive.sum()) - 1):
        one = int(best.argmax())
        other = int(nearest[one])
        gone = one if norms[one] < norms[other] else other
        scores[gone] = 1.0 - best[one]
        alive[gone] = False
        cosine[gone], cosine[:, gone] = -math.inf, -math.inf
        best[gone] = -math.inf
        orphans = (nearest == gone) & alive
        best[orphans], nearest[orphans] = cosine[orphans].max(1)
    scores[alive] = 2.0
    return scores


def random_scores(channels: int, seed: int) -> Tensor:
    """Uniform in [0, 1): the control every criterion has to beat; (channels,)."""
    return torch.rand(channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Activity(NamedTuple):
    """Sums over all examples and positions of a channel's activation; each (channels,), float64."""

    absolute: Tensor
    square: Tensor
    zeros: Tensor
    values: int
    """How many values a channel had."""

    def merge(self, other: Activity) -> Activity:
        return Activity(
            self.absolute + other.absolute,
            self.square + other.square,
            self.zeros + other.zeros,
            self.values + other.values,
        )


def activity(values: Tensor, axis: int) -> Activity:
    """The sums for one tensor of activations, whose channels lie along `axis`."""
    rows = _finite(values.movedim(axis, 0).reshape(values.shape[axis], -1))
    return Activity(rows.abs().sum(1), rows.square().sum(1), (rows == 0).sum(1).double(), rows.shape[1])


def mean_activation(seen: Activity) -> Tensor:
    """E|a_c|; (channels,).

    Reference: Molchanov et al. 2017 (arXiv:1611.06440), section 2.2, "activation".
    """
    return seen.absolute / _counted(seen)


def active_share(seen: Activity) -> Tensor:
    """1 - APoZ: the share of values that are not zero, in [0, 1]; (channels,). Meaningful behind a ReLU.

    Reference: Hu et al. 2016, "Network Trimming" (arXiv:1607.03250), equation 1.
    """
    return 1.0 - seen.zeros / _counted(seen)


def reconstruction(seen: Activity, consumers: Sequence[Tensor]) -> Tensor:
    """E[a_c^2] sum_consumers sum_i w_ci^2; (channels,).

    The energy that a channel contributes to the outputs of the layers that read it. `consumers` are members
    (channels, rest) whose channel axis is the reader's input. Exact for uncorrelated channels; it drops the cross
    terms of the reconstruction error.

    Reference: the objective of Luo et al. 2017, "ThiNet" (arXiv:1707.06342), equation 6, for one channel at a time.

    Raises:
        ValueError: no consumer, or one with another number of channels.
    """
    if not consumers:
        raise ValueError("reconstruction needs the weight of at least one layer that reads the channels")
    energy = reduce_members([_member(weight).square().sum(1) for weight in consumers], "sum")
    if energy.shape != seen.square.shape:
        raise ValueError(f"consumers have {energy.shape[0]} channels, the activations {seen.square.shape[0]}")
    return seen.square / _counted(seen) * energy


def reduce_members(scores: Sequence[Tensor], how: Reduction) -> Tensor:
    """One score per channel of a group from the scores of its members, each (channels,) -> (channels,).

    "sum", "mean", "max" and "product" over the members; "first" takes the first member alone, by convention the
    layer that makes the channels. Members differ in how many values a channel has: with "sum" and "max" large members
    weigh more.

    Reference: Fang et al. 2023, "DepGraph" (arXiv:2301.12900), for the sum.

    Raises:
        ValueError: no members, or of different lengths.
    """
    if not scores:
        raise ValueError("a group needs the scores of at least one member")
    sizes = {tuple(score.shape) for score in scores}
    if len(sizes) > 1 or scores[0].ndim != 1:
        raise ValueError(f"the members' scores must all have one shape (channels,), got {sorted(sizes)}")
    stacked = torch.stack([_finite(score) for score in scores])
    match how:
        case "sum":
            return stacked.sum(0)
        case "mean":
            return stacked.mean(0)
        case "max":
            return stacked.amax(0)
        case "product":
            return stacked.prod(0)
        case "first":
            return stacked[0]


def normalize(scores: Tensor, how: Normalization) -> Tensor:
    """Scores of one group made comparable with those of others; (channels,) -> (channels,). The order stays.

    "none"      s_c
    "mean"      s_c / mean(s)
    "max"       s_c / max(s)
    "gaussian"  (s_c - mean(s)) / std(s), population std; below the mean negative
    "lamp"      s_c / sum(s_v for all v with s_v >= s_c), see `lamp`

    A group whose divisor is zero (all scores zero; for "gaussian", all equal) gets zeros.
    """
    scores = _finite(scores)
    match how:
        case "none":
            return scores
        case "mean":
            return _over(scores, scores.mean())
        case "max":
            return _over(scores, scores.amax())
        case "gaussian":
            return _over(scores - scores.mean(), scores.std(correction=0) if scores.unique().numel() > 1 else None)
        case "lamp":
            return _lamp(scores)


def _over(scores: Tensor, divisor: Tensor | None) -> Tensor:
    return scores / divisor if divisor is not None and float(divisor) > 0 else torch.zeros_like(scores)


def _lamp(energy: Tensor) -> Tensor:
    order = energy.argsort(descending=True)
    ranked = energy[order]
    # Of equal energies all count: the running total at the last one of them.
    last = torch.searchsorted(-ranked, -ranked, right=True) - 1
    total = ranked.cumsum(0)[last]
    share = torch.where(total > 0, ranked / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
    return torch.empty_like(energy).index_copy_(0, order, share)


def _counted(seen: Activity) -> int:
    if seen.values == 0:
        raise ValueError("no activation has been seen: the data gave no values")
    return seen.values


def _pair(weight: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if weight.shape != other.shape:
        raise ValueError(f"weight {tuple(weight.shape)} and gradient {tuple(other.shape)} must have one shape")
    return _member(weight), _member(other)


def _member(values: Tensor) -> Tensor:
    if values.ndim != 2 or math.prod(values.shape) == 0:
        raise ValueError(f"a member has the shape (channels, rest), neither zero; got {tuple(values.shape)}")
    return _finite(values)


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise ValueError("scores need finite values, got NaN or infinite ones")
    return values.detach().double()
