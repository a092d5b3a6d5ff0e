"""One weight made sparse, from what its criterion knows. Formulas: `lissom.functional.sparsity`, `.nm`, `.blocks`."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor

from lissom.functional import blocks as tiled
from lissom.functional import sparsity as maths
from lissom.functional.blocks import Block
from lissom.functional.nm import Pattern, as_weight, by_inputs, keep_n_of_m, kernel_first

Criterion = Literal["magnitude", "gradient", "wanda", "sparsegpt"]
BY_INPUTS: tuple[Criterion, ...] = ("wanda", "sparsegpt")
"""Criteria that look at what a layer reads, without labels."""


def scores_of(weight: Tensor, criterion: Criterion, seen: Tensor | None) -> Tensor:
    """What the criterion gives every weight, of its shape.

    `seen` are the scores themselves for "gradient", and squared norms of the inputs (groups, n) for those that look at
    them: what SparseGPT's own scores are depends on which weights went before.
    """
    weight = weight.detach().float()
    if criterion == "magnitude" or seen is None:
        return weight.abs()
    if criterion == "gradient":
        return seen
    # seen has one entry per group; the rows of a group follow each other.
    parts = weight.flatten(1).chunk(len(seen))
    return torch.cat([maths.wanda_scores(part, own) for part, own in zip(parts, seen, strict=True)]).reshape(
        weight.shape
    )


def sparse(weight: Tensor, criterion: Criterion, seen: Tensor | None, zeros: int) -> Tensor:
    """The weight with `zeros` zeros anywhere; for "wanda" the same number in every row. `seen` of "sparsegpt" are whole
    matrices (groups, n, n)."""
    if criterion == "sparsegpt" and seen is not None:
        due = [zeros * i // len(seen) for i in range(len(seen) + 1)]
        made = [
            maths.sparse_gpt(part, own, stop - start)
            for part, own, (start, stop) in zip(_rows(weight, seen), seen, itertools.pairwise(due), strict=True)
        ]
        return torch.cat(made).reshape(weight.shape).to(weight.dtype)
    scores = scores_of(weight, criterion, seen)
    if criterion == "wanda":
        return weight * maths.keep_largest_in_rows(scores.flatten(1), zeros // len(weight)).reshape(weight.shape)
    return weight * maths.keep_largest(scores, zeros)


def patterned(weight: Tensor, criterion: Criterion, seen: Tensor | None, pattern: Pattern) -> Tensor:
    """The weight with N of every M inputs, of a convolution at every position of its kernel. `seen` as for `sparse`."""
    if criterion == "sparsegpt" and seen is not None:
        order = kernel_first(tuple(weight.shape))
        made = [
            maths.sparse_gpt_pattern(part[:, order], own[order][:, order], pattern)
            for part, own in zip(_rows(weight, seen), seen, strict=True)
        ]
        return torch.cat(made)[:, order.argsort()].reshape(weight.shape).to(weight.dtype)
    mask = keep_n_of_m(by_inputs(scores_of(weight, criterion, seen)), pattern)
    return weight * as_weight(mask, tuple(weight.shape))


def blocked(weight: Tensor, criterion: Criterion, seen: Tensor | None, block: Block, zeros: int) -> Tensor:
    """The weight with `zeros` zeros in whole blocks; for "wanda" as many in each row of them. `seen`: see `sparse`."""
    shape, gone = tuple(weight.shape), zeros // block.area
    if criterion == "sparsegpt" and seen is not None:
        order = kernel_first(shape)
        due = [gone * i // len(seen) for i in range(len(seen) + 1)]
        made = [
            tiled.sparse_gpt_blocks(part[:, order], own[order][:, order], block, stop - start)
            for part, own, (start, stop) in zip(_rows(weight, seen), seen, itertools.pairwise(due), strict=True)
        ]
        return as_weight(torch.cat(made), shape).to(weight.dtype)
    scores = tiled.by_positions(scores_of(weight, criterion, seen))
    if criterion == "wanda":
        mask = tiled.keep_blocks_in_rows(scores, block, gone * block.rows // len(weight))
    else:
        mask = tiled.keep_blocks(scores, block, gone)
    return weight * as_weight(mask, shape)


def _rows(weight: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
    return weight.detach().float().flatten(1).chunk(len(seen))
