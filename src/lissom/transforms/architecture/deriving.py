"""The space of a network from its graph, or again from a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.graph.axes import Atom
from lissom.graph.blocks import find_blocks
from lissom.graph.channels import Channels, Group, find_channels
from lissom.graph.narrowed import Narrowed, narrowed
from lissom.graph.resize import Kept
from lissom.graph.select import select as match
from lissom.graph.trace import Trace
from lissom.target import Target
from lissom.task import Batch
from lissom.transforms.architecture.axes import Axis, Kind, depths, kernels, order_of, precisions, widths
from lissom.transforms.architecture.resolutions import Scales, resolutions
from lissom.transforms.architecture.space import Orders, Space, Subnet
from lissom.transforms.base import Action, Plan, SetBits, Skip
from lissom.transforms.pruning.multiples import suited
from lissom.transforms.pruning.prune import cuts, kept_by
from lissom.transforms.pruning.ties import ties_of
from lissom.transforms.quantization.precision import FLOAT, Precision


class Choose(Action):
    """One axis of the space: of `choices`, largest first, `chosen` stays; `members` are cut together.

    Channels of the first member of a width, blocks that stay of a chain, side of a kernel, bits, height of the image.
    """

    kind: Literal["choose"] = "choose"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    axis: Kind
    members: tuple[str, ...]
    choices: tuple[int, ...]
    chosen: int


@dataclass(frozen=True)
class Bounds:
    """What may be left out: shares of channels that may stay, share of blocks that may go, whether kernels shrink, to
    how many bits weights may go, to which shares of its height and width the image."""

    widths: Sequence[float]
    depth: float
    kernels: bool
    exclude: tuple[str, ...]
    round_to: int | None
    bits: tuple[int, ...] = ()
    resolutions: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Derived:
    """The axes of a space, and the layers that none of them has, with the reason."""

    channels: Channels
    costs: Narrowed
    axes: tuple[Axis, ...]
    skipped: tuple[Skip, ...]
    scales: Scales


def derived(model: nn.Module, trace: Trace, example: Batch, target: Target, bounds: Bounds) -> Derived:
    """
    Raises:
        RecipeError: an `exclude` pattern matches nothing, nothing can be left out, or no smaller image goes through.
    """
    channels = find_channels(trace)
    costs, ties, blocks = narrowed(trace, channels), ties_of(model, trace, channels), find_blocks(trace)
    layers = [layer for name in channels.parameters if (layer := name.rpartition(".")[0])]
    names = [*layers, *(block.module for block in blocks)]
    excluded = match(names, bounds.exclude, "Supernet(exclude=...)") if bounds.exclude else frozenset[str]()
    whole = dict(_whole(channels.groups, ties.whole, costs.modules, excluded))
    free = {group.name: group for group in channels.groups if group.name not in whole}
    multiples = (
        dict.fromkeys(free, bounds.round_to)
        if bounds.round_to is not None
        else suited(free, target.channel_multiple, ties, costs.modules)
    )
    wide = tuple(widths(free, ties, multiples, bounds.widths))
    deep = depths([block for block in blocks if block.module not in excluded], bounds.depth)
    shrinking = kernels(trace) if bounds.kernels else ()
    held = [bits for bits in bounds.bits if target.weights.stored(bits) == bits]  # pyright: ignore[reportArgumentType]
    rounded = precisions(trace.graph, target, blocks, held, excluded) if held else ()
    smaller = resolutions(model, trace, example, bounds.resolutions)
    small = (axis for axis in shrinking if axis.members[0].rpartition(".")[0] not in excluded)
    axes = (*wide, *deep, *small, *rounded, *smaller.axes)
    if not any(len(axis.choices) > 1 for axis in axes):
        raise RecipeError(
            "Supernet finds nothing to leave out: no channels that can be cut, no chain of residual blocks, no square "
            "kernel above 3, no bits that the target's file can save. lissom inspect shows the groups of channels; "
            "widths, depth, exclude and round_to bound what may go."
        )
    varied = {name for axis in wide for name in axis.members}
    whole |= {name: "no other width is a multiple that may stay" for name in free if name not in varied}
    skips = (*_skips(channels, whole), *(Skip(layer=f"image of {side}", reason=why) for side, why in smaller.refused))
    return Derived(channels, costs, axes, tuple(dict.fromkeys(skips)), smaller.scales)


def space_of(trace: Trace, found: Derived, orders: Orders) -> Space:
    return Space(trace, found.channels, found.costs, find_blocks(trace), found.axes, orders, found.scales)


def axes_of(plan: Plan, trace: Trace, channels: Channels) -> tuple[Axis, ...]:
    """The axes that a plan chose from."""
    sizes = {group.name: group.size for group in channels.groups}
    images = dict(zip(trace.graph.inputs, trace.graph.input_shapes, strict=True))
    whole = {
        "width": lambda one: tuple(sizes[name] for name in one.members),
        "depth": lambda one: (1,) * len(one.members),
        "kernel": lambda one: (one.choices[0],),
        "bits": lambda one: (FLOAT,) * len(one.members),
        "resolution": lambda one: tuple(map(int, images[one.members[0]][2:])),
    }
    return tuple(Axis(one.axis, one.members, one.choices, whole[one.axis](one)) for one in plan.of(Choose))


def subnet_of(plan: Plan) -> Subnet:
    return tuple(one.choices.index(one.chosen) for one in plan.of(Choose))


def replayed(plan: Plan, trace: Trace) -> Space:
    """A space in whose orders the channels that the plan keeps come first: enough for the plan's own subnet."""
    channels = find_channels(trace)
    axes, kept = axes_of(plan, trace, channels), kept_by(plan, channels)
    names = {name for axis in axes if axis.kind == "width" for name in axis.members}
    orders = {g.name: _first(g, kept) for g in channels.groups if g.name in names}
    return Space(trace, channels, narrowed(trace, channels), find_blocks(trace), axes, orders)


def actions_of(space: Space, subnet: Subnet) -> Iterator[Action]:
    for axis, choice in zip(space.axes, subnet, strict=True):
        named = axis.kind in ("depth", "resolution")
        layer = axis.members[0] if named else axis.members[0].rpartition(".")[0]
        yield Choose(
            layer=layer, axis=axis.kind, members=axis.members, choices=axis.choices, chosen=axis.choices[choice]
        )
    yield from cuts(space.channels, space.kept(subnet), space.costs)
    for layer, bits in rules_of(space, subnet).items():
        yield SetBits.model_validate({"layer": layer, "bits": bits})


def rules_of(space: Space, subnet: Subnet) -> dict[str, Precision]:
    """Layer to bits, as rules of `Quantize(precision=...)`: everything in float where no weight is in integers.

    Sums and poolings between layers in float would otherwise still be rounded. Empty in a space without such axes.
    """
    found: dict[str, Precision] = {
        weight.rpartition(".")[0]: cast(Precision, bits) for weight, bits in space.bits(subnet).items()
    }
    every: dict[str, Precision] = {"*": FLOAT}
    return every if found and set(found.values()) == {FLOAT} else found


def _whole(
    groups: Iterable[Group], divisors: Collection[str], modules: Collection[Atom], excluded: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Groups that stay whole, and the reason."""
    for group in groups:
        makers = {member.parameter.rpartition(".")[0] for member in group.members if member.axis == 0}
        if group.reason is not None or group.size == 1:
            yield group.name, group.reason or "it has one channel"
        elif not makers.isdisjoint(excluded):
            yield group.name, "it is excluded"
        elif group.name in divisors:
            yield group.name, "the model's own code divides by its size"
        elif group.atom in modules:
            yield group.name, "its channels are whole modules"


def _skips(channels: Channels, whole: Mapping[str, str]) -> Iterator[Skip]:
    for group in channels.groups:
        if group.name in whole:
            makers = [m for m in group.members if m.axis == 0 and len(channels.parameters[m.parameter]) > 1]
            for member in makers or group.members[:1]:
                layer = member.parameter.rpartition(".")[0] or member.parameter
                yield Skip(layer=layer, reason=whole[group.name])


def _first(group: Group, kept: Kept) -> Tensor:
    """(channels,) those that stay, then the others."""
    stays = torch.zeros(group.size)
    stays[torch.from_numpy(kept[group.atom]) if group.atom in kept else slice(None)] = 1
    return order_of(stays)
