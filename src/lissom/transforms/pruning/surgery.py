"""Cuts carried out: the user's own class with smaller parameters where that is proven, else the rewritten graph.

The traced graph is rewritten first (`graph.resize`): that is what the result must compute. Then the same slices are
taken from a copy of the user's module, and the integers that its modules keep (`num_heads`, `groups`,
`normalized_shape`) are set to what the graph's constants became. The copy is traced again: only if it gives the
rewritten graph, operator by operator and constant by constant, is it handed back.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import ExportError, VerificationError
from lissom.graph.channels import Channels, find_channels, listed_names
from lissom.graph.masked import Masked
from lissom.graph.resize import Change, Kept, Sizes, resize_, slice_parameters_
from lissom.graph.trace import Trace, evaluation, trace
from lissom.task import Batch, contiguous, repeated
from lissom.transforms.base import clone

ALLOWED_GAP = 1e-4
"""Of the largest output: what float32 sums in another order may differ by, through a deep network."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """`own` says whether the module is of the user's class; else `reason` says why not."""

    module: nn.Module
    own: bool
    reason: str
    gap: float
    """Largest difference to the masked original, as a share of the largest output."""


def prune(model: nn.Module, traced: Trace, kept: Kept, example: Batch, channels: Channels | None = None) -> Pruned:
    """A smaller copy of `model` with only the `kept` channels, checked against the masked original.

    Raises:
        VerificationError: the smaller network is not the masked one.
    """
    channels = channels or find_channels(traced)
    sizes = Sizes(channels, kept)
    names = listed_names(traced)
    module = clone(traced.module)
    slice_parameters_(module, sizes, names)
    changes = resize_(module, sizes)
    reason = "the model is an exported graph"
    found: nn.Module = module
    own = False
    if not isinstance(model, GraphModule):
        candidate, reason = _own_class(model, traced, sizes, changes, module, example)
        found, own = (module, False) if candidate is None else (candidate, True)
    gap = difference(traced, sizes, found, example)
    if not gap <= ALLOWED_GAP:
        raise VerificationError(
            f"The pruned network differs from the masked original by {gap:.1e} of the largest output (allowed "
            f"{ALLOWED_GAP:.0e}); the first group that does so alone: {_culprit(traced, sizes, example)}. This is a "
            "bug in Lissom's channel coupling: please report the model. Prune(exclude=[...]) leaves the group whole."
        )
    return Pruned(found, own, reason, gap)


@torch.no_grad()
def difference(traced: Trace, sizes: Sizes, pruned: nn.Module, example: Batch) -> float:
    """Largest gap between the masked original and `pruned` on the example, as a share of the largest output."""
    inputs = _batch_for(traced, example)
    masked = Masked(traced, sizes, listed_names(traced))
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    wanted = pytree.tree_leaves(masked.run(*leaves, enable_io_processing=False))
    with evaluation(pruned):
        got = pytree.tree_leaves(pruned(*inputs.args, **inputs.kwargs))
    worst = 0.0
    for a, b in zip(_tensors(wanted), _tensors(got), strict=True):
        if a.shape != b.shape:
            return math.inf
        if a.numel() and a.is_floating_point():
            scale = float(a.abs().max().clamp_min(1e-30))
            worst = max(worst, float((a.double() - b.double()).abs().max()) / scale)
        elif a.numel() and not torch.equal(a, b):
            return math.inf
    return worst


def _batch_for(traced: Trace, example: Batch) -> Batch:
    example = contiguous(example)
    return repeated(example, max(2, example.size)) if traced.graph.dynamic_batch else example


def _tensors(leaves: Sequence[object]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _culprit(traced: Trace, sizes: Sizes, example: Batch) -> str:
    """The first group that differs when it alone is cut."""
    for group in sizes.channels.groups:
        if group.atom not in sizes.kept:
            continue
        alone = Sizes(sizes.channels, {group.atom: sizes.kept[group.atom]})
        module = clone(traced.module)
        slice_parameters_(module, alone, listed_names(traced))
        try:
            resize_(module, alone)
            if difference(traced, alone, module, example) <= ALLOWED_GAP:
                continue
        except (RuntimeError, IndexError, ValueError):
            pass
        return repr(group.name)
    return "none, only together"


def _own_class(
    model: nn.Module, traced: Trace, sizes: Sizes, changes: Sequence[Change], wanted: GraphModule, example: Batch
) -> tuple[nn.Module | None, str]:
    smaller = clone(model)
    slice_parameters_(smaller, sizes, _own_names(model, traced))
    _set_sizes_(smaller, model)
    stacks = {node.name: _stack(node) for node in traced.module.graph.nodes}
    _set_constants_(smaller, changes, stacks)
    try:
        again = trace(smaller, example)
    except ExportError as wrong:
        return None, f"its own forward() does not run at the new sizes ({str(wrong).split('. torch.export')[0]})"
    except (RuntimeError, ValueError, TypeError, AssertionError) as wrong:
        return None, f"its own forward() does not run at the new sizes ({str(wrong).splitlines()[0]})"
    for mine, its in zip(_signature(wanted), _signature(again.module), strict=False):
        if mine != its:
            return None, f"its own forward() computes {its} where the pruned graph has {mine}"
    return smaller, ""


def _own_names(model: nn.Module, traced: Trace) -> dict[str, str]:
    """Every name of a tensor of the user's module to the one it is listed under, aliases included."""
    listed = listed_names(traced)
    state = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    known = {id(state[name]): found for name, found in listed.items() if name in state}
    return {name: known[id(tensor)] for name, tensor in state.items() if id(tensor) in known}


def _stack(node: FxNode) -> list[str]:
    """The modules that an operator was called in, innermost first."""
    stack = cast(Mapping[str, Any], node.meta.get("nn_module_stack") or {})
    paths = [str(path).split("@")[0] for path, _ in stack.values()]
    return [path for path in reversed(paths) if not path.startswith("_empty_nn_module_stack")]


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def _set_sizes_(smaller: nn.Module, model: nn.Module) -> None:
    """The sizes that torch's own layers keep beside their weights."""
    for path, layer in smaller.named_modules():
        before = model.get_submodule(path) if path else model
        weight = getattr(layer, "weight", None)
        if isinstance(layer, (nn.LSTM, nn.GRU, nn.RNN)):
            hidden = cast(torch.Tensor, layer.weight_hh_l0).shape[1]
            layer.hidden_size, layer.input_size = hidden, cast(torch.Tensor, layer.weight_ih_l0).shape[1]
            layer.flatten_parameters()
        if not isinstance(weight, torch.Tensor) or weight.shape == getattr(before, "weight", weight).shape:
            continue
        shape = tuple(weight.shape)
        if isinstance(layer, _CONV):
            # Depthwise: groups follow the channels. Other groups come from the graph.
            if layer.groups == layer.in_channels and shape[1] == 1:
                layer.groups = shape[0] * layer.in_channels // layer.out_channels
            layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
        elif isinstance(layer, _TRANSPOSED):
            if layer.groups == layer.in_channels and layer.groups > 1:
                layer.groups = shape[0]
            layer.in_channels, layer.out_channels = shape[0], shape[1] * layer.groups
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = shape
        elif isinstance(layer, _BATCH_NORM):
            layer.num_features = shape[0]
        elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            layer.normalized_shape = shape
        elif isinstance(layer, nn.GroupNorm):
            layer.num_channels = shape[0]
        elif isinstance(layer, nn.Embedding):
            layer.embedding_dim = shape[1]
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = shape[0]


def _set_constants_(smaller: nn.Module, changes: Sequence[Change], stacks: Mapping[str, list[str]]) -> None:
    """The innermost module around a call that keeps its old constant gets the new one.

    An attribute that would need two values at once is left alone: the trace of the result decides.
    """
    wanted: dict[tuple[str, str], set[Any]] = {}
    for change in changes:
        for old, new in _pairs(change.before, change.after):
            for path in stacks.get(change.node, []):
                names = _holding(smaller.get_submodule(path), old)
                for name in names:
                    wanted.setdefault((path, name), set()).add(new)
                if names:
                    break
    for (path, name), values in wanted.items():
        if len(values) == 1:
            holder, (new,) = smaller.get_submodule(path), values
            kind = type(getattr(holder, name))
            setattr(holder, name, kind(new) if kind in (list, tuple) else new)
            if name == "groups" and isinstance(holder, _CONV):
                holder.in_channels = cast(torch.Tensor, holder.weight).shape[1] * holder.groups
            elif name == "groups" and isinstance(holder, _TRANSPOSED):
                holder.out_channels = cast(torch.Tensor, holder.weight).shape[1] * holder.groups


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


def _holding(module: nn.Module, value: Any) -> list[str]:
    """Public attributes of a module that equal a constant; the sizes of torch's own layers are set already."""
    found: list[str] = []
    for name, held in vars(module).items():
        if name.startswith("_") or isinstance(held, bool) or name in ("in_channels", "out_channels", "training"):
            continue
        if isinstance(value, tuple):
            same = isinstance(held, (list, tuple)) and tuple(cast(Sequence[Any], held)) == value
        else:
            same = type(held) is int and held == value
        if same:
            found.append(name)
    return found


def _signature(module: GraphModule) -> list[str]:
    """Operators with their arguments, in order, free of names."""
    number: dict[FxNode, str] = {}
    lines: list[str] = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value: object = operator.attrgetter(str(node.target))(module)
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            number[node] = f"{node.target}{shape}"
            continue
        if str(node.target).startswith("aten._assert_tensor_metadata"):
            continue
        number[node] = f"%{len(lines)}"
        shown = pytree.tree_map(
            lambda leaf: number.get(leaf, "?") if isinstance(leaf, FxNode) else repr(leaf),
            (node.args, dict(node.kwargs)),
            is_leaf=lambda leaf: isinstance(leaf, FxNode),
        )
        lines.append(f"{node.target if node.op == 'call_function' else node.op}{shown}")
    return lines
