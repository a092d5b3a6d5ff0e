"""Rounding of weights and biases fitted layer by layer, the original and the rounded graph side by side.

Every layer is fitted to what it computes in the original, from the inputs that it gets in the rounded network with all
layers before it already fitted. GPTQ and AdaRound choose the steps (`functional.gptq`, `functional.rounding`), the
bias takes up the mean error that is left (`functional.bias`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.functional.bias import bias_shift
from lissom.functional.gptq import gptq
from lissom.functional.rounding import Rows, adaround
from lissom.functional.weightgrid import Bits, Grid, low_bit_grid
from lissom.graph.describe import op_name, schema_of
from lissom.graph.lockstep import attribute, interpreter, last_uses, run, tensor_of
from lissom.graph.moments import laid_out, rows_read
from lissom.task import Batch
from lissom.transforms.quantization.actions import Fit

WIDEST = 4608
"""Inputs of a layer, kernel included, above which its second moments do not pay: rounded to the nearest."""
DRAWN = 8192
"""Rows of a layer's matrix product that AdaRound learns from."""


@dataclass(frozen=True)
class Job:
    """What is fitted where a product is computed: how its `weight` is rounded, and which `bias` moves, if any."""

    weight: str
    bits: Bits
    fit: Fit = "nearest"
    bias: str | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scales of the weights that were put on their grid, and what was added to biases, by parameter."""

    scales: dict[str, Tensor]
    shifts: dict[str, Tensor]


@torch.no_grad()
def refit_(
    before: GraphModule,
    after: GraphModule,
    jobs: Mapping[str, Job],
    pieces: Sequence[Batch],
) -> Fitted:
    """Fit the products `jobs` (by node) of `after` in place; its activations are rounded, its weights not yet.

    A weight that several products read is rounded where the first of them is computed; fits are for a single reader.

    `before` is the float graph, whose nodes have the same names. All values of `pieces` are held until they were read.
    """
    walk = _Walk(before, after, pieces)
    for node in list(after.graph.nodes):
        walk.step(node, jobs.get(node.name))
    return Fitted(walk.scales, walk.shifts)


class _Walk:
    def __init__(self, before: GraphModule, after: GraphModule, pieces: Sequence[Batch]) -> None:
        self.after = after
        self.scales: dict[str, Tensor] = {}
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

    def _fit(self, node: FxNode, twin: FxNode, job: Job) -> None:
        names = [argument.name for argument in schema_of(cast(Any, node.target)).arguments]
        given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        weight = attribute(self.after, job.weight)
        if job.weight not in self.scales:
            call = _Call(op_name(node), {**given, "weight": weight}, cast(FxNode, given["input"]))
            made, steps = self._rounded(call, twin, job)
            weight.copy_(made.restored(steps).reshape(weight.shape))
            self.scales[job.weight] = made.scale[:, 0]
        if job.bias:
            axis = -1 if op_name(node) == "linear" else 1
            wanted = [before.env[twin] for before, _ in self._runs]
            got = [run(after, node, keep=False) for _, after in self._runs]
            bias = attribute(self.after, job.bias)
            moved = (bias + bias_shift(wanted, got, axis)).to(bias.dtype)
            self.shifts[job.bias] = moved - bias
            bias.copy_(moved)

    def _rounded(self, call: _Call, twin: FxNode, job: Job) -> tuple[Grid, Tensor]:
        weight = cast(Tensor, call.given["weight"]).flatten(1)
        if job.fit == "nearest" or weight.shape[1] > WIDEST:
            made = low_bit_grid(weight, job.bits)
            return made, made.steps(weight)
        moments = self._moments(call)
        parts = weight.reshape(len(moments), -1, weight.shape[1])
        found: list[tuple[Grid, Tensor]] = []
        for group, (part, xx) in enumerate(zip(parts, moments, strict=True)):
            made = low_bit_grid(part, job.bits, xx.diagonal().float())
            if job.fit == "adaround" and len(moments) == 1:
                steps = adaround(part, made, self._rows(call, twin, group))
            else:
                steps = gptq(part, xx, made, by_energy=True)
            found.append((made, steps))
        first = found[0][0]
        scale, zero = torch.cat([g.scale for g, _ in found]), torch.cat([g.zero for g, _ in found])
        return Grid(scale, zero, first.low, first.high, first.group), torch.cat([s for _, s in found])

    def _moments(self, call: _Call) -> Tensor:
        """X'X of what the layer reads, (groups, n, n), float64."""
        total: Tensor | None = None
        for _, after in self._runs:
            for values in laid_out(after.env[call.source], call.given["weight"]):
                rows = rows_read(call.op, values, call.given)
                seen = (rows.transpose(1, 2) @ rows).double()
                total = seen if total is None else total + seen
        assert total is not None
        return total

    def _rows(self, call: _Call, twin: FxNode, group: int) -> Rows:
        """Rows drawn from all data: what the layer reads in the rounded graph, what it gave in the original."""
        generator = torch.Generator().manual_seed(0)
        axis = -1 if call.op == "linear" else 1
        inputs: list[Tensor] = []
        wanted: list[Tensor] = []
        for before, after in self._runs:
            rows = rows_read(call.op, after.env[call.source], call.given)[group]
            outputs = before.env[twin].movedim(axis, -1).flatten(0, -2)
            drawn = torch.randperm(len(rows), generator=generator)[: -(-DRAWN // len(self._runs))]
            inputs.append(rows[drawn])
            wanted.append(outputs[drawn])
        bias_node = call.given.get("bias")
        bias = tensor_of(self.after, bias_node) if isinstance(bias_node, FxNode) else torch.zeros(())
        follows = list(twin.users)
        relu = len(follows) == 1 and op_name(follows[0]) == "relu"
        return Rows(torch.cat(inputs), torch.cat(wanted) - bias, bias, relu)


@dataclass(frozen=True, eq=False)
class _Call:
    op: str
    given: Mapping[str, Any]
    source: FxNode
