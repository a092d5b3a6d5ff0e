"""The only tracer: `torch.export`, non-strict, on the example inputs.

A batch axis is left free where the model allows it. torch.export specializes sizes 0 and 1, so the example is
repeated to a batch of two before tracing; a model that refuses another batch size is traced as it is, and
`Graph.dynamic_batch` says so. In-place operators are rewritten to their functional twins, so that every value of
the graph keeps its meaning after its node ran.
"""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import ExportError
from lissom.graph.cost import macs
from lissom.graph.graph import Graph, Node, Operand, Shape
from lissom.graph.graph import Tensor as TensorInfo
from lissom.task import Batch, contiguous, repeated

TRACE_BATCH = 2


@dataclass(frozen=True, eq=False)
class Trace:
    """A traced model: the program, its runnable functional graph, and the same as data."""

    program: ExportedProgram
    module: GraphModule
    graph: Graph

    @property
    def nodes(self) -> dict[str, FxNode]:
        return {node.name: node for node in self.module.graph.nodes}


def trace(model: nn.Module, example: Batch) -> Trace:
    """Trace `model` in evaluation mode; its own mode is restored.

    Raises:
        ExportError: torch.export refuses; the message names the operator or reason and the user's source line.
    """
    program, dynamic = export_program(model, example)
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    functionalize_(module)
    return Trace(program, module, describe(module, dynamic))


def export_program(
    model: nn.Module, example: Batch, *, max_batch: int | None = None
) -> tuple[ExportedProgram, bool]:
    """The `torch.export` program and whether its batch axis is free (up to `max_batch`, for runtimes that plan
    memory ahead)."""
    training = model.training
    example = contiguous(example)
    try:
        if not isinstance(model, GraphModule):
            model.eval()
        shared = _batch_axis_leaves(example)
        if shared:
            wide = repeated(example, max((max_batch or 0) // 2, TRACE_BATCH, example.size))
            try:
                program = _export(model, wide, free_batch=True, max_batch=max_batch)
            except Exception:  # noqa: BLE001  whatever the reason, the fixed-size attempt below reports its own
                program = None
            if program is not None and _batch_is_free(program):
                return program, True
        return _export(model, example, free_batch=False), False
    except ExportError:
        raise
    except Exception as wrong:  # torch.export raises dozens of types, none of them documented
        raise ExportError(_explain(wrong)) from wrong
    finally:
        if not isinstance(model, GraphModule):
            model.train(training)


def _batch_axis_leaves(example: Batch) -> bool:
    return any(t.ndim and t.shape[0] == example.size for t in example.tensors())


def _export(
    model: nn.Module, example: Batch, *, free_batch: bool, max_batch: int | None = None
) -> ExportedProgram:
    size = example.size
    axis = Dim("N", min=1, max=max_batch) if max_batch else Dim.AUTO

    def dims(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return {0: axis} if leaf.ndim and leaf.shape[0] == size else None
        return None

    shapes = pytree.tree_map(dims, (example.args, dict(example.kwargs))) if free_batch else None
    dynamic: Any = None
    if shapes is not None:
        names = _argument_names(model, len(example.args))
        dynamic = {**dict(zip(names, shapes[0], strict=True)), **shapes[1]} if names else shapes[0]
    with torch.no_grad():
        return torch.export.export(
            model, example.args, dict(example.kwargs), dynamic_shapes=dynamic, strict=False
        )


def _argument_names(model: nn.Module, count: int) -> list[str]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters[: count + 1]):
        return []
    return [p.name for p in parameters[:count]]


def _batch_is_free(program: ExportedProgram) -> bool:
    users = [program.graph_signature.user_inputs]
    names = {name for group in users for name in group if isinstance(name, str)}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.ndim and isinstance(value.shape[0], torch.SymInt):
                return True
    return False


def _explain(wrong: BaseException) -> str:
    """The reason and the user's own source line out of a torch.export failure."""
    frames = traceback.extract_tb(wrong.__traceback__)
    inside = str(Path(torch.__file__).parent)
    here = str(Path(__file__).parent.parent)
    own = [f for f in frames if not f.filename.startswith((inside, here, "<"))]
    reason = next((line for line in str(wrong).splitlines() if line.strip()), type(wrong).__name__)
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}: `{own[-1].line}`" if own else ""
    return (
        f"The model does not export: {reason.strip()}{place}. torch.export must be able to follow forward() without "
        "looking at tensor values; rewrite that line with torch operators (torch.where, masks), or compress a "
        "submodule that does export."
    )


def functionalize_(module: GraphModule) -> None:
    """Replace `relu_`, `add_`, ... by their functional twins and point later readers at the result."""
    graph = module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        target = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
            continue
        name = target._schema.name.removeprefix("aten::")
        if not name.endswith("_") or name.startswith("_") or not hasattr(torch.ops.aten, name[:-1]):
            continue
        packet = getattr(torch.ops.aten, name[:-1])
        if target._overloadname not in packet.overloads():
            continue
        mutated = node.args[0]
        node.target = getattr(packet, target._overloadname)
        mutated.replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node]: order[user] > at)
    graph.lint()
    module.recompile()


def describe(module: GraphModule, dynamic_batch: bool) -> Graph:
    """The graph as data."""
    state = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
    nodes: list[Node] = []
    inputs: list[str] = []
    input_shapes: list[Shape] = []
    outputs: tuple[str, ...] = ()
    uncounted: dict[str, int] = {}
    used: dict[str, list[str]] = {}
    batch = _batch_of(module)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            inputs.append(node.name)
            input_shapes.append(_shape(node.meta.get("val")))
        elif node.op == "output":
            outputs = tuple(n.name for n in node.all_input_nodes)
        elif node.op in ("call_function", "call_module"):
            operands = _operands(node)
            for operand in operands:
                if operand.kind == "parameter":
                    used.setdefault(operand.source, []).append(node.name)
            cost = _cost(node)
            if cost is None:
                uncounted[op_name(node)] = uncounted.get(op_name(node), 0) + 1
            nodes.append(
                Node(
                    name=node.name,
                    op=op_name(node),
                    target=str(node.target),
                    layer=layer_of(node),
                    operands=operands,
                    shape=_shape(node.meta.get("val")),
                    dtype=str(getattr(node.meta.get("val"), "dtype", "")).removeprefix("torch."),
                    macs=(cost or 0) // batch,
                )
            )
    tensors = tuple(
        TensorInfo(
            name=name,
            shape=tuple(t.shape),
            dtype=str(t.dtype).removeprefix("torch."),
            bytes=t.numel() * t.element_size(),
            trainable=isinstance(t, nn.Parameter),
            used_by=tuple(used.get(name, ())),
        )
        for name, t in _unaliased(state).items()
    )
    return Graph(
        nodes=tuple(nodes),
        tensors=tensors,
        inputs=tuple(inputs),
        input_shapes=tuple(input_shapes),
        outputs=outputs,
        dynamic_batch=dynamic_batch,
        uncounted=uncounted,
    )


def _unaliased(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied parameters are counted once, under the first name."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        key = (id(tensor), tuple(tensor.shape))
        if key not in seen:
            seen.add(key)
            kept[name] = tensor
    return kept


def _batch_of(module: GraphModule) -> int:
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor) and value.ndim:
            return max(1, _hint(value.shape[0]))
    return 1


def op_name(node: FxNode) -> str:
    """`aten.conv2d.default` -> `conv2d`; in-place twins share the name."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].removesuffix("_") or str(target)
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def layer_of(node: FxNode) -> str:
    """The innermost module that called this operator."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = list(stack.values())[-1]
    return str(path[0]) if isinstance(path, tuple) else str(path)


def _operands(node: FxNode) -> tuple[Operand, ...]:
    found: list[Operand] = []
    for position, argument in enumerate((*node.args, *node.kwargs.values())):
        for source in _nodes_in(argument):
            if source.op == "get_attr":
                found.append(Operand(position=position, source=str(source.target), kind="parameter"))
            elif isinstance(source.meta.get("val"), (torch.Tensor, list, tuple)):
                found.append(Operand(position=position, source=source.name, kind="value"))
    return tuple(found)


def _nodes_in(argument: object) -> list[FxNode]:
    return [leaf for leaf in pytree.tree_leaves(argument) if isinstance(leaf, FxNode)]


def _cost(node: FxNode) -> int | None:
    def sizes(argument: object) -> Sequence[int] | None:
        value = argument.meta.get("val") if isinstance(argument, FxNode) else None
        return [_hint(s) for s in value.shape] if isinstance(value, torch.Tensor) else None

    out = node.meta.get("val")
    first = out[0] if isinstance(out, (tuple, list)) and out else out
    out_shape = [_hint(s) for s in first.shape] if isinstance(first, torch.Tensor) else []
    return macs(op_name(node), [sizes(a) for a in node.args], out_shape, node.args)


def _shape(value: object) -> Shape:
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple("N" if isinstance(s, torch.SymInt) else int(s) for s in value.shape)


def _hint(size: object) -> int:
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return int(hint) if hint is not None else 1
    return int(size)  # type: ignore[call-overload]
