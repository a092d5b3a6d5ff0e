"""Values that are rounded and then split are split as integers, for targets whose table says so.

    DequantizeLinear > Split            becomes            Split > DequantizeLinear of every part

which is the same number for number. OpenVINO 2026.4 (without VNNI, signed integers) otherwise takes the shift of the
integers for done when one part is read in float: it keeps the restored values of the part in eight bits, so that they
are rounded to whole numbers.
"""

from __future__ import annotations

import onnx_ir as ir

from lissom.target import Target


def split_steps_(graph: ir.Graph, target: Target) -> None:
    """Move what restores a value, with one scale for all of it, behind every split of it."""
    if target.integers.splits != "steps":
        return
    for node in list(graph):
        restored = node.inputs[0].producer() if node.op_type == "Split" and node.inputs[0] is not None else None
        if restored is None or restored.op_type != "DequantizeLinear" or restored.attributes.get_int("axis", 1) != 1:
            continue
        scale = restored.inputs[1]
        if scale is None or scale.shape is None or len(scale.shape) != 0:
            continue
        steps = ir.Node(
            "", "Split", [restored.inputs[0], *node.inputs[1:]], node.attributes.values(), num_outputs=len(node.outputs)
        )
        steps.metadata_props.update(node.metadata_props)
        parts: list[ir.Node] = []
        for whole, part in zip(node.outputs, steps.outputs, strict=True):
            again = ir.Node("", "DequantizeLinear", [part, *restored.inputs[1:]], restored.attributes.values())
            again.metadata_props.update(restored.metadata_props)
            again.outputs[0].shape, again.outputs[0].type = whole.shape, whole.type
            parts.append(again)
        made = [again.outputs[0] for again in parts]
        ir.convenience.replace_nodes_and_values(graph, node, [node], [steps, *parts], node.outputs, made)
