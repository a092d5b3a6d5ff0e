"""Batch normalizations put back behind convolutions while a rounded model is trained.

`Fold` has merged them, and folded weights do not stand a usual learning rate: nothing keeps a layer's outputs in their
range. Behind the convolution y = W x a normalization with any mean m and deviation d computes the same as the bias b
alone if its gain is d and its shift m + b:

    (y - m) / d * d + (m + b) = y + b

m and d are those of the float model's y on some examples, so that training begins with the outputs that it had. Its own
statistics are those of each batch; in the last steps they stand still. Afterwards it is folded again: with one step
size for each output channel rounding commutes with its gain, Q_s(W) g / d = Q_(s g / d)(W g / d), so that the folded
weights are on their grid whatever was learned. PT2E rounds folded weights while training, which is the same thing for
such grids.

W is divided by the norm of each of its channels, which the normalization undoes: its gradients are then of one size.

References: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference" (arXiv:1806.08342),
section 3.2.2, for statistics that stand still in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from lissom.graph.graph import Graph
from lissom.graph.lockstep import attribute
from lissom.graph.statistics import run_over
from lissom.graph.trace import Trace
from lissom.task import Batch
from lissom.transforms.base import Plan
from lissom.transforms.quantization.actions import StoreWeight
from lissom.transforms.quantization.operators import KINDS

EXAMPLES = 256
MOMENTUM = 0.1
EPS = 1e-5
SMALLEST_NORM = 1e-3
"""Of the largest norm: channels below it are switched off, and stay as they are."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a convolution's outputs, `(out,)`: mean and variance over examples and places, its bias included."""

    mean: Tensor
    variance: Tensor


class Renormalization(nn.Module):
    """Outputs `(b, c, ...)` of a convolution without its bias, normalized; `live` is how many steps use the batch's own
    statistics."""

    def __init__(self, mean: Tensor, variance: Tensor, gain: Tensor, shift: Tensor, live: int) -> None:
        super().__init__()
        self.live = live
        self.gain, self.shift = nn.Parameter(gain), nn.Parameter(shift)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.mean: Tensor
        self.variance: Tensor
        self.steps: Tensor

    def forward(self, y: Tensor) -> Tensor:
        live = self.training and int(self.steps) < self.live
        if live:
            self.steps.add_(1)
        return F.batch_norm(y, self.mean, self.variance, self.gain, self.shift, live, MOMENTUM, EPS)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Factor of the weight, and the bias, `(out,)` each."""
        factor = self.gain / torch.sqrt(self.variance + EPS)
        return factor, self.shift - self.mean * factor


def renormalizable(graph: Graph, plan: Plan) -> dict[str, str]:
    """Convolutions that can have a normalization, by node, and their weights: with a bias of their own, not an output.

    A graph that takes one example at a time has no batch to look at.
    """
    if graph.fixed_batch == 1:
        return {}
    found: dict[str, str] = {}
    for stored in plan.of(StoreWeight):
        (name, *others) = stored.nodes
        node = graph.by_name[name]
        bias = node.parameter(2)
        if others or KINDS[node.op] != "conv" or bias is None or name in graph.outputs:
            continue
        if graph.tensor_by_name[bias].used_by == (name,):
            found[name] = stored.parameter
    return found


def moments(trace: Trace, names: Iterable[str], batches: Iterable[Batch]) -> dict[str, Moments]:
    """What the nodes `names` compute on `batches`; those that see nothing are left out.

    Raises:
        DataError: a batch does not fit the model.
    """
    watcher = _Watcher(trace.module, names)
    with torch.no_grad():
        run_over(watcher, trace.graph, batches)
    return {
        name: Moments((s / n).float(), (q / n - (s / n).square()).clamp_min(0).float())
        for name, (n, s, q) in watcher.sums.items()
        if n
    }


class _Watcher(Interpreter):
    def __init__(self, module: GraphModule, names: Iterable[str]) -> None:
        super().__init__(module)
        self.sums: dict[str, tuple[int, Tensor, Tensor]] = {
            name: (0, torch.zeros(()), torch.zeros(())) for name in names
        }

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self.sums:
            rows = value.double().movedim(1, -1).flatten(0, -2)
            count, total, squares = self.sums[n.name]
            self.sums[n.name] = (count + len(rows), total + rows.sum(0), squares + rows.square().sum(0))
        return value


@torch.no_grad()
def insert_(module: GraphModule, name: str, weight: str, seen: Moments, live: int, place: str) -> None:
    """Put a normalization `place` behind the convolution `name` in place of its bias. Rescales `weight`."""
    node = next(node for node in module.graph.nodes if node.name == name)
    held = attribute(module, weight)
    norms = held.flatten(1).norm(dim=1)
    norms = torch.where(norms > SMALLEST_NORM * norms.max(), norms, 1.0)
    held.div_(norms.reshape(-1, *[1] * (held.ndim - 1)))
    bias = attribute(module, str(_bias(node).target)).detach()
    # Before the division by the norms; the mean without the bias.
    deviation = torch.sqrt(seen.variance + EPS * norms.square())
    made = Renormalization(
        (seen.mean - bias) / norms, seen.variance / norms.square(), deviation, seen.mean.clone(), live
    )
    module.add_submodule(place, made)
    if len(node.args) > 2:
        node.update_arg(2, None)
    else:
        node.update_kwarg("bias", None)
    with module.graph.inserting_after(node):
        after = module.graph.call_module(place, (node,))
    node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)


@torch.no_grad()
def fold_(module: GraphModule, biases: Mapping[str, str], parameter: str, norm: Renormalization) -> Tensor:
    """Merge `norm` into the weight `parameter` and its bias; the factor of each channel, `(out,)`."""
    factor, bias = norm.folded()
    weight = attribute(module, parameter)
    weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)))
    attribute(module, biases[parameter]).copy_(bias)
    return factor


def _bias(node: FxNode) -> FxNode:
    found = node.args[2] if len(node.args) > 2 else node.kwargs["bias"]
    assert isinstance(found, FxNode)
    return found
