"""Which single weights become zero, and what the others become.

A layer's weight is seen as a matrix (rows, n): one row per output, n inputs. For a convolution those are the values
under its kernel (n = in / groups * kernel), see `patches`; a grouped one is one such matrix per group. Of equal scores
the earlier weight goes first, so that the number of zeros is exact.

Magnitude   |W_ij|                     Han et al. 2015 (arXiv:1506.02626)
Gradient    |W_ij dL/dW_ij|            Lee et al. 2019, "SNIP" (arXiv:1810.02340), equation 6
Wanda       |W_ij| ||X_j||_2           Sun et al. 2023 (arXiv:2306.11695), equation 1; compared within a row
SparseGPT   W_ij^2 / [H^-1]_jj         Frantar and Alistarh 2023 (arXiv:2301.00774); see `sparse_gpt`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.functional.nm import Pattern, keep_n_of_m

SLACK = 1e-9
"""Weights: what 0.7 * 10 may be off by in floating point."""


def zeros_of(ratio: float, size: int) -> int:
    """How many of `size` weights become zero: the share `ratio`, rounded down."""
    return math.floor(ratio * size + SLACK)


def support(weight: Tensor) -> Tensor | None:
    """Where a matrix or kernel that was pruned is not zero; None for any other.

    Training does not produce exact zeros, and a layer that begins at zero is zero as a whole: what is partly zero was
    pruned.
    """
    alive = weight.detach() != 0
    return alive if weight.ndim > 1 and bool(alive.any()) and not bool(alive.all()) else None


def keep_largest(scores: Tensor, zeros: int) -> Tensor:
    """Mask of the shape of `scores`, False for the `zeros` lowest ones."""
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(stable=True)[:zeros]] = False
    return mask.reshape(scores.shape)


def keep_largest_in_rows(scores: Tensor, zeros: int) -> Tensor:
    """The same within every row of `scores` (rows, n): `zeros` of each."""
    mask = torch.ones(scores.shape, dtype=torch.bool)
    return mask.scatter_(1, scores.argsort(dim=1, stable=True)[:, :zeros], False)


def zeros_by_layer(scores: Mapping[str, Tensor], ratio: float, most: float) -> dict[str, int]:
    """How many weights each layer loses when all compete in one ranking; none loses more than the share `most`.

    Together they lose the share `ratio` (<= most) of all weights.
    """
    racing = [s.flatten().sort(stable=True).values[: zeros_of(most, s.numel())] for s in scores.values()]
    owners = torch.cat([torch.full((len(r),), i, dtype=torch.int32) for i, r in enumerate(racing)])
    total = zeros_of(ratio, sum(s.numel() for s in scores.values()))
    gone = owners[torch.cat(racing).argsort(stable=True)[:total]]
    return dict(zip(scores, torch.bincount(gone, minlength=len(racing)).tolist(), strict=True))


def wanda_scores(weight: Tensor, energy: Tensor) -> Tensor:
    """|W_ij| ||X_j||; weight (rows, n), energy (n,) the squared norms of the inputs."""
    return weight.abs() * energy.sqrt()


def sparse_gpt(weight: Tensor, moments: Tensor, zeros: int, *, block: int = 128, damping: float = 0.01) -> Tensor:
    """The weight with `zeros` zeros, the others moved so that the layer's outputs change least; (rows, n), float64.

    For every row the squared error of the outputs is (w - w')' H (w - w') with the Hessian H = X X' (`moments`, of any
    scale). Columns are visited from left to right. Zeroing w_j costs w_j^2 / [H_F^-1]_jj and is made up for by

        w_F <- w_F - w_j / [H_F^-1]_jj * [H_F^-1]_{:,j}         F: column j and all to the right of it

    which all rows share: row j of the upper Cholesky factor of H^-1 is [H_F^-1]_{j,:} / sqrt([H_F^-1]_jj). The mask is
    chosen for `block` columns at a time, by that cost, over all rows of the block together.

    Reference: Frantar and Alistarh 2023, "SparseGPT" (arXiv:2301.00774), algorithm 1; H gets `damping` times its mean
    diagonal added. Deviations: every block gets its exact part of `zeros`; an input that never was anything but zero
    puts its weights first in line instead of always zeroing them, so that the number of zeros is the one asked for.
    """
    n = weight.shape[1]

    def keep(cost: Tensor, start: int) -> Tensor:
        return keep_largest(cost, zeros * (start + cost.shape[1]) // n - zeros * start // n)

    return swept(weight, moments, keep, span=block, block=block, damping=damping)


def sparse_gpt_pattern(
    weight: Tensor, moments: Tensor, pattern: Pattern, *, block: int = 128, damping: float = 0.01
) -> Tensor:
    """As `sparse_gpt`, with at most N weights in every M neighbouring columns: the mask of a group is chosen, row by
    row, when its first column is reached, from weights that already make up for what went before (section 3.3)."""

    def keep(cost: Tensor, _: int) -> Tensor:
        return keep_n_of_m(cost, pattern)

    whole = max(1, block // pattern.m) * pattern.m
    return swept(weight, moments, keep, span=pattern.m, block=whole, damping=damping)


def swept(
    weight: Tensor,
    moments: Tensor,
    keep: Callable[[Tensor, int], Tensor],
    *,
    span: int,
    block: int,
    damping: float,
) -> Tensor:
    """Columns from left to right; `keep` chooses the mask of `span` of them from the costs (rows, span) and the first
    one's number. Updates outside a block of columns are made once per block."""
    n = weight.shape[1]
    left = weight.detach().double().clone()
    hessian = moments.double().clone()
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    diagonal[dead] = 1.0
    diagonal += damping * diagonal[~dead].mean() if not dead.all() else 0.0
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    for start in range(0, n, block):
        stop = min(start + block, n)
        now, own = left[:, start:stop], factor[start:stop, start:stop]
        kept = torch.ones_like(now, dtype=torch.bool)
        errors = torch.zeros_like(now)
        for j in range(stop - start):
            if j % span == 0:
                some = slice(j, min(j + span, stop - start))
                cost = (now[:, some] / own.diagonal()[some]).square()
                cost[:, dead[start:stop][some]] = 0.0
                kept[:, some] = keep(cost, start + j)
            gone = torch.where(kept[:, j], 0.0, now[:, j])
            errors[:, j] = gone / own[j, j]
            now[:, j:] -= torch.outer(errors[:, j], own[j, j:])
            now[~kept[:, j], j] = 0.0
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return left


def patches(
    values: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """What every output of a convolution sees: (groups, positions, in / groups * kernel).

    `values` is its input (batch, in, *sizes) or (in, *sizes), for any number of sizes; `padding` pads with zeros, on
    both sides or as `"same"` and `"valid"` do.
    """
    dims = len(kernel)
    values = values.unsqueeze(0) if values.ndim == dims + 1 else values
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        sides = [((s - 1) // 2, s - 1 - (s - 1) // 2) if padding == "same" else (0, 0) for s in spans]
    else:
        sides = [(p, p) for p in padding]
    values = F.pad(values, [size for side in reversed(sides) for size in side])
    for axis, (span, step, gap) in enumerate(zip(spans, stride, dilation, strict=True)):
        values = values.unfold(2 + axis, span, step)[..., ::gap]
    # (batch, in, *positions, *kernel) -> (batch, *positions, in, *kernel)
    values = values.movedim(1, 1 + dims)
    positions = math.prod(values.shape[: 1 + dims])
    return values.reshape(positions, groups, -1).movedim(1, 0)
