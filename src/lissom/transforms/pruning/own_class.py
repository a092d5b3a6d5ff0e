"""The user's own class at the new sizes, if its trace proves that it computes the pruned graph."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import ExportError, first_line
from lissom.graph.axes import Term
from lissom.graph.channels import listed_names
from lissom.graph.coupling import Call
from lissom.graph.describe import schema_of, stack_of
from lissom.graph.resize import Change, Sizes, slice_parameters_
from lissom.graph.trace import Trace, trace
from lissom.task import Batch
from lissom.transforms.base import clone
from lissom.transforms.pruning.left_out import NOTHING, LeftOut


def own_class(
    model: nn.Module,
    traced: Trace,
    sizes: Sizes,
    changes: Sequence[Change],
    wanted: GraphModule,
    example: Batch,
    left_out: LeftOut = NOTHING,
) -> tuple[nn.Module | None, str]:
    """A smaller copy of `model`, or None and the reason. `wanted` is the graph that it has to compute."""
    stacks = {node.name: stack_of(node) for node in traced.module.graph.nodes}
    own_names = _own_names(model, traced)
    named = _named(model, changes, stacks)
    reason = ""
    # Attributes that no constant names are tried where the first copy fails: `split(self.width // 2)` holds the whole.
    first = {**_counted(model, sizes, own_names), **named}
    for values in (first, {**_followed(model, traced, sizes, stacks), **named}):
        if reason and values == first:
            break
        smaller = clone(model)
        slice_parameters_(smaller, sizes, own_names)
        _set_sizes_(smaller, model)
        _set_attributes_(smaller, values)
        left_out.drop_(smaller)
        found = unlike(smaller, wanted, example, left_out)
        if not found:
            return smaller, ""
        reason = reason or found
    return None, reason


def unlike(smaller: nn.Module, wanted: GraphModule, example: Batch, left_out: LeftOut = NOTHING) -> str:
    """Why the module does not compute the graph, whose parameters have the names of before; empty where it does."""
    try:
        again = trace(smaller, example)
    except ExportError as wrong:
        return f"its own forward() does not run at the new sizes ({str(wrong).split('. torch.export')[0]})"
    except (RuntimeError, ValueError, TypeError, AssertionError) as wrong:
        return f"its own forward() does not run at the new sizes ({first_line(wrong)})"
    for mine, its in zip_longest(signature(wanted, left_out), signature(again.module), fillvalue="nothing"):
        if mine != its:
            return f"its own forward() computes {its} where the pruned graph has {mine}"
    return ""


def _own_names(model: nn.Module, traced: Trace) -> dict[str, str]:
    """Every name of a tensor of the user's module to the one it is listed under, aliases included."""
    listed = listed_names(traced)
    state = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    known = {id(state[name]): found for name, found in listed.items() if name in state}
    return {name: known[id(tensor)] for name, tensor in state.items() if id(tensor) in known}


_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def _set_sizes_(smaller: nn.Module, model: nn.Module) -> None:
    """The sizes that torch's own layers keep beside their weights."""
    for path, layer in smaller.named_modules():
        before = model.get_submodule(path) if path else model
        if isinstance(layer, _RECURRENT):
            layer.hidden_size = cast(torch.Tensor, layer.weight_hh_l0).shape[1]
            layer.input_size = cast(torch.Tensor, layer.weight_ih_l0).shape[1]
            layer.flatten_parameters()
        weight, old = getattr(layer, "weight", None), getattr(before, "weight", None)
        if not isinstance(weight, torch.Tensor) or not isinstance(old, torch.Tensor) or weight.shape == old.shape:
            continue
        for kinds, names in _SIZES:
            if isinstance(layer, kinds):
                for name, value in zip(names, weight.shape, strict=False):
                    setattr(layer, name, value)
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            layer.normalized_shape = tuple(weight.shape)
        elif isinstance(layer, (*_CONV, *_TRANSPOSED)):
            _set_channels_(layer)


_SIZES: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    ((nn.Linear,), ("out_features", "in_features")),
    (_BATCH_NORM, ("num_features",)),
    ((nn.GroupNorm,), ("num_channels",)),
    ((nn.Embedding,), ("num_embeddings", "embedding_dim")),
    ((nn.PReLU,), ("num_parameters",)),
)
"""Layers, and the attributes that repeat the shape of their weight."""


def _set_channels_(layer: _Convolution) -> None:
    """From the weight and the groups, which follow from the graph's constants."""
    first, second = layer.weight.shape[:2]
    inside = second * layer.groups
    transposed = isinstance(layer, _TRANSPOSED)
    layer.out_channels, layer.in_channels = (inside, first) if transposed else (first, inside)


Attributes = dict[tuple[str, str], Any]
"""(module, attribute) to its new value."""


def _named(model: nn.Module, changes: Sequence[Change], stacks: Mapping[str, list[str]]) -> Attributes:
    """The innermost module around a call that keeps its old constant gets the new one.

    An attribute that would need several values gets the one that most calls name, of equally many the last: the trace
    of the result decides.
    """
    wanted: dict[tuple[str, str], list[Any]] = {}
    for change in changes:
        for old, new in _pairs(change.before, change.after):
            for path in stacks.get(change.node, []):
                names = holding(model.get_submodule(path), old)
                for name in names:
                    wanted.setdefault((path, name), []).append(new)
                if names:
                    break
    return {key: _most(values) for key, values in wanted.items()}


def _counted(model: nn.Module, sizes: Sizes, names: Mapping[str, str]) -> Attributes:
    """Numbers of experts that modules keep beside the experts' parameters: the graph need not name them.

    Not where another axis of a module's own parameters is as long: it could be the number of that one.
    """
    gates = {group.atom for group in sizes.channels.groups if group.floor > 1}
    wanted: Attributes = {}
    for path, module in model.named_modules():
        lengths: dict[int, set[Term]] = {}
        for name, _ in module.named_parameters(recurse=False):
            listed = names.get(f"{path}.{name}" if path else name, "")
            for term in map(sizes.channels.axes.look, sizes.channels.parameters.get(listed, ())):
                lengths.setdefault(term.size, set()).add(term)
        for size, terms in lengths.items():
            term = next(iter(terms))
            if len(terms) == 1 and term in gates and sizes.changed([term]):
                wanted.update({(path, name): sizes.after(term) for name in holding(module, size)})
    return wanted


def _followed(model: nn.Module, traced: Trace, sizes: Sizes, stacks: Mapping[str, list[str]]) -> Attributes:
    """Attributes that equal the size of an axis that a module itself reads or makes follow that axis."""
    values = sizes.channels.on(traced.module)
    wanted: dict[tuple[str, str], list[int]] = {}
    for node in traced.module.graph.nodes:
        path = stacks[node.name][:1]
        if node.op != "call_function" or not path or node not in values:
            continue
        for terms in Call.of(sizes.channels.axes, node, values).every():
            for term in terms:
                after = sizes.after(term)
                for name in holding(model.get_submodule(path[0]), term.size) if after != term.size else ():
                    wanted.setdefault((path[0], name), []).append(after)
    return {key: _most(found) for key, found in wanted.items()}


def _most(values: Sequence[Any]) -> Any:
    return Counter(reversed(values)).most_common(1)[0][0]


def _set_attributes_(smaller: nn.Module, values: Attributes) -> None:
    for (path, name), new in values.items():
        holder = smaller.get_submodule(path)
        kind = type(getattr(holder, name))
        setattr(holder, name, kind(new) if kind in (list, tuple) else new)
        if name == "groups" and isinstance(holder, (*_CONV, *_TRANSPOSED)):
            _set_channels_(holder)


def _pairs(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """A changed list of sizes as a whole, and each of its sizes that changed."""
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        first, second = cast(Sequence[Any], before), cast(Sequence[Any], after)
        if all(isinstance(size, int) for size in (*first, *second)):
            yield tuple(first), tuple(second)
        for old, new in zip(first, second, strict=False):
            if isinstance(old, int) and isinstance(new, int) and old != new:
                yield old, new
    elif isinstance(before, int) and isinstance(after, int):
        yield before, after


def holding(module: nn.Module, value: Any) -> list[str]:
    """Public attributes of a module that equal a constant; the sizes of torch's own layers are set already."""
    found: list[str] = []
    done = {"in_channels", "out_channels"}
    for kinds, names in (*_SIZES, (_RECURRENT, ("input_size", "hidden_size"))):
        if isinstance(module, kinds):
            done.update(names)
    for name, held in vars(module).items():
        if name.startswith("_") or isinstance(held, bool) or name in done:
            continue
        if isinstance(value, tuple):
            same = isinstance(held, (list, tuple)) and tuple(cast(Sequence[Any], held)) == value
        else:
            same = type(held) is int and held == value
        if same:
            found.append(name)
    return found


def signature(module: GraphModule, left_out: LeftOut = NOTHING) -> list[str]:
    """Operators with their arguments, in order, free of names but those of parameters."""
    number: dict[FxNode, str] = {}
    lines: list[str] = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value: object = operator.attrgetter(str(node.target))(module)
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            number[node] = f"{left_out.name(str(node.target))}{shape}"
            continue
        if str(node.target).startswith("aten._assert_tensor_metadata"):
            continue
        number[node] = f"%{len(lines)}"
        shown = pytree.tree_map(
            lambda leaf: number.get(leaf, "?") if isinstance(leaf, FxNode) else repr(leaf),
            _arguments(node),
            is_leaf=lambda leaf: isinstance(leaf, FxNode),
        )
        lines.append(f"{node.target if node.op == 'call_function' else node.op}{shown}")
    return lines


def _arguments(node: FxNode) -> object:
    """In the order of the operator's schema, defaults filled in: a constant may be written out or not."""
    if not isinstance(node.target, OpOverload):
        return node.args, dict(node.kwargs)
    return [
        node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        for position, argument in enumerate(schema_of(node.target).arguments)
    ]
