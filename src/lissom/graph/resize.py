"""A traced graph after channels were cut: parameters sliced, and every constant that follows from a size rewritten."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.graph.axes import Atom, Indices, Term
from lissom.graph.channels import Channels
from lissom.graph.coupling import Call, Terms
from lissom.graph.describe import op_name, schema_of
from lissom.graph.parts import STACKS, modules_axis, operands_of

Kept = Mapping[Atom, Indices]
"""Atom to the channels that stay, ascending. What is not named stays whole."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of all axes before and after a cut."""

    channels: Channels
    kept: Kept

    def places(self, term: Term) -> Indices:
        return self.channels.axes.kept(term, dict(self.kept))

    def after(self, term: Term) -> int:
        counts = {atom: len(kept) for atom, kept in self.kept.items()}
        return self.channels.axes.size_after(term, counts)

    def changed(self, terms: Sequence[Term]) -> bool:
        return any(self.after(term) != term.size for term in terms)

    def of_parameter(self, name: str) -> dict[int, Indices]:
        """Axis to the places that stay, for the axes of a parameter that change."""
        return self.of_axes(self.channels.parameters.get(name, ()))

    def of_axes(self, terms: Terms) -> dict[int, Indices]:
        return {at: self.places(term) for at, term in enumerate(terms) if self.changed([term])}


def sliced_tensor(tensor: torch.Tensor, places: Mapping[int, Indices]) -> torch.Tensor:
    """The tensor with only these places of these axes, contiguous."""
    for axis, kept in places.items():
        tensor = tensor.index_select(axis, torch.from_numpy(kept).to(tensor.device))
    return tensor.contiguous()


def slice_parameters_(module: nn.Module, sizes: Sizes, names: Mapping[str, str]) -> None:
    """Put the smaller parameters and buffers in place; `names` maps every name of a tensor to its listed one."""
    made: dict[str, torch.Tensor] = {}
    for name, listed in names.items():
        places = sizes.of_parameter(listed)
        if not places:
            continue
        owner, _, attribute = name.rpartition(".")
        holder = module.get_submodule(owner)
        before: torch.Tensor = getattr(holder, attribute)
        if listed not in made:
            after = sliced_tensor(before.detach(), places)
            made[listed] = nn.Parameter(after, before.requires_grad) if isinstance(before, nn.Parameter) else after
        setattr(holder, attribute, made[listed])


@dataclass(frozen=True)
class Change:
    """A constant of a call that follows from a size: `graph` node, schema name, value before and after."""

    node: str
    argument: str
    before: Any
    after: Any


def resize_(module: GraphModule, sizes: Sizes) -> list[Change]:
    """Rewrite the constants of a copy of the traced graph. Its parameters are sliced apart (`slice_parameters_`)."""
    values = sizes.channels.on(module)
    changes: list[Change] = []
    unread: list[FxNode] = []
    for node in list(module.graph.nodes):
        op = op_name(node)
        if op == "_assert_tensor_metadata":
            module.graph.erase_node(node)
        elif op in REWRITES and node.op == "call_function":
            site = _Site(node, Call.of(sizes.channels.axes, node, values), sizes)
            operands = node.all_input_nodes if op in STACKS else []
            changes += [*REWRITES[op](site), *site.computed]
            unread += [one for one in operands if one not in node.all_input_nodes]
    for node in list(module.graph.nodes):
        if _TWINS in node.meta and not node.users:
            module.graph.erase_node(node)
    _erase_unread_(module, unread)
    module.graph.lint()
    module.recompile()
    return changes


def _erase_unread_(module: GraphModule, unread: list[FxNode]) -> None:
    """Erase these values and what only they were computed from, with the parameters that nobody else reads."""
    waiting = list(unread)
    erased: set[FxNode] = set()
    targets: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node in erased or node.users or node.op == "placeholder":
            continue
        waiting += node.all_input_nodes
        if node.op == "get_attr":
            targets.add(str(node.target))
        module.graph.erase_node(node)
        erased.add(node)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in targets - read:
        _delete_(module, name)


def _delete_(module: nn.Module, name: str) -> None:
    """A tensor of a module, and the modules around it that hold nothing else."""
    path, _, attribute = name.rpartition(".")
    delattr(module.get_submodule(path), attribute)
    while path and not _holds(module.get_submodule(path)):
        path, _, child = path.rpartition(".")
        delattr(module.get_submodule(path), child)


def _holds(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


@dataclass(frozen=True, eq=False)
class _Site:
    node: FxNode
    call: Call
    sizes: Sizes
    computed: list[Change] = field(default_factory=list[Change])
    """Changes of sizes that the graph computes."""

    @property
    def made(self) -> Terms:
        return cast(Terms, self.call.values[self.node])

    def put(self, name: str, value: Any) -> list[Change]:
        """Set an argument by its schema's name."""
        before = self.call.given[name]
        if before == value:
            return []
        arguments = schema_of(cast(Any, self.node.target)).arguments
        position = next(i for i, argument in enumerate(arguments) if argument.name == name)
        if position < len(self.node.args):
            self.node.args = (*self.node.args[:position], value, *self.node.args[position + 1 :])
        else:
            self.node.kwargs = {**self.node.kwargs, name: value}
        return [Change(self.node.name, name, before, value)]


def _shape(name: str, offset: Callable[[_Site], int] = lambda _: 0) -> Callable[[_Site], list[Change]]:
    """The argument `name` lists the sizes of what is made, from axis `offset` on."""

    def rewrite(site: _Site) -> list[Change]:
        made = site.made[offset(site) :]
        if not site.sizes.changed(made):
            return []
        given = cast(list[Any], site.call.given[name])
        return site.put(name, [_size(site, size, term) for size, term in zip(given, made, strict=False)])

    return rewrite


def _size(site: _Site, given: Any, term: Term) -> Any:
    after = site.sizes.after(term)
    if after == term.size or given == -1:
        return given
    if not isinstance(given, FxNode):
        return after
    # A size that the graph computes, such as batch x heads: in proportion.
    graph = given.graph
    factor = next((arg for arg in given.args if isinstance(arg, int)), 0) if given.target is operator.mul else 0
    if factor and factor * after % term.size == 0:
        return _twin(site, given, factor, factor * after // term.size)
    with graph.inserting_before(site.node):
        more = graph.call_function(operator.mul, (given, after))
        found = graph.call_function(operator.floordiv, (more, term.size))
    found.meta["val"] = after
    return found


_TWINS = "lissom_twins"
"""Products of the original, in whose place others stand: new factor to the new product."""


def _twin(site: _Site, given: FxNode, before: int, after: int) -> FxNode:
    """The product with another factor, in the same place: what the model's own code computes with the new constant."""
    twins = cast(dict[int, FxNode], given.meta.setdefault(_TWINS, {}))
    if after == 1:
        twins[1] = next(arg for arg in given.args if isinstance(arg, FxNode))
        site.computed.append(Change(given.name, "other", before, 1))
    elif after not in twins:
        # A product that several layers shared is one for each of them now: the others where they are needed.
        with given.graph.inserting_before(site.node) if twins else given.graph.inserting_after(given):
            args = tuple(after if isinstance(arg, int) else arg for arg in given.args)
            twins[after] = given.graph.call_function(operator.mul, args)
        value = given.meta.get("val")
        twins[after].meta.update({**given.meta, "val": value * after // before if value is not None else None})
        del twins[after].meta[_TWINS]
        site.computed.append(Change(given.name, "other", before, after))
    return twins[after]


def _repeat(site: _Site) -> list[Change]:
    name = "repeats" if "repeats" in site.call.given else "dims"
    given = cast(list[Any], site.call.given[name])
    source = site.call.need("self")
    ahead = len(given) - len(source)
    found = [
        _size(site, times, site.made[at]) if at < ahead or source[at - ahead].size == 1 else times
        for at, times in enumerate(given)
    ]
    return site.put(name, found) if site.sizes.changed(site.made) else []


def _split(site: _Site) -> list[Change]:
    pieces = cast(list[Terms], site.call.values[site.node])
    source = site.call.every()[0]
    at = site.call.axis("dim", len(source))
    if not site.sizes.changed([source[at]]):
        return []
    wanted = [site.sizes.after(piece[at]) for piece in pieces]
    name = next(n for n in ("split_size", "split_sizes", "chunks", "sections", "indices") if n in site.call.given)
    if name == "split_sizes" and isinstance(site.call.given[name], (list, tuple)):
        return site.put(name, wanted)
    if name == "split_size" and len(set(wanted[:-1] or wanted)) == 1 and wanted[-1] <= wanted[0]:
        return site.put(name, wanted[0])
    if name in ("chunks", "sections") and _even(sum(wanted), len(wanted)) == wanted:
        return []
    site.node.target = torch.ops.aten.split_with_sizes.default
    site.node.args = (site.node.args[0], wanted, at)
    site.node.kwargs = {}
    return [Change(site.node.name, name, site.call.given[name], wanted)]


def _even(size: int, count: int) -> list[int]:
    """What `torch.chunk` makes of `size` places."""
    step = -(-size // count)
    return [min(step, size - start) for start in range(0, size, step)]


def _narrow(site: _Site) -> list[Change]:
    source = site.call.need("self")
    at = site.call.axis("dim", len(source))
    if not site.sizes.changed([source[at]]) or site.made[at].size == source[at].size:
        return []
    size = source[at].size
    start = site.call.number("start") if site.call.given.get("start") is not None else 0
    start = max(start + size if start < 0 else start, 0)
    kept = site.sizes.places(source[at])
    first, last = (int(np.searchsorted(kept, place)) for place in (start, start + site.made[at].size))
    changes = site.put("start", _from_end(site, "start", first, len(kept))) if start else []
    if "length" in site.call.given:
        return changes + site.put("length", last - first)
    open_end = site.call.given.get("end") is None or site.call.number("end") >= size
    return changes if open_end else changes + site.put("end", _from_end(site, "end", last, len(kept)))


def _from_end(site: _Site, name: str, place: int, size: int) -> int:
    """A border that was counted from the end still is."""
    return place - size if site.call.number(name) < 0 and place < size else place


def _pad(site: _Site) -> list[Change]:
    amounts = list(cast(list[int], site.call.given["pad"]))
    source = site.call.need("self")
    found = list(amounts)
    for index in range(len(amounts) // 2):
        at = len(source) - 1 - index
        if not site.sizes.changed([site.made[at]]):
            continue
        kept, before = site.sizes.places(site.made[at]), amounts[2 * index]
        found[2 * index] = int(np.searchsorted(kept, before))
        found[2 * index + 1] = len(kept) - int(np.searchsorted(kept, before + source[at].size))
    return site.put("pad", found)


def _groups(name: str, tensor: str, axis: int) -> Callable[[_Site], list[Change]]:
    """The argument `name` counts the rows of an axis of `tensor`."""

    def rewrite(site: _Site) -> list[Change]:
        groups = site.call.number(name)
        if groups == 1:
            return []
        term = site.call.need(tensor)[axis]
        rows = site.call.axes.divide(term, [groups, term.size // groups])[0]
        return site.put(name, site.sizes.after(rows))

    return rewrite


def _trailing(site: _Site) -> list[Change]:
    count = len(cast(list[int], site.call.given["normalized_shape"]))
    terms = site.call.need("input")[-count:]
    return site.put("normalized_shape", [site.sizes.after(term) for term in terms])


def _stack(site: _Site) -> list[Change]:
    """Modules that are left out are operands less."""
    atom = modules_axis(site.node, site.call.axes, site.call.values)
    if atom is None or not site.sizes.changed([atom]):
        return []
    given = operands_of(site.node)
    kept = [given[place] for place in site.sizes.places(atom)]
    site.put("tensors", kept)
    return [Change(site.node.name, "tensors", len(given), len(kept))]


def _classes(site: _Site) -> list[Change]:
    return site.put("num_classes", site.sizes.after(site.made[-1]))


_CONVOLUTIONS = [*(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)), "convolution"]
REWRITES: Mapping[str, Callable[[_Site], list[Change]]] = {
    **dict.fromkeys(("view", "_unsafe_view"), _shape("size")),
    "reshape": _shape("shape"),
    "unflatten": _shape("sizes", lambda site: site.call.axis("dim", len(site.call.need("self")))),
    **dict.fromkeys(("expand", "broadcast_to", "zeros", "ones", "full", "empty"), _shape("size")),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), _shape("size")),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    **dict.fromkeys(("slice", "narrow"), _narrow),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "one_hot": _classes,
    **dict.fromkeys(STACKS, _stack),
    **dict.fromkeys(_CONVOLUTIONS, _groups("groups", "weight", 0)),
    "group_norm": _groups("num_groups", "input", 1),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _groups("groups", "self", 1)),
    **dict.fromkeys(("layer_norm", "rms_norm"), _trailing),
}
"""Operators with constants that follow from the size of an axis."""
