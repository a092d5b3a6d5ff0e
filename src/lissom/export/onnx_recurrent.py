"""Integer weights of recurrent layers, in the gate order of ONNX.

torch keeps the gates of an LSTM as input, forget, cell, output and those of a GRU as reset, update, new; ONNX wants
input, output, forget, cell and update, reset, hidden. Exporters sort float weights while they write the file; weights
that are restored from integers they would have sorted at every call. Here the integers are sorted:

    W (directions, gates * hidden, in) = Reshape(DequantizeLinear(int8 (directions * gates * hidden, in), scale))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from lissom.export.base import Array

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Places in torch's order of what ONNX wants first, second, ..."""
WEIGHTS = (1, 2)
"""Inputs of both operators: W for what the layer reads, R for its state."""
SORTED = frozenset({"Concat", "Slice", "Unsqueeze"})


def sort_gates_(graph: ir.Graph) -> None:
    """Let recurrent layers with restored weights read one restored tensor each, sorted before."""
    for node in list(graph):
        if node.op_type not in GATES:
            continue
        for place in WEIGHTS:
            restored = list(dict.fromkeys(_restored(node.inputs[place])))
            if restored and all(one is not None for one in restored):
                node.replace_input_with(place, _sorted_(graph, node, [one for one in restored if one is not None]))


def _restored(value: ir.Value | None) -> Iterator[ir.Node | None]:
    """The DequantizeLinear nodes of constants that a weight is put together from; None for what is something else."""
    producer = value.producer() if value is not None else None
    if producer is None:
        yield None
    elif producer.op_type == "DequantizeLinear":
        yield producer
    elif producer.op_type == "Concat":
        for part in producer.inputs:
            yield from _restored(part)
    elif producer.op_type in SORTED:
        yield from _restored(producer.inputs[0])
    else:
        yield None


def _sorted_(graph: ir.Graph, node: ir.Node, restored: list[ir.Node]) -> ir.Value:
    order = GATES[node.op_type]
    steps = np.concatenate([_by_gate(_constant(one, 0), order) for one in restored])
    scales = np.concatenate([_by_gate(_constant(one, 1), order) for one in restored])
    stored = restored[0].inputs[0]
    assert stored is not None
    assert stored.name is not None
    name = f"{stored.name.removesuffix('_int8')}_gates"
    shape = (len(restored), len(steps) // len(restored), steps.shape[1])
    values = [
        _held_(graph, f"{name}_int8", steps),
        _held_(graph, f"{name}_scale", scales),
        _held_(graph, f"{name}_zero_point", np.zeros(len(scales), np.int8)),
    ]
    whole = ir.Node("", "DequantizeLinear", values, [ir.AttrInt64("axis", 0)])
    shaped = ir.Node("", "Reshape", [whole.outputs[0], _held_(graph, f"{name}_shape", np.array(shape, np.int64))])
    for one in (whole, shaped):
        one.metadata_props.update(node.metadata_props)
    graph.insert_before(node, [whole, shaped])
    return shaped.outputs[0]


def _by_gate(values: Array, order: tuple[int, ...]) -> Array:
    return np.concatenate([np.split(values, len(order))[gate] for gate in order])


def _constant(node: ir.Node, place: int) -> Array:
    value = node.inputs[place]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _held_(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    if name not in graph.initializers:
        graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(values, name=name)))
    return graph.initializers[name]
