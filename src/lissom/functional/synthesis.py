"""What makes inputs worth learning from, where there are no data: losses of a synthesizer, and signs of its collapse.

Symbols: t the teacher's logits `(n, c)`, p = softmax(t), z the student's logits, f what the last layer reads, x inputs.

    confidence      mean_n -log max_c p                               Chen et al. 2019 (arXiv:1904.01186), L_oh
    imbalance       sum_c m log m, m = mean_n p                       the same, L_ie: minus the information entropy
    activation      -mean |f|                                         the same, L_a, a mean where it has a sum over f
    statistics      sum_layers |mean - mean_l| + |var - var_l|        Yin et al. 2020 (arXiv:1912.08795), R_feature
    roughness       mean |x_i - x_j| over neighbours                  the same, R_TV (there squared)
    size            mean x^2                                          the same, R_l2 (there a norm)
    disagreement    mean |z - t|                                      Fang et al. 2019 (arXiv:1912.11006), discrepancy

A synthesizer makes the first six small and, where it is adversarial, log(1 + disagreement) large: the logarithm keeps
one pair of far logits from drowning the other losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def confidence(logits: Tensor, wanted: Tensor | None = None) -> Tensor:
    """Cross-entropy against the likeliest class: 0 where the teacher is certain of every example, at most log c.

    Args:
        wanted: classes `(n,)` to be certain of instead (Yin et al. 2020, equation 1); then there is no bound.
    """
    return F.cross_entropy(logits, logits.argmax(1) if wanted is None else wanted)


def imbalance(logits: Tensor) -> Tensor:
    """sum_c m log m of the mean probabilities m, from -log c (all classes equally often) to 0 (one class)."""
    mean = torch.softmax(logits, 1).mean(0)
    return torch.special.entr(mean).sum().neg()


def activation(features: Tensor) -> Tensor:
    """-mean |f| of `(n, ...)`: real inputs excite the filters more than noise does."""
    return features.abs().mean().neg()


def statistics(
    values: Sequence[Tensor], means: Sequence[Tensor], variances: Sequence[Tensor], scaled: bool = True
) -> Tensor:
    """How far moments over batch and positions are from those that normalizations remember; a mean over the layers.

    Args:
        values: what each normalization was given, `(n, c, *positions)`.
        means, variances: its running ones, `(c,)`.
        scaled: divide by |mean_l| + |sd_l| and |var_l|, so that every layer counts alike; else the plain norms.
    """
    found: list[Tensor] = []
    for value, mean, variance in zip(values, means, variances, strict=True):
        axes = [axis for axis in range(value.ndim) if axis != 1]
        spread, middle = torch.var_mean(value, axes, correction=0)
        far, wide = (middle - mean).norm(), (spread - variance).norm()
        if scaled:
            far, wide = far / (mean.norm() + variance.sum().sqrt()), wide / variance.norm()
        found.append(far + wide)
    return torch.stack(found).mean()


def roughness(images: Tensor) -> Tensor:
    """Total variation of `(n, c, *positions)`: mean |difference| of neighbours, a mean over the axes of positions."""
    steps = [images.diff(dim=axis).abs().mean() for axis in range(2, images.ndim) if images.shape[axis] > 1]
    return torch.stack(steps).mean() if steps else images.new_zeros(())


def size(inputs: Tensor) -> Tensor:
    """mean x^2."""
    return inputs.square().mean()


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """mean |z - t|, over examples and classes."""
    return (student - teacher).abs().mean()


def warped(images: Tensor, moves: Tensor) -> Tensor:
    """Images `(n, c, h, w)` under affine maps `I + moves`, `(n, 2, 3)`, of coordinates in [-1, 1]; edges go on outside.

    Bilinear; a move of (0, 0, 2 / w) in the first row shifts by one pixel to the left.
    """
    maps = torch.eye(2, 3, dtype=images.dtype, device=images.device) + moves
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def in_turns(classes: Tensor) -> Tensor:
    """The order that takes one example of every class `(n,)` in turns, as long as there are some."""
    earlier = (classes[:, None] == classes).tril(-1).sum(1)
    return earlier.argsort(stable=True)


def balance(classes: Tensor, count: int) -> float:
    """Entropy of the histogram of `(n,)` class indices over `count` classes, of the largest that n allow: in [0, 1].

    n examples can fill min(n, count) classes.
    """
    share = torch.bincount(classes, minlength=count).double() / len(classes)
    most = math.log(min(len(classes), count))
    return float(torch.special.entr(share).sum()) / most if most else 1.0


def spread(inputs: Tensor) -> float:
    """Mean distance between two of `(n, ...)` examples, of the root mean square of an example: 0 where all are one.

    sqrt(2) for independent examples around zero. Computed for all pairs.
    """
    flat = inputs.reshape(len(inputs), -1).double()
    scale = flat.square().sum(1).mean().sqrt()
    if len(flat) < 2 or not scale:
        return 0.0
    return float(torch.pdist(flat).mean() / scale)
