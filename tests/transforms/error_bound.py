"""How far a quantized model may be from the float one, from its plan alone.

Every rounding moves a value by at most half a step (inside the calibrated range; clipping a value that an earlier
error pushed outside brings it closer to the true one). Through an affine operator y = W x + b

    |y - ŷ| <= |W| |x - x̂| + |W - Ŵ| (|x| + |x - x̂|)                    |W - Ŵ| <= s_w / 2 per output channel

and ReLU, maximum, selection and reshaping never enlarge the largest error of what they read. The bound holds element
by element for the data the plan was calibrated on; nothing in it is measured or tuned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from lissom.functional.affine import weight_scales
from lissom.graph.describe import op_name
from lissom.graph.trace import Trace
from lissom.task import Batch
from lissom.transforms.base import Plan
from lissom.transforms.quantization.placement import OUTPUT
from lissom.transforms.quantization.quantize import RoundActivation, RoundBias, StoreWeight

ROUNDING = 2.0**-20
"""Float32 arithmetic of both models: relative to the sum of the magnitudes of all terms, some hundred terms each."""

SAME = frozenset(
    {"dropout", "view", "flatten", "reshape", "cat", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "pad"}
)
LIPSCHITZ = frozenset({"relu", "relu6", "hardtanh"})
PRODUCTS = frozenset({"conv1d", "conv2d", "linear"})


class _Bound(Interpreter):
    """Runs the float graph and carries an error tensor beside every value."""

    def __init__(self, trace: Trace, plan: Plan) -> None:
        super().__init__(trace.module, garbage_collect_values=False)
        self.errors: dict[Node, Tensor] = {}
        self.steps: dict[tuple[str, str, int], float] = {}
        for action in plan.of(RoundActivation):
            for reader, position in action.readers:
                self.steps[action.value, reader, position] = action.numbers.scale
        self.biases = {action.parameter: action.scale for action in plan.of(RoundBias)}
        self.stored = {action.parameter for action in plan.of(StoreWeight)}

    def error(self, source: Node, reader: str, position: int) -> Tensor:
        """Of `source` as `reader` sees it."""
        error = self.errors.get(source, torch.zeros(()))
        step = self.steps.get((source.name, reader, position), 0.0)
        return (error + step / 2).expand(self.env[source].shape)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function":
            self.errors[n] = self._of(n, value)
        return value

    def _of(self, n: Node, value: Any) -> Tensor:
        op = op_name(n)
        inputs = [a for a in n.args if isinstance(a, Node)]
        if op in PRODUCTS:
            return self._of_product(n, value)
        if op in LIPSCHITZ:
            return self.error(inputs[0], n.name, 0)
        if op == "add":
            return self.error(inputs[0], n.name, 0) + self.error(inputs[1], n.name, 1) + value.abs() * ROUNDING
        if op == "cat":
            return torch.cat([self.error(part, n.name, 0) for part in n.args[0]], *n.args[1:])
        if op in SAME:
            rest = pytree.tree_map(lambda a: self.env[a] if isinstance(a, Node) else a, list(n.args[1:]))
            return n.target(self.error(inputs[0], n.name, 0).contiguous(), *rest, **n.kwargs) + value.abs() * ROUNDING
        raise NotImplementedError(op)

    def _of_product(self, n: Node, value: Tensor) -> Tensor:
        source, weight = n.args[0], n.args[1]
        x, w = self.env[source], self.env[weight]
        error = self.error(source, n.name, 0)
        change = torch.zeros_like(w)
        if weight.target in self.stored:
            change += (weight_scales(w, 0) / 2).reshape(-1, *[1] * (w.ndim - 1))
        rest = [self.env[a] if isinstance(a, Node) else a for a in n.args[3:]]
        reach = x.abs() + error
        bias = n.args[2] if len(n.args) > 2 else None
        offset = torch.zeros(w.shape[0])
        if isinstance(bias, Node) and bias.target in self.biases:
            offset += weight_scales(w, 0) * self.biases[bias.target] / 2
        offset = offset.reshape(-1, *[1] * (value.ndim - 2)) if w.ndim > 2 else offset
        terms = n.target(reach, w.abs() + change, None, *rest) + value.abs()
        moved = n.target(error, w.abs(), None, *rest) + n.target(reach, change, None, *rest)
        return moved + offset + terms * ROUNDING


def error_bound(trace: Trace, plan: Plan, batch: Batch) -> list[Tensor]:
    """For every output, how far each of its elements may be from the float model's."""
    runner = _Bound(trace, plan)
    with torch.no_grad():
        runner.run(*batch.tensors(), enable_io_processing=False)
    last = next(iter(reversed(trace.module.graph.nodes)))
    outputs = [leaf for leaf in pytree.tree_leaves(last.args) if isinstance(leaf, Node)]
    return [runner.error(output, OUTPUT, outputs.index(output)) for output in outputs]
