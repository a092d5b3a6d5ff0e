"""What a student's inner values cost beside a teacher's. Pure functions of maps `(n, c, positions)`.

S student's, A teacher's; |.| the Euclidean norm; all are means over the n examples.

    hint          |S - A|^2 / |A|^2                        Romero et al. 2015 (arXiv:1412.6550), equation 3
    attention     |u(sum_c S^2) - u(sum_c A^2)|^2 / 2      Zagoruyko and Komodakis 2017 (arXiv:1612.03928), equation 2
    selectivity   MMD^2(S, A) / MMD^2(0, A)                Huang and Wang 2017 (arXiv:1707.01219), equations 5, 8
    flow          |G(S) - G(A)|^2 / |G(A)|^2               Yim et al. 2017, equations 1, 2
    context       sum_l w_l mse_l(S, A) / sum_l w_l / mse(0, A)    Chen et al. 2021 (arXiv:2104.09044), section 3.4
    similarity    |u(S S^T) - u(A A^T)|^2 / 2, by rows     Tung and Mori 2019 (arXiv:1907.09682), equations 2 to 4
    distances, angles    Huber of relations                Park et al. 2019 (arXiv:1904.05068), equations 4 to 9

u(x) = x / |x|. G = X Y^T / positions, between two places of one network. MMD is between the channels of both, each a
unit vector over the positions, with the kernel k(x, y) = (x^T y)^2.

The papers leave the scale to a weight that ranges from 0.02 to 30000. Here every loss is relative: 0 for the teacher's
own values, 1 for zeros (hint, selectivity, flow; at most 1: context) or for patterns that have nothing in common
(attention, similarity), at most about 1 for relations. So a weight of 1 means the same for all of them, whatever the
size of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (4, 2, 1)
"""Rows and columns that `context` averages maps down to."""
TINY = 1e-6
"""Norm below which a vector has no direction."""


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Share of the teacher's values that the student's (of the same shape) leave unexplained."""
    return _relative(student, teacher)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine between the energies at each position; any number of channels."""
    return _half_distance(_unit(student.square().sum(1), 1), _unit(teacher.square().sum(1), 1), 1)


def selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance between the sets of channels, each the pattern that it answers to; any number of channels."""
    left, right = _unit(student, 2), _unit(teacher, 2)
    own, given, between = _kernel(left, left), _kernel(right, right), _kernel(left, right)
    return ((own + given - 2 * between) / (given + TINY)).mean()


def flow(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Each a pair `(n, c1, positions)`, `(n, c2, positions)`: the products of channels before and after."""
    return _relative(_products(*student), _products(*teacher))


def context(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of maps `(n, c, h, w)` or `(n, c, t)` of one shape: squared error at full size and of
    averages over 4x4, 2x2 and 1x1 fields, with weights 1, 1/2, 1/4, 1/8; scales as large as the map are left out.

    Averages never have more energy than the map: for a student of zeros it is at most 1.
    """
    student, teacher = (x if x.ndim == 4 else x[:, :, None] for x in (student, teacher))
    error = (student - teacher).flatten(1).square().mean(1)
    size, total, weight = teacher.shape[2:], 1.0, 1.0
    for scale in SCALES:
        fields = (min(scale, size[0]), min(scale, size[1]))
        if fields == tuple(size):
            continue
        weight /= 2
        total += weight
        error = error + weight * F.adaptive_avg_pool2d(student - teacher, fields).flatten(1).square().mean(1)
    return (error / total / (teacher.flatten(1).square().mean(1) + TINY**2)).mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Which examples of the batch look alike: cosine distance between the rows of both `(n, n)` products."""
    return _half_distance(_unit(_alike(student), 1), _unit(_alike(teacher), 1), 1)


def distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Distances between examples, relative to their mean. Zero for a single example."""
    if len(student) < 2:
        return student.sum() * 0.0
    return F.smooth_l1_loss(_spread(student.flatten(1)), _spread(teacher.flatten(1)))


def angles(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines of the angles that three examples make, over all n (n - 1) (n - 2) of them. Zero for fewer."""
    if len(student) < 3:
        return student.sum() * 0.0
    return F.smooth_l1_loss(_corners(student.flatten(1)), _corners(teacher.flatten(1)))


def _relative(student: Tensor, teacher: Tensor) -> Tensor:
    size = teacher.flatten(1).square().sum(1)
    return ((student - teacher).flatten(1).square().sum(1) / (size + TINY**2)).mean()


def _half_distance(left: Tensor, right: Tensor, axis: int) -> Tensor:
    """Of unit vectors: one minus their cosine."""
    return 0.5 * (left - right).square().sum(axis).mean()


def _unit(values: Tensor, axis: int) -> Tensor:
    return values * torch.rsqrt(values.square().sum(axis, keepdim=True) + TINY**2)


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """`(n,)` mean of k over all pairs of channels."""
    return (left @ right.transpose(1, 2)).square().mean((1, 2))


def _products(before: Tensor, after: Tensor) -> Tensor:
    """`(n, c1, c2)`."""
    return before @ after.transpose(1, 2) / before.shape[2]


def _alike(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    return flat @ flat.T


def _spread(points: Tensor) -> Tensor:
    """`(n (n - 1) / 2,)` distances of pairs over their mean."""
    found = F.pdist(points)
    return found / (found.mean() + TINY)


def _corners(points: Tensor) -> Tensor:
    """`(n (n - 1) (n - 2),)` cosines at j of the ways to i and to k, from products alone: no (n, n, width) is made."""
    centred = points - points.mean(0)
    products = centred @ centred.T
    own = products.diagonal()
    length = ((own[:, None] + own[None] - 2 * products).clamp_min(0) + TINY**2).sqrt()
    # [j, i, k]: (p_i - p_j) (p_k - p_j)
    inner = products[None] - products[:, :, None] - products[:, None, :] + own[:, None, None]
    cosines = inner / (length[:, :, None] * length[:, None, :])
    different = ~torch.eye(len(points), dtype=torch.bool, device=points.device)
    return cosines[different[:, :, None] & different[:, None, :] & different[None]]
