"""Rewrites of a freshly exported ONNX graph: integer forms that runtimes recognise, names, no tracing residue."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch.export import ExportedProgram
from torch.fx import Node as FxNode

from lissom.export.base import TensorSpec
from lissom.export.onnx_packing import packed_
from lissom.export.onnx_recurrent import sort_gates_
from lissom.export.onnx_samples import multiply_steps_
from lissom.export.onnx_splits import split_steps_
from lissom.export.onnx_weights import weights_
from lissom.export.openvino_session import ACTIVATIONS
from lissom.export.origin import origin
from lissom.graph.cost import MACS
from lissom.graph.describe import op_name
from lissom.target import Target

FX_NODE = "pkg.torch.onnx.fx_node"
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits"})
FOLDED = re.compile(r"batch_norm|^(getitem|mul|add|pad|constant_pad_nd)$")
"""Operators that the exporter merges into the product before them."""


def rewrite_(
    model: ir.Model,
    program: ExportedProgram,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    target: Target,
) -> None:
    """Bring an exported model into its final form. `program` is the one torch.onnx translated, with marks."""
    graph = model.graph
    _list_constants_(graph)
    _reuse_dynamic_quantization_(graph)
    _transpose_int8_weights_(graph)
    multiply_steps_(graph, target)
    split_steps_(graph, target)
    _pool_globally_(graph)
    sort_gates_(graph)
    packed_(model, target.weights.bits)
    stored = weights_(model, target)
    RemoveUnusedNodesPass()(model)
    _name_nodes_(graph, program)
    _name_ends_(graph, inputs, outputs)
    _clean_(model)
    if stored:
        model.metadata_props.update([ACTIVATIONS])
    _shape_(graph.inputs, inputs)
    _shape_(graph.outputs, outputs)


def _list_constants_(graph: ir.Graph) -> None:
    """Constants that a rule of the optimizer made and whose name another one had: used, but in no list."""
    own = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        for value in node.inputs:
            if value is None or value.producer() is not None or id(value) in own or value.const_value is None:
                continue
            own.add(id(value))
            number = 1
            while value.name in graph.initializers:
                value.name, number = f"{value.name}_{number}", number + 1
            graph.register_initializer(value)


def _reuse_dynamic_quantization_(graph: ir.Graph) -> None:
    """DynamicQuantizeLinear already gives the integers: drop the QuantizeLinear that computes them again."""
    for node in list(graph):
        if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
            continue
        scale = node.inputs[1]
        producer = scale.producer() if scale is not None else None
        if producer is None or producer.op_type != "DynamicQuantizeLinear":
            continue
        if producer.inputs[0] is not node.inputs[0]:
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], producer.outputs[0])
        graph.remove(node, safe=True)


def _transpose_int8_weights_(graph: ir.Graph) -> None:
    """`x @ dequantize(W).T + b` with W stored as its transpose: a plain MatMul.

    ONNX Runtime has an integer kernel with float output for MatMul, but runs Gemm in float unless its output is
    rounded too. It also fuses MatMul and Add into Gemm before it looks for integers, hence `- (-b)`, which is
    exact.
    """
    for node in list(graph):
        restored, bias = _linear_with_stored_weight(node)
        if restored is None or restored.inputs[0] is None or restored.inputs[0].name is None:
            continue
        weight = restored.inputs[0].const_value
        if weight is None or len(weight.shape) != 2 or len(restored.inputs[0].uses()) != 1:
            continue
        if bias is not None and bias.const_value is None:
            continue
        stored = graph.initializers.pop(restored.inputs[0].name)
        held = ir.Value(name=stored.name, const_value=ir.tensor(weight.numpy().T.copy(), name=stored.name))
        graph.register_initializer(held)
        source = ir.Node("", "DequantizeLinear", [held, *restored.inputs[1:]], [ir.AttrInt64("axis", 1)])
        fresh = [source, ir.Node("", "MatMul", [node.inputs[0], source.outputs[0]])]
        if bias is not None and bias.const_value is not None:
            name = f"{bias.name}_negated"
            if name not in graph.initializers:
                value = ir.tensor(-bias.const_value.numpy(), name=name)
                graph.register_initializer(ir.Value(name=name, const_value=value))
            fresh.append(ir.Node("", "Sub", [fresh[-1].outputs[0], graph.initializers[name]]))
        for one in fresh[1:]:
            one.metadata_props.update(node.metadata_props)
        source.metadata_props.update(restored.metadata_props)
        graph.insert_before(node, fresh)
        old, new = node.outputs[0], fresh[-1].outputs[0]
        new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = None
        graph.remove(node, safe=True)


def _linear_with_stored_weight(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The DequantizeLinear of a linear layer's weight, and its bias; None for other operators."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    bias: ir.Value | None = None
    if weight is None:
        return None, None
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1:
        restored = weight.producer()
        bias = node.inputs[2] if len(node.inputs) > 2 else None
    elif node.op_type == "MatMul":
        turned = weight.producer()
        if turned is None or turned.op_type != "Transpose" or turned.inputs[0] is None:
            return None, None
        restored = turned.inputs[0].producer()
    else:
        return None, None
    return (restored, bias) if restored is not None and restored.op_type == "DequantizeLinear" else (None, None)


def _pool_globally_(graph: ir.Graph) -> None:
    """A mean over both axes of an image is a GlobalAveragePool, of which ONNX Runtime has an integer kernel."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.attributes.get_int("keepdims", 1) != 1:
            continue
        source, axes = node.inputs[0], node.inputs[1]
        if source is None or source.shape is None or len(source.shape) != 4:
            continue
        if axes is None or axes.const_value is None:
            continue
        if sorted(int(axis) % 4 for axis in axes.const_value.numpy().tolist()) != [2, 3]:
            continue
        pooled = ir.Node("", "GlobalAveragePool", [source])
        pooled.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [pooled], node.outputs, pooled.outputs)


def _name_nodes_(graph: ir.Graph, program: ExportedProgram) -> None:
    """Call each node `<name in the traced graph>/<operator>`: runtimes keep these names and we read them back."""
    nodes = {node.name: node for node in program.graph.nodes}
    taken: dict[str, int] = {}
    for node in graph.all_nodes():
        match = re.match(r"%(\w+)", node.metadata_props.get(FX_NODE, ""))
        source = nodes.get(match.group(1)) if match else None
        traced = _traced(source, product=node.op_type in PRODUCTS) if source is not None else ""
        name = f"{traced or node.outputs[0].name or 'node'}/{node.op_type}"
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}/{taken[name]}"


def _traced(node: FxNode, *, product: bool) -> str:
    before = node
    while product and op_name(before) not in MACS:
        follows = before.args[0] if before.args else None
        if not FOLDED.search(op_name(before)) or not isinstance(follows, FxNode):
            before = node
            break
        before = follows
    return origin(before)


def _name_ends_(graph: ir.Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Give inputs and outputs their names; an output that has another role too (a second output, an input, a
    constant) gets a copy of its own."""
    seen: set[int] = set()
    for index, value in enumerate(list(graph.outputs)):
        if value.producer() is None or id(value) in seen:
            copy = ir.Node("", "Identity", [value], name=f"{outputs[index].name}/Identity")
            copy.outputs[0].type = value.type
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
        seen.add(id(graph.outputs[index]))
    ends = [*zip(graph.inputs, inputs, strict=True), *zip(graph.outputs, outputs, strict=True)]
    reserved = {spec.name for _, spec in ends}
    inner = [value for value in graph.initializers.values() if value.name in reserved]
    for value in inner:
        del graph.initializers[str(value.name)]
        value.name = f"{value.name}_stored"
        graph.register_initializer(value)
    for value in (value for node in graph.all_nodes() for value in node.outputs if value.name in reserved):
        value.name = f"{value.name}_inner"
    for value, spec in ends:
        value.name = spec.name


def _clean_(model: ir.Model) -> None:
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "lissom", ""
    graph = model.graph
    graph.metadata_props.clear()
    graph.doc_string = None
    graph.name = "model"
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    outputs = set(graph.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
        if value.producer() is not None and value not in outputs:
            # Shapes of intermediate values are inferred by every runtime; in the file they are ballast.
            value.shape = None
            value.type = None


def _shape_(values: Sequence[ir.Value], specs: Sequence[TensorSpec]) -> None:
    """Whatever symbols torch.export chose, an axis that follows the batch is called `N` in the file."""
    for value, spec in zip(values, specs, strict=True):
        sizes = [ir.SymbolicDim(size) if isinstance(size, str) else size for size in spec.shape]
        value.shape = ir.Shape(sizes)
