"""In-place operators as their functional twins, so that every value keeps its meaning after its node ran."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.graph.describe import op_name, schema_of

SAME_IN_EVALUATION = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
"""Operators that hand back their input itself in evaluation mode, which their schema does not say."""


def hides_values(module: GraphModule) -> bool:
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
    for argument, given in zip(schema_of(node.target).arguments, node.args, strict=False):
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
    return any(result.alias_info is not None for result in schema_of(node.target).returns)


def _is_aliased(node: FxNode, source: FxNode) -> bool:
    """Whether `source` is an argument that `node` hands back (a view of)."""
    if not isinstance(node.target, OpOverload) or op_name(node) in SAME_IN_EVALUATION:
        return bool(node.args) and node.args[0] is source
    pairs = zip(schema_of(node.target).arguments, node.args, strict=False)
    return any(given is source and argument.alias_info is not None for argument, given in pairs)


def drop_identities_(program: ExportedProgram) -> None:
    """Functionalization takes what these operators return for a new value; in evaluation it is their input."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        trains = node.args[2] if len(node.args) > 2 else True
        if op_name(node) not in SAME_IN_EVALUATION or trains or any(user.op == "output" for user in node.users):
            continue
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    program.graph_module.recompile()


def restore_batch_norms_(module: GraphModule) -> None:
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
    schema = schema_of(node.target)
    name = schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.startswith("_") or not hasattr(torch.ops.aten, name[:-1]):
        return None
    packet = getattr(torch.ops.aten, name[:-1])
    overload = schema.overload_name or "default"
    return getattr(packet, overload) if overload in packet.overloads() else None
