"""Blocks of weights that go together: R outputs by C inputs, for a convolution at every position of its kernel.

A layer's weight (out, in, *kernel) is laid out as a matrix (out, kernel * in), in which the inputs of one position are
neighbours; blocks are its tiles. A block's score is the sum of the scores of its weights. Of equal ones the earlier
goes first, so that the number of zeros is exact.

Reference: Narang, Undersander and Diamos 2017, "Block-Sparse Recurrent Neural Networks" (arXiv:1711.02782); Gray,
Radford and Kingma 2017, "GPU Kernels for Block-Sparse Weights". "4x1", outputs by inputs, is what kernels for
processors with VNNI take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from lissom.functional.nm import Pattern, by_inputs
from lissom.functional.sparsity import keep_largest, keep_largest_in_rows, swept

FORM = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Block:
    """`rows` outputs by `columns` inputs."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def area(self) -> int:
        return self.rows * self.columns

    def held_by(self, weight: Tensor, zeros: int) -> bool:
        """Whether whole blocks of `weight` (out, in, *kernel) hold at least `zeros` zeros."""
        rows = by_positions(weight)
        if rows.shape[0] % self.rows or weight.shape[1] % self.columns:
            return False
        return int((tiles(rows.ne(0).float(), self) == 0).sum()) * self.area >= zeros


def pattern_of(text: str) -> Pattern | Block:
    """
    Raises:
        ValueError: the text is neither "N:M" with 0 < N < M nor "RxC" with more than one weight.
    """
    found = FORM.fullmatch(text)
    if found is None:
        return Pattern.parse(text)
    made = Block(int(found[1]), int(found[2]))
    if made.area < 2:
        raise ValueError(f"{text!r} is no block: write outputs by inputs, as '4x1' or '1x16', two weights at least")
    return made


def by_positions(weight: Tensor) -> Tensor:
    """(out, in, *kernel) as (out, kernel * in); `nm.as_weight` is the way back."""
    return by_inputs(weight).reshape(len(weight), -1)


def tiles(scores: Tensor, block: Block) -> Tensor:
    """Sums of the blocks of `scores` (rows, n): (rows / R, n / C)."""
    rows, n = scores.shape
    return scores.reshape(rows // block.rows, block.rows, n // block.columns, block.columns).sum((1, 3))


def keep_blocks(scores: Tensor, block: Block, gone: int) -> Tensor:
    """Mask of the shape of `scores` (rows, n), False for the `gone` blocks with the lowest sums."""
    return _spread(keep_largest(tiles(scores, block), gone), block)


def keep_blocks_in_rows(scores: Tensor, block: Block, gone: int) -> Tensor:
    """The same within every row of blocks: `gone` of each."""
    return _spread(keep_largest_in_rows(tiles(scores, block), gone), block)


def sparse_gpt_blocks(
    weight: Tensor, moments: Tensor, block: Block, gone: int, *, width: int = 128, damping: float = 0.01
) -> Tensor:
    """As `lissom.functional.sparsity.sparse_gpt`, with `gone` blocks of zeros: the blocks of `width` columns are chosen
    by the sums of their weights' costs, when the first of these columns is reached."""
    n = weight.shape[1]
    whole = max(1, width // block.columns) * block.columns

    def keep(cost: Tensor, start: int) -> Tensor:
        return keep_blocks(cost, block, gone * (start + cost.shape[1]) // n - gone * start // n)

    return swept(weight, moments, keep, span=whole, block=whole, damping=damping)


def _spread(mask: Tensor, block: Block) -> Tensor:
    return mask.repeat_interleave(block.rows, 0).repeat_interleave(block.columns, 1)
