"""The only tracer: `torch.export`, non-strict, on the example inputs.

A batch axis is left free where the model allows it. torch.export specializes sizes 0 and 1, so the example is
repeated to a batch of two before tracing; a model that refuses another batch size is traced as it is, and
`Graph.dynamic_batch` says so. In-place operators are rewritten to their functional twins, so that every value of the
graph keeps its meaning after its node ran; where an operator writes into a view of a value that is read
later, torch.export's own functionalization is used.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import operator
import sysconfig
import traceback
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch._ops import HigherOrderOperator, OpOverload
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

SAME_IN_EVALUATION = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
"""Operators that hand back their input itself in evaluation mode, which their schema does not say."""


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
        ExportError: torch.export refuses; the message names the reason and the user's source line.
    """
    program, dynamic = export_program(model, example)
    module = _module_of(program)
    if _hides_values(module):
        _drop_identities_(program)
        try:
            # An empty table decomposes nothing: this functionalizes, and inlines sub-graphs.
            with quiet():
                program = program.run_decompositions({})
        except Exception as wrong:  # as undocumented as torch.export.export
            raise ExportError(_explain(wrong)) from wrong
        module = _module_of(program)
        _restore_batch_norms_(module)
    functionalize_(module)
    return Trace(program, module, describe(module, dynamic))


def _module_of(program: ExportedProgram) -> GraphModule:
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """torch.export remarks on its own and torch's internals; what a user can act on is an `ExportError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Generator[None]:
    """Evaluation mode inside; afterwards every submodule has the mode it had. Exported programs have none."""
    modes = [(module, module.training) for module in model.modules()]
    if not isinstance(model, GraphModule):
        model.eval()
    try:
        yield
    finally:
        if not isinstance(model, GraphModule):
            # First by way of the model's own train(), which may do more than set the flag.
            model.train(modes[0][1])
        for module, mode in modes:
            module.training = mode


def export_program(model: nn.Module, example: Batch, *, max_batch: int | None = None) -> tuple[ExportedProgram, bool]:
    """The `torch.export` program and whether its batch axis is free.

    `max_batch` bounds a free axis, for runtimes that plan memory ahead.

    Raises:
        ExportError: torch.export refuses; the message names the reason and the user's source line.
    """
    example = contiguous(example)
    with evaluation(model):
        if _batch_axis_leaves(example):
            wide = repeated(example, max((max_batch or 0) // 2, TRACE_BATCH, example.size))
            try:
                program = _export(model, wide, free_batch=True, max_batch=max_batch)
            except Exception:  # noqa: BLE001  whatever the reason, the fixed-size attempt below reports its own
                program = None
            if program is not None and _batch_is_free(program, wide.size):
                return program, True
        try:
            return _export(model, example, free_batch=False), False
        except Exception as wrong:  # torch.export raises dozens of types, none of them documented
            raise ExportError(_explain(wrong)) from wrong


def _batch_axis_leaves(example: Batch) -> bool:
    return any(t.ndim and t.shape[0] == example.size for t in example.tensors())


def _export(model: nn.Module, example: Batch, *, free_batch: bool, max_batch: int | None = None) -> ExportedProgram:
    size = example.size
    axis = Dim("N", min=1, max=max_batch) if max_batch else Dim.AUTO

    def dims(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return {0: axis} if leaf.ndim and leaf.shape[0] == size else None
        return None

    kwargs = dict(example.kwargs)
    dynamic: dict[str, Any] | None = None
    if free_batch:
        args_shapes, kwargs_shapes = pytree.tree_map(dims, (example.args, kwargs))
        # torch.export wants the shapes by argument name, bound as the call itself would be.
        dynamic = inspect.signature(model.forward).bind(*args_shapes, **kwargs_shapes).arguments
    with torch.no_grad(), quiet():
        return torch.export.export(model, example.args, kwargs, dynamic_shapes=dynamic, strict=False)


def _batch_is_free(program: ExportedProgram, size: int) -> bool:
    """Whether every input whose first axis had the example's size may have another one."""
    names = set(program.graph_signature.user_inputs)
    free: list[bool] = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or node.name not in names or not isinstance(value, torch.Tensor):
            continue
        if value.ndim and _is_free(value.shape[0]):
            free.append(True)
        elif value.ndim and _hint(value.shape[0]) == size:
            free.append(False)
    return bool(free) and all(free)


def _is_free(size: object) -> bool:
    """A symbolic size that tracing did not pin to a number."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def _explain(wrong: BaseException) -> str:
    """The reason and the user's own source line out of a torch.export failure."""
    frames = traceback.extract_tb(wrong.__traceback__)
    own = [frame for frame in frames if not _is_foreign(frame.filename)]
    reason = next((line for line in str(wrong).splitlines() if line.strip()), type(wrong).__name__)
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}: `{own[-1].line}`" if own else ""
    return (
        f"The model does not export: {reason.strip()}{place}. torch.export must be able to follow forward() "
        "without looking at tensor values; rewrite that line with torch operators (torch.where, masks), or "
        "compress a submodule that does export."
    )


def _is_foreign(file: str) -> bool:
    """Whether a frame is torch's, ours, Python's own or generated: no line that the user could change."""
    if file.startswith(("<", str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))):
        return True
    return file.startswith(sysconfig.get_path("stdlib")) and "-packages" not in file


def _hides_values(module: GraphModule) -> bool:
    """Whether a value changes under another name (a write into a view), or operators sit in a sub-graph."""
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    for node, at in order.items():
        if isinstance(node.target, HigherOrderOperator):
            return True
        written = _written(node)
        if written is None:
            continue
        family = _aliases(written, at, order) - {written, node}
        if any(order[user] > at for member in family for user in member.users):
            return True
    return False


def _written(node: FxNode) -> FxNode | None:
    """The value that an in-place operator writes into."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return None
    for argument, given in zip(_schema(node.target).arguments, node.args, strict=False):
        if argument.is_write and isinstance(given, FxNode):
            return given
    return None


def _aliases(node: FxNode, before: int, order: dict[FxNode, int]) -> set[FxNode]:
    """Every value made by node number `before` that may share memory with `node`."""
    family: set[FxNode] = set()
    waiting = [node]
    while waiting:
        member = waiting.pop()
        if member in family:
            continue
        family.add(member)
        if _may_alias(member):
            waiting += [source for source in member.all_input_nodes if _is_aliased(member, source)]
        waiting += [u for u in member.users if order[u] < before and _may_alias(u) and _is_aliased(u, member)]
    return family


def _may_alias(node: FxNode) -> bool:
    if node.target is operator.getitem:
        return True
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    if op_name(node) in SAME_IN_EVALUATION:
        return True
    return any(result.alias_info is not None for result in _schema(node.target).returns)


def _is_aliased(node: FxNode, source: FxNode) -> bool:
    """Whether `source` is an argument that `node` hands back (a view of)."""
    if not isinstance(node.target, OpOverload) or op_name(node) in SAME_IN_EVALUATION:
        return bool(node.args) and node.args[0] is source
    pairs = zip(_schema(node.target).arguments, node.args, strict=False)
    return any(given is source and argument.alias_info is not None for argument, given in pairs)


def _drop_identities_(program: ExportedProgram) -> None:
    """Functionalization takes what these operators return for a new value; in evaluation it is their input."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        trains = node.args[2] if len(node.args) > 2 else True
        if op_name(node) not in SAME_IN_EVALUATION or trains or any(user.op == "output" for user in node.users):
            continue
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    program.graph_module.recompile()


def _restore_batch_norms_(module: GraphModule) -> None:
    """Functionalization always splits this one operator; its evaluation form is put together again."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._native_batch_norm_legit_no_training.default:
            continue
        source, weight, bias, mean, variance, momentum, eps = node.args
        first = next(user for user in node.users if user.args[1] == 0)
        with graph.inserting_before(first):
            args = (source, weight, bias, mean, variance, False, momentum, eps, False)
            whole = graph.call_function(torch.ops.aten.batch_norm.default, args)
        whole.meta.update({**node.meta, "val": first.meta["val"]})
        first.replace_all_uses_with(whole)
        for user in list(node.users):
            graph.erase_node(user)
        graph.erase_node(node)
    module.recompile()


def functionalize_(module: GraphModule) -> None:
    """Replace `relu_`, `add_`, ... by their functional twins and point later readers at the result."""
    graph = module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        twin, mutated = _functional_twin(node), _written(node)
        if twin is None or mutated is None:
            continue
        node.target = twin

        def reads_later(user: FxNode, at: int = order[node]) -> bool:
            return order[user] > at

        mutated.replace_all_uses_with(node, delete_user_cb=reads_later)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _functional_twin(node: FxNode) -> OpOverload[..., Any] | None:
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return None
    schema = _schema(node.target)
    name = schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.startswith("_") or not hasattr(torch.ops.aten, name[:-1]):
        return None
    packet = getattr(torch.ops.aten, name[:-1])
    overload = schema.overload_name or "default"
    return getattr(packet, overload) if overload in packet.overloads() else None


def _schema(target: OpOverload[..., Any]) -> torch.FunctionSchema:
    return target._schema  # pyright: ignore[reportPrivateUsage]  torch offers no public way to it


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


def _batch_of(module: GraphModule) -> int:
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor) and value.ndim:
            return max(1, _hint(value.shape[0]))
    return 1


def op_name(node: FxNode) -> str:
    """`aten.conv2d.default` -> `conv2d`; in-place twins share the name."""
    target = node.target
    if isinstance(target, OpOverload):
        return _schema(target).name.split("::")[-1].removesuffix("_") or str(target)
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def layer_of(node: FxNode) -> str:
    """The innermost module that called this operator."""
    return _innermost(node)[0]


def module_of(node: FxNode) -> str:
    """The class of that module: `torch.nn.modules.conv.Conv2d`; empty where tracing did not keep it."""
    return _innermost(node)[1]


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
    for position, argument in enumerate(_schema(node.target).arguments):
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
        return [_hint(s) for s in value.shape] if isinstance(value, torch.Tensor) else None

    out: object = node.meta.get("val")
    leaves = pytree.tree_leaves(out)
    if leaves and not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return 0  # sizes and other numbers
    first: object = leaves[0] if leaves else None
    out_shape = [_hint(s) for s in first.shape] if isinstance(first, torch.Tensor) else []
    return macs(op_name(node), [sizes(a) for a in node.args], out_shape, node.args)


def _shape(value: object) -> Shape:
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple("N" if _is_free(s) else _hint(s) for s in value.shape)


def _dtype(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""


def _hint(size: object) -> int:
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return int(hint) if hint is not None else 1
    return int(cast(int, size))
