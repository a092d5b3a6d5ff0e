"""N:M patterns: of every M inputs in a row, N weights stay.

The M are neighbours along the input axis, which is where sparse tensor cores look: for a convolution at every position
of its kernel apart. A layer's weight (out, in, *kernel) is therefore laid out as a matrix (out * kernel, in), or, where
whole rows are needed, as (out, kernel * in); both have M neighbouring columns in a group.

Reference: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv:2104.08378), for 2:4; Zhou et al. 2021,
"Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch" (arXiv:2102.04010), for any N:M.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

FORM = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Pattern:
    """`n` of every `m` inputs stay."""

    n: int
    m: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        Raises:
            ValueError: the text is no "N:M" with 0 < N < M.
        """
        found = FORM.fullmatch(text)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(
                f"{text!r} is no pattern: write 'N:M', of every M inputs N stay, with 0 < N < M; '2:4' is what sparse "
                "tensor cores take. Blocks of outputs by inputs are written '4x1'"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def zeros(self, size: int) -> int:
        """How many of `size` weights go."""
        return size // self.m * (self.m - self.n)

    def held_by(self, weight: Tensor) -> bool:
        """Whether `weight` (out, in, *kernel) has at most N in every group; False where groups do not fit."""
        rows = by_inputs(weight)
        if rows.shape[1] % self.m:
            return False
        return bool((rows.reshape(len(rows), -1, self.m).count_nonzero(2) <= self.n).all())


def by_inputs(weight: Tensor) -> Tensor:
    """(out, in, *kernel) as (out * kernel, in)."""
    return weight.movedim(1, -1).reshape(-1, weight.shape[1])


def as_weight(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The way back from `by_inputs`, also with the positions of an output in one row."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def kernel_first(shape: tuple[int, ...]) -> Tensor:
    """Columns of a row (in, *kernel), flattened, in the order (*kernel, in): what makes groups neighbours."""
    size = torch.Size(shape[1:]).numel()
    return torch.arange(size).reshape(shape[1], -1).T.flatten()


def keep_n_of_m(scores: Tensor, pattern: Pattern) -> Tensor:
    """Mask of the shape of `scores` (rows, columns), True for the N largest of every M; of equals the later stay."""
    groups = scores.reshape(len(scores), -1, pattern.m)
    gone = groups.argsort(dim=2, stable=True)[:, :, : pattern.m - pattern.n]
    return torch.ones(groups.shape, dtype=torch.bool).scatter_(2, gone, False).reshape(scores.shape)


def kept(scores: Tensor, pattern: Pattern) -> float:
    """Sum of the scores (rows, columns) that the pattern keeps."""
    groups = scores.reshape(len(scores), -1, pattern.m)
    return float(groups.topk(pattern.n, dim=2).values.double().sum())
