"""A traced program as data: `Graph`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.graph.cost import macs
from lissom.graph.graph import Graph, Node, Operand, Shape
from lissom.graph.graph import Tensor as TensorInfo


def describe(module: GraphModule, dynamic_batch: bool) -> Graph:
    """The graph as data."""
    state = _state(module)
    canonical = _canonical(module, state)
    nodes: list[Node] = []
    inputs: list[str] = []
    input_shapes: list[Shape] = []
    outputs: tuple[str, ...] = ()
    uncounted: dict[str, int] = {}
    used: dict[str, list[str]] = {}
    input_dtypes: list[str] = []
    batch = _batch_of(module)
    fed: set[FxNode] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            inputs.append(node.name)
            input_shapes.append(_shape(node.meta.get("val")))
            input_dtypes.append(_dtype(node.meta.get("val")))
            fed.add(node)
        elif node.op == "output":
            outputs = tuple(n.name for n in node.all_input_nodes)
        elif node.op in ("call_function", "call_module"):
            operands = _operands(node, canonical)
            if not fed.isdisjoint(node.all_input_nodes):
                fed.add(node)
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
                    dtype=_dtype(node.meta.get("val")),
                    # What is computed from parameters alone is computed once, however large the batch.
                    macs=(cost or 0) // (batch if node in fed else 1),
                    constants=_constants(node),
                    module=module_of(node),
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
        for name, t in state.items()
        if canonical[name] == name
    )
    return Graph(
        nodes=tuple(nodes),
        tensors=tensors,
        inputs=tuple(inputs),
        input_shapes=tuple(input_shapes),
        input_dtypes=tuple(input_dtypes),
        outputs=outputs,
        dynamic_batch=dynamic_batch,
        uncounted=uncounted,
    )


def _state(module: GraphModule) -> dict[str, torch.Tensor]:
    """Parameters, buffers, and the constants that tracing found, by name."""
    state: dict[str, torch.Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    for node in module.graph.nodes:
        if node.op == "get_attr":
            found: object = operator.attrgetter(str(node.target))(module)
            if isinstance(found, torch.Tensor):
                state.setdefault(str(node.target), found)
    return state


def _canonical(module: GraphModule, state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Every name of a tensor to the one it is counted under: the first that the graph reads, or the first."""
    read = [str(node.target) for node in module.graph.nodes if node.op == "get_attr" and node.users]
    chosen: dict[int, str] = {}
    for name in (*(name for name in read if name in state), *state):
        chosen.setdefault(id(state[name]), name)
    return {name: chosen[id(tensor)] for name, tensor in state.items()}


def names_of(module: GraphModule) -> dict[str, str]:
    """Every name of a parameter, buffer or constant to the one that it is listed under."""
    return _canonical(module, _state(module))


def _batch_of(module: GraphModule) -> int:
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor) and value.ndim:
            return max(1, hint_of(value.shape[0]))
    return 1


def op_name(node: FxNode) -> str:
    """`aten.conv2d.default` -> `conv2d`; in-place twins share the name."""
    target = node.target
    if isinstance(target, OpOverload):
        return schema_of(target).name.split("::")[-1].removesuffix("_") or str(target)
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def layer_of(node: FxNode) -> str:
    """The innermost module that called this operator."""
    return _innermost(node)[0]


def module_of(node: FxNode) -> str:
    """The class of that module: `torch.nn.modules.conv.Conv2d`; empty where tracing did not keep it."""
    return _innermost(node)[1]


def calls_of(node: FxNode) -> list[str]:
    """The calls of modules that an operator was made in, outermost first; the second call of `conv` is `conv@1`."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    # The others are sizes that torch.export asked for by itself.
    return [str(path) for path, _ in stack.values() if not str(path).startswith("_empty_nn_module_stack")]


def stack_of(node: FxNode) -> list[str]:
    """The modules that an operator was called in, innermost first."""
    return [path.split("@")[0] for path in reversed(calls_of(node))]


def _innermost(node: FxNode) -> tuple[str, str]:
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1]
    if str(path).startswith("_empty_nn_module_stack"):  # a size that torch.export asked for by itself
        return "", ""
    # A module that is called again is `conv@1` to torch.export; the layer is the same.
    return str(path).split("@")[0], kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _operands(node: FxNode, canonical: dict[str, str]) -> tuple[Operand, ...]:
    found: list[Operand] = []
    for position, argument in enumerate((*node.args, *node.kwargs.values())):
        for source in _nodes_in(argument):
            if source.op == "get_attr":
                name = str(source.target)
                if name in canonical:
                    found.append(Operand(position=position, source=canonical[name], kind="parameter"))
            elif isinstance(source.meta.get("val"), (torch.Tensor, list, tuple)):
                found.append(Operand(position=position, source=source.name, kind="value"))
    return tuple(found)


def _constants(node: FxNode) -> dict[str, float]:
    """Finite numbers given to the operator that differ from its schema's defaults, by the schema's name."""
    if not isinstance(node.target, OpOverload):
        return {}
    found: dict[str, float] = {}
    for position, argument in enumerate(schema_of(node.target).arguments):
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        if isinstance(given, (int, float)) and math.isfinite(given) and given != argument.default_value:
            found[argument.name] = float(given)
    return found


def _nodes_in(argument: object) -> list[FxNode]:
    return [leaf for leaf in pytree.tree_leaves(argument) if isinstance(leaf, FxNode)]


def _cost(node: FxNode) -> int | None:
    def sizes(argument: object) -> Sequence[int] | None:
        value = argument.meta.get("val") if isinstance(argument, FxNode) else None
        if isinstance(argument, FxNode) and argument.op == "get_attr" and value is None:
            # A quantized graph that was written, not traced.
            value = operator.attrgetter(str(argument.target))(argument.graph.owning_module)
        return [hint_of(s) for s in value.shape] if isinstance(value, torch.Tensor) else None

    out: object = node.meta.get("val")
    leaves = pytree.tree_leaves(out)
    if leaves and not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return 0  # sizes and other numbers
    first: object = leaves[0] if leaves else None
    out_shape = [hint_of(s) for s in first.shape] if isinstance(first, torch.Tensor) else []
    return macs(op_name(node), [sizes(a) for a in node.args], out_shape, node.args)


def _shape(value: object) -> Shape:
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple("N" if is_free(s) else hint_of(s) for s in value.shape)


def _dtype(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""


def hint_of(size: object) -> int:
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return int(hint) if hint is not None else 1
    return int(cast(int, size))


def schema_of(target: OpOverload[..., Any]) -> torch.FunctionSchema:
    return target._schema  # pyright: ignore[reportPrivateUsage]  torch offers no public way to it


def argument_names(node: FxNode) -> list[str]:
    """Of the operator that a node calls, in order."""
    return [argument.name for argument in schema_of(cast(Any, node.target)).arguments]


def is_free(size: object) -> bool:
    """A symbolic size that tracing did not pin to a number."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number
