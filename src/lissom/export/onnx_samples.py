"""Linear layers that read values with one range for each example, multiplied in integers.

The exporter writes `x̂ = (q - z) s` in front of a float product (`onnx._sample_quantize`). ONNX Runtime would take such
a product, with its stored weight, for one of its own that rounds the input again, to other steps. So the steps q go
into MatMulInteger, and the rest follows behind it, with the weight's scales t and the sums of its columns, known here:

    x̂ W = s t (q W_int8 - z sum(W_int8))
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lissom.target import Target


def multiply_steps_(graph: ir.Graph, target: Target) -> None:
    """Rewrite every such product whose weight is int8 with one scale a column, in a file for ONNX Runtime."""
    if target.weights.operators != "microsoft":
        return
    for node in list(graph):
        parts = _parts(node)
        if parts is not None:
            _rewrite_(graph, node, *parts)


def _parts(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Node] | None:
    """Steps, zero point and scale of what a product reads, and the restored weight."""
    if node.op_type != "MatMul":
        return None
    given, weight = (value.producer() if value is not None else None for value in node.inputs)
    if given is None or weight is None or weight.op_type != "DequantizeLinear" or given.op_type != "Mul":
        return None
    shifted, scale = given.inputs
    before = shifted.producer() if shifted is not None else None
    if scale is None or before is None or before.op_type != "Sub" or before.domain != node.domain:
        return None
    steps, zero = before.inputs
    clip, middle = (value.producer() if value is not None else None for value in (steps, zero))
    if clip is None or middle is None or (clip.op_type, middle.op_type) != ("Clip", "Round"):
        return None
    held = weight.inputs[0]
    if steps is None or zero is None or held is None or held.const_value is None:
        return None
    return steps, zero, scale, weight


def _rewrite_(
    graph: ir.Graph, node: ir.Node, steps: ir.Value, zero: ir.Value, scale: ir.Value, weight: ir.Node
) -> None:
    held, scales = weight.inputs[0], weight.inputs[1]
    assert held is not None
    assert held.const_value is not None
    name = f"{held.name}_sums"
    if name not in graph.initializers:
        sums = held.const_value.numpy().astype(np.float32).sum(0)
        graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(sums, name=name)))
    whole = ir.Node("", "Cast", [steps], [ir.AttrInt64("to", ir.DataType.UINT8)])
    product = ir.Node("", "MatMulInteger", [whole.outputs[0], held])
    real = ir.Node("", "Cast", [product.outputs[0]], [ir.AttrInt64("to", ir.DataType.FLOAT)])
    excess = ir.Node("", "Mul", [zero, graph.initializers[name]])
    left = ir.Node("", "Sub", [real.outputs[0], excess.outputs[0]])
    scaled = ir.Node("", "Mul", [left.outputs[0], scale])
    made = ir.Node("", "Mul", [scaled.outputs[0], scales])
    fresh = [whole, product, real, excess, left, scaled, made]
    for one in fresh:
        one.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(graph, node, [node], fresh, node.outputs, made.outputs)
