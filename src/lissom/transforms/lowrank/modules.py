"""Layers that compute with cores. The cores are plain layers; what is here only reshapes between them.

Every core is an `nn.Conv*d`, `nn.Linear` or `nn.Embedding` of its own, so that integers, pruning and runtimes take it
as any other. Outside of tracing, a linear layer or a table contracts its cores in the cheapest order for the number of
rows at hand (`functional.contraction`). A traced program has its order for every batch size: core by core, which keeps
the file as small as the cores are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.functional.contraction import Size, cheapest, merged_size, runs
from lissom.functional.tensortrain import merged


class ChainLinear(nn.Sequential):
    """A linear layer, (..., ins) to (..., outs), as cores (r_{k-1}, ok, ik, rk): Tensor-Train, ring or Kronecker.

    Part k goes from r_{k-1} ik to ok rk values; the first of a ring makes r_0 of everything, the last one reads them.
    With the digits behind as its length, part k is an `nn.Conv1d` of one position and what it makes is what the next
    one reads, with nothing to be moved; behind the last one nothing is left, and it is an `nn.Linear`.
    """

    def __init__(self, sizes: Sequence[Size], *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__(*(_product(sizes, k, dtype) for k in range(len(sizes))))
        self.sizes = tuple(sizes)
        self.out_features = prod(size.outs for size in sizes)
        self.in_features = prod(size.ins for size in sizes)
        self.bias = nn.Parameter(torch.empty(self.out_features, dtype=dtype)) if bias else None

    def forward(self, input: Tensor) -> Tensor:
        around = self.sizes[0].left
        way = _way(self.sizes, input.shape[:-1], lookup=False)
        sizes = [merged_size([self.sizes[k] for k in run]) for run in way]
        behind = self.in_features // sizes[0].ins
        state = input.reshape(-1, sizes[0].ins, behind)  # (rows and outputs so far, rank and digit, digits behind)
        made = around
        for run, size, after in zip(way, sizes, sizes[1:], strict=False):
            state = self[run[0]](state) if len(run) == 1 else torch.matmul(self._matrix(run), state)
            made *= size.outs
            behind //= after.ins
            state = state.reshape(-1, size.right * after.ins, behind)
        if around > 1:
            state = state.reshape(-1, around, made // around, state.shape[1]).transpose(1, 2)
        run = way[-1]
        state = state.reshape(-1, sizes[-1].left * sizes[-1].ins * around)
        state = self[run[0]](state) if len(run) == 1 else F.linear(state, self._matrix(run))
        state = state.reshape(*input.shape[:-1], self.out_features)
        return state if self.bias is None else state + self.bias

    def core(self, k: int) -> Tensor:
        """(r_{k-1}, ok, ik, rk)"""
        size, weight = self.sizes[k], cast(Tensor, self[k].weight)
        if k == 0:
            return weight.reshape(size.left, size.outs, size.right, size.ins).permute(0, 1, 3, 2)
        return weight.reshape(size.outs, size.right, size.left, size.ins).permute(2, 0, 3, 1)

    def _matrix(self, run: range) -> Tensor:
        whole = self.core(run[0])
        for k in run[1:]:
            whole = merged(whole, self.core(k))
        return linear_matrix(whole, first=run[0] == 0, last=run[-1] + 1 == len(self.sizes))


class ChainEmbedding(nn.Sequential):
    """A table, indices (...) to (..., width), as cores (r_{k-1}, vk, dk, rk): an index is read digit by digit.

    Part k is an `nn.Embedding` of vk rows. There may be a few more rows than `num_embeddings`; what they hold has no
    meaning.
    """

    def __init__(self, sizes: Sequence[Size], entries: int, *, dtype: torch.dtype) -> None:
        super().__init__(*(nn.Embedding(s.outs, s.left * s.ins * s.right, dtype=dtype) for s in sizes))
        self.sizes = tuple(sizes)
        self.num_embeddings = entries
        self.embedding_dim = prod(size.ins for size in sizes)

    def forward(self, input: Tensor) -> Tensor:
        around = self.sizes[0].left
        way = _way(self.sizes, input.shape, lookup=True)
        sizes = [merged_size([self.sizes[k] for k in run]) for run in way]
        index = input.reshape(-1)
        behind = prod(size.outs for size in sizes)
        state = index
        for place, (run, size) in enumerate(zip(way, sizes, strict=True)):
            last = place + 1 == len(sizes)
            behind //= size.outs
            digit = index if last else index // behind
            digit = digit if place == 0 else digit % size.outs
            found = self[run[0]](digit) if len(run) == 1 else F.embedding(digit, self._rows(run))
            if place == 0:
                state = found.reshape(-1, size.left * size.ins, size.right)
            elif last:
                if around > 1:
                    state = state.reshape(-1, around, state.shape[1] // around, size.left).transpose(1, 2)
                    state = state.reshape(-1, state.shape[1], around * size.left)
                state = torch.bmm(state, found.reshape(-1, size.right * size.left, size.ins))
            else:
                state = torch.bmm(state, found.reshape(-1, size.left, size.ins * size.right))
                state = state.reshape(-1, state.shape[1] * size.ins, size.right)
        return state.reshape(*input.shape, self.embedding_dim)

    def core(self, k: int) -> Tensor:
        """(r_{k-1}, vk, dk, rk)"""
        size, weight = self.sizes[k], cast(Tensor, self[k].weight)
        if k and k + 1 == len(self.sizes):
            return weight.reshape(size.outs, size.right, size.left, size.ins).permute(2, 0, 3, 1)
        return weight.reshape(size.outs, size.left, size.ins, size.right).permute(1, 0, 2, 3)

    def _rows(self, run: range) -> Tensor:
        whole = self.core(run[0])
        for k in run[1:]:
            whole = merged(whole, self.core(k))
        return table_rows(whole, last=run[0] > 0 and run[-1] + 1 == len(self.sizes))


class RingConv(nn.Sequential):
    """A convolution as a ring: 1x1, one convolution along each axis of the kernel, 1x1. `around`: the rank r_0."""

    def __init__(self, around: int, parts: Sequence[nn.Module]) -> None:
        super().__init__(*parts)
        self.around = around

    def forward(self, input: Tensor) -> Tensor:
        first, *inner, last = self
        state = first(input)
        # One after the other for each of r_0, as if these were examples: the cores in between are the same for all.
        state = state.reshape(-1, state.shape[1] // self.around, *state.shape[2:])
        for part in inner:
            state = part(state)
        return last(state.reshape(-1, state.shape[1] * self.around, *state.shape[2:]))


class KroneckerConv(nn.Sequential):
    """A convolution as a sum of A (x) B, (o1 o2, i1 i2): B and the kernel on each of i1 groups, A across the groups."""

    def __init__(self, outs: tuple[int, int], ins: tuple[int, int], parts: Sequence[nn.Module], bias: bool) -> None:
        super().__init__(*parts)
        self.outs, self.ins = outs, ins
        dtype = cast(Tensor, parts[0].weight).dtype
        self.bias = nn.Parameter(torch.empty(prod(outs), dtype=dtype)) if bias else None

    def forward(self, input: Tensor) -> Tensor:
        inner, outer = self
        state = inner(input.reshape(-1, self.ins[1], *input.shape[2:]))
        place = state.shape[2:]
        state = state.reshape(-1, self.ins[0], state.shape[1] // self.outs[1], self.outs[1], *place)
        state = state.movedim(3, 1).reshape(-1, self.ins[0] * state.shape[2], *place)
        state = outer(state).reshape(-1, self.outs[1], self.outs[0], *place).transpose(1, 2)
        state = state.reshape(-1, prod(self.outs), *place)
        return state if self.bias is None else state + self.bias.reshape(-1, *(1 for _ in place))


def linear_matrix(core: Tensor, *, first: bool, last: bool) -> Tensor:
    """A core (r, o, i, r') as the weight of its linear layer; the first of a ring makes its rank, the last reads it."""
    if first:
        return core.permute(0, 1, 3, 2).flatten(0, 2)
    whole = core.permute(1, 3, 0, 2)
    return whole.flatten(1) if last else whole.flatten(2).flatten(0, 1)


def table_rows(core: Tensor, *, last: bool) -> Tensor:
    """A core (r, v, d, r') as the weight of its table."""
    return core.permute((1, 3, 0, 2) if last else (1, 0, 2, 3)).flatten(1)


def _product(sizes: Sequence[Size], k: int, dtype: torch.dtype) -> nn.Module:
    size, last = sizes[k], k + 1 == len(sizes)
    ins = size.ins * (1 if k == 0 else size.left) * (size.right if last else 1)
    outs = size.outs * (size.left if k == 0 else 1) * (1 if last else size.right)
    if last:
        return nn.Linear(ins, outs, bias=False, dtype=dtype)
    return nn.Conv1d(ins, outs, 1, bias=False, dtype=dtype)


def _way(sizes: Sequence[Size], places: Sequence[int], *, lookup: bool) -> tuple[range, ...]:
    """The cheapest order for the rows at hand; core by core where the program is to hold for any number of them."""
    if torch.compiler.is_compiling():
        return next(runs(len(sizes)))
    return cheapest(sizes, prod(places), lookup=lookup)
