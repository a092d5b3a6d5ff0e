"""Rounding of weights and biases fitted layer by layer, the original and the rounded graph side by side.

Every layer is fitted to what it computes in the original, from the inputs that it gets in the rounded network with all
layers before it already fitted. GPTQ starts from the weights that do this best in float (`functional.leastsquares`,
pulled to the given ones), AdaRound from the given ones (`functional.gptq`, `functional.rounding`). The bias takes up
the mean error that is left (`functional.bias`), or bias and scales give every channel the mean and deviation that it
had (`functional.reestimation`); normalizations that were not folded get the statistics of what they read now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.functional.bias import bias_shift
from lissom.functional.gptq import gptq_by_row
from lissom.functional.leastsquares import solve_through_origin
from lissom.functional.overflow import LARGEST_INPUT, safe_scales
from lissom.functional.reestimation import channel_moments, reestimated
from lissom.functional.rounding import Rows, adaround
from lissom.functional.sparsity import support
from lissom.functional.weightgrid import Bits, Grid, low_bit_grid
from lissom.graph.describe import op_name, schema_of
from lissom.graph.lockstep import attribute, interpreter, last_uses, run, tensor_of
from lissom.graph.moments import laid_out, rows_read
from lissom.task import Batch
from lissom.transforms.quantization.actions import Fit

WIDEST = 4608
"""Inputs of a layer, kernel included, above which its second moments do not pay: rounded to the nearest."""
RIDGE = 0.1
"""How strongly least squares is pulled to the given weights."""
DRAWN = 8192
"""Rows of a layer's matrix product that AdaRound learns from."""


Statistics = tuple[str, str]
"""Buffers of a normalization: its mean and its variance."""


@dataclass(frozen=True)
class Job:
    """What is fitted where a product is computed: how its `weight` is rounded, and which `bias` moves, if any; with
    `rescale` the weight's scales move too."""

    weight: str
    bits: Bits
    fit: Fit = "nearest"
    bias: str | None = None
    pairs_fit: bool = False
    rescale: bool = False
    group: int | None = None
    symmetric: bool = True


@dataclass(frozen=True, eq=False)
class Fitted:
    """Grids of the weights that were put on them, and what was added to biases, by parameter."""

    grids: dict[str, Grid]
    shifts: dict[str, Tensor]

    @property
    def scales(self) -> dict[str, Tensor]:
        """Of weights with one run an output."""
        return {name: grid.scale[:, 0] for name, grid in self.grids.items()}


@torch.no_grad()
def refit_(
    before: GraphModule,
    after: GraphModule,
    jobs: Mapping[str, Job],
    pieces: Sequence[Batch],
    norms: Mapping[str, Statistics] = MappingProxyType({}),
) -> Fitted:
    """Fit the products `jobs` (by node) of `after` in place; its activations are rounded, its weights not yet.

    A weight that several products read is rounded where the first of them is computed; fits are for a single reader.
    `norms` are normalizations that get new statistics.

    `before` is the float graph, whose nodes have the same names. All values of `pieces` are held until they were read.
    """
    walk = _Walk(before, after, pieces)
    for node in list(after.graph.nodes):
        if node.name in norms:
            walk.renormalize(node, norms[node.name])
        walk.step(node, jobs.get(node.name))
    return Fitted(walk.grids, walk.shifts)


class _Walk:
    def __init__(self, before: GraphModule, after: GraphModule, pieces: Sequence[Batch]) -> None:
        self.after = after
        self.grids: dict[str, Grid] = {}
        self.shifts: dict[str, Tensor] = {}
        self._twins: dict[str, FxNode] = {node.name: node for node in before.graph.nodes}
        self._last_before, self._last = last_uses(before), last_uses(after)
        self._runs: list[tuple[Interpreter, Interpreter]] = []
        for piece in pieces:
            inputs = pytree.tree_leaves((piece.args, dict(piece.kwargs)))
            self._runs.append((interpreter(before, inputs), interpreter(after, inputs)))

    def step(self, node: FxNode, job: Job | None) -> None:
        """Compute the node in both graphs, for all data, fitted if it is to be; drop what nobody reads any more."""
        twin = self._twins.get(node.name)
        if twin is not None:
            for before, _ in self._runs:
                run(before, twin)
        if job is not None and twin is not None:
            self._fit(node, twin, job)
        for before, after in self._runs:
            run(after, node)
            for gone in self._last.get(node, ()):
                after.env.pop(gone, None)
            for gone in self._last_before.get(twin, ()) if twin is not None else ():
                before.env.pop(gone, None)

    def renormalize(self, node: FxNode, held: Statistics) -> None:
        """Give a normalization the mean and variance of what it reads in the rounded graph."""
        mean, variance = channel_moments([after.env[cast(FxNode, node.args[0])] for _, after in self._runs], 1)
        for name, found in zip(held, (mean, variance), strict=True):
            kept = attribute(self.after, name)
            kept.copy_(found.to(kept.dtype))

    def _fit(self, node: FxNode, twin: FxNode, job: Job) -> None:
        names = [argument.name for argument in schema_of(cast(Any, node.target)).arguments]
        given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        weight = attribute(self.after, job.weight)
        if job.weight not in self.grids:
            call = _Call(op_name(node), {**given, "weight": weight}, cast(FxNode, given["input"]))
            made, steps = self._rounded(call, twin, job)
            weight.copy_(made.restored(steps).reshape(weight.shape))
            self.grids[job.weight] = made
        if job.bias:
            wanted = [before.env[twin] for before, _ in self._runs]
            axis = _channels(op_name(node), wanted[0], weight)
            got = [run(after, node, keep=False) for _, after in self._runs]
            bias = attribute(self.after, job.bias)
            if job.rescale:
                factor, found = reestimated(wanted, got, bias, axis)
                scales = factor.to(weight.dtype)[:, None]
                self.grids[job.weight] = replace(self.grids[job.weight], scale=self.grids[job.weight].scale * scales)
                weight.copy_((weight.flatten(1) * scales).reshape(weight.shape))
            else:
                found = bias + bias_shift(wanted, got, axis)
            moved = found.to(bias.dtype)
            self.shifts[job.bias] = moved - bias
            bias.copy_(moved)

    def _rounded(self, call: _Call, twin: FxNode, job: Job) -> tuple[Grid, Tensor]:
        weight = cast(Tensor, call.given["weight"]).flatten(1)
        if job.fit == "nearest" or weight.shape[1] > WIDEST:
            made = low_bit_grid(weight, job.bits, group=job.group, symmetric=job.symmetric)
            if job.pairs_fit:
                scale = safe_scales(cast(Tensor, call.given["weight"]), made.scale[:, 0], LARGEST_INPUT)
                made = replace(made, scale=scale[:, None])
            return made, made.steps(weight)
        xx, yx = self._moments(call, twin)
        parts = weight.reshape(len(xx), -1, weight.shape[1])
        # Pruned weights stay zero: the others make up for them.
        alive = support(weight)
        masks: list[Tensor | None] = [None] * len(xx) if alive is None else list(alive.reshape(parts.shape))
        found: list[tuple[Grid, Tensor]] = []
        for part, inputs, cross, mask in zip(parts, xx, yx, masks, strict=True):
            if job.fit == "adaround" and len(parts) == 1:
                made = low_bit_grid(part, job.bits, inputs.diagonal().float())
                found.append((made, adaround(part, made, self._drawn(call, twin), alive=mask)))
            else:
                fitted = solve_through_origin(inputs, cross, part, RIDGE, mask)
                energy = inputs.diagonal().float()
                made = low_bit_grid(fitted, job.bits, energy, group=job.group, symmetric=job.symmetric)
                found.append((made, gptq_by_row(fitted, inputs, made, mask)))
        first = found[0][0]
        scale, zero = torch.cat([g.scale for g, _ in found]), torch.cat([g.zero for g, _ in found])
        return Grid(scale, zero, first.low, first.high, first.group), torch.cat([s for _, s in found])

    def _moments(self, call: _Call, twin: FxNode) -> tuple[Tensor, Tensor]:
        """X'X (groups, n, n) and Y'X (groups, outputs / groups, n) of what the layer reads and should give."""
        xx, yx = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for rows, wanted in self._rows(call, twin):
            xx = xx + (rows.transpose(1, 2) @ rows).double()
            yx = yx + (wanted.transpose(1, 2) @ rows).double()
        return xx, yx

    def _drawn(self, call: _Call, twin: FxNode) -> Rows:
        """Rows drawn from all data, of a layer with one group."""
        generator = torch.Generator().manual_seed(0)
        values = sum(before.env[twin].numel() for before, _ in self._runs)
        share = min(1.0, DRAWN * cast(Tensor, call.given["weight"]).shape[0] / values)
        parts: list[tuple[Tensor, Tensor]] = []
        for rows, wanted in self._rows(call, twin):
            drawn = torch.randperm(rows.shape[1], generator=generator)[: math.ceil(share * rows.shape[1])]
            parts.append((rows[0, drawn], wanted[0, drawn]))
        follows = list(twin.users)
        relu = len(follows) == 1 and op_name(follows[0]) == "relu"
        return Rows(torch.cat([r for r, _ in parts]), torch.cat([w for _, w in parts]), self._bias(call), relu)

    def _rows(self, call: _Call, twin: FxNode) -> Iterator[tuple[Tensor, Tensor]]:
        """What the layer reads in the rounded graph (groups, rows, n), and what it should give (groups, rows, outputs /
        groups): what it gave in the original, without the bias."""
        weight, bias = cast(Tensor, call.given["weight"]), self._bias(call)
        for before, after in self._runs:
            done = 0
            outputs = before.env[twin].movedim(_channels(call.op, before.env[twin], weight), -1)
            for values in laid_out(after.env[call.source], weight):
                rows = rows_read(call.op, values, call.given)
                here = outputs if values.shape[0] == outputs.shape[0] else outputs[done : done + values.shape[0]]
                done += values.shape[0]
                wanted = here.flatten(0, -2) - bias
                yield rows, wanted.reshape(len(wanted), len(rows), -1).movedim(1, 0)

    def _bias(self, call: _Call) -> Tensor:
        node = call.given.get("bias")
        return tensor_of(self.after, node) if isinstance(node, FxNode) else torch.zeros(())


def _channels(op: str, output: Tensor, weight: Tensor) -> int:
    """The axis of the output's channels: a convolution may come without a batch axis."""
    return -1 if op == "linear" else output.ndim - weight.ndim + 1


@dataclass(frozen=True, eq=False)
class _Call:
    op: str
    given: Mapping[str, Any]
    source: FxNode
