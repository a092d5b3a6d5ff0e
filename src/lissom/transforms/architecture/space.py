"""All subnets of a network: what each keeps, and what each costs by sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissom.graph.blocks import Block
from lissom.graph.channels import Channels
from lissom.graph.narrowed import Narrowed
from lissom.graph.resize import Kept, Sizes
from lissom.graph.trace import Trace
from lissom.transforms.architecture.axes import Axis
from lissom.transforms.architecture.resolutions import Scales, Size, size_of
from lissom.transforms.base import Cost
from lissom.transforms.quantization.precision import FLOAT

Subnet = tuple[int, ...]
"""For every axis the position of its choice; zero is the largest."""
Orders = Mapping[str, Tensor]
"""Group to its channels, (channels,) indices, the most important first."""


@dataclass(frozen=True, eq=False)
class Space:
    """What may be left out of one traced network; `orders` has every group of a width, `scales` what operators cost
    at every smaller resolution."""

    trace: Trace
    channels: Channels
    costs: Narrowed
    blocks: tuple[Block, ...]
    axes: tuple[Axis, ...]
    orders: Orders
    scales: Scales = field(default_factory=dict[int, Mapping[str, float]])

    @property
    def largest(self) -> Subnet:
        return (0,) * len(self.axes)

    @property
    def smallest(self) -> Subnet:
        return tuple(len(axis.choices) - 1 for axis in self.axes)

    @property
    def size(self) -> int:
        return prod(len(axis.choices) for axis in self.axes)

    def uniform(self, share: float) -> Subnet:
        """Every axis that share of the way from the largest to the smallest."""
        return tuple(round(share * (len(axis.choices) - 1)) for axis in self.axes)

    def drawn(self, generator: torch.Generator | None = None) -> Subnet:
        """Every choice alike likely. Without a generator, torch's global one decides."""
        return tuple(int(torch.randint(len(axis.choices), (), generator=generator)) for axis in self.axes)

    def kept(self, subnet: Subnet) -> Kept:
        """The channels that stay, by atom, without the groups that stay whole."""
        found: dict[Any, np.ndarray] = {}
        for axis, choice in zip(self.axes, subnet, strict=True):
            if axis.kind == "width" and choice:
                for name, count in axis.counts(choice).items():
                    first = self.orders[name][:count].sort().values
                    found[self._atoms[name]] = first.numpy().astype(np.int64)
        return found

    def gone(self, subnet: Subnet) -> tuple[Block, ...]:
        """The blocks that are left out."""
        by_module = {block.module: block for block in self.blocks}
        return tuple(
            by_module[module]
            for axis, choice in zip(self.axes, subnet, strict=True)
            if axis.kind == "depth"
            for module in axis.members[axis.choices[choice] :]
        )

    def sides(self, subnet: Subnet) -> dict[str, tuple[int, int]]:
        """Weight to its kernel's side before and after, where they differ."""
        return {
            axis.members[0]: (axis.whole[0], axis.choices[choice])
            for axis, choice in zip(self.axes, subnet, strict=True)
            if axis.kind == "kernel" and choice
        }

    def image(self, subnet: Subnet) -> tuple[str, Size] | None:
        """The input and the size that it is brought down to; None where it stays."""
        for axis, choice in zip(self.axes, subnet, strict=True):
            if axis.kind == "resolution" and choice:
                return axis.members[0], size_of(axis, choice)
        return None

    def bits(self, subnet: Subnet) -> dict[str, int]:
        """Weight to its bits, without those that have no such axis or lie in a block that is left out."""
        lost = {name for block in self.gone(subnet) for name in block.parameters}
        return {
            weight: axis.choices[choice]
            for axis, choice in zip(self.axes, subnet, strict=True)
            if axis.kind == "bits"
            for weight in axis.members
            if weight not in lost
        }

    def cost(self, subnet: Subnet) -> Cost:
        """MACs, parameters, and bytes with a float32 scale for each output of a weight in integers."""
        sizes, sides, bits = Sizes(self.channels, self.kept(subnet)), self.sides(subnet), self.bits(subnet)
        counts = {atom: len(places) for atom, places in sizes.kept.items()}
        blocks = self.gone(subnet)
        nodes = {node for block in blocks for node in block.nodes}
        lost = {name for block in blocks for name in block.parameters}
        inside = tuple(f"{block.module}." for block in blocks)
        factor = {name: (after / before) ** 2 for name, (before, after) in sides.items()}
        image = self.image(subnet)
        scales = self.scales[image[1][0]] if image else {}
        macs = sum(
            value * factor.get(self._weights.get(node, ""), 1.0) * scales.get(node, 1.0)
            for node, value in self.costs.macs_by_node(counts).items()
            if node not in nodes
        )
        parameters = size = 0
        for tensor in self.trace.graph.tensors:
            if tensor.name in lost or (not tensor.used_by and tensor.name.startswith(inside)):
                continue
            terms = self.channels.parameters.get(tensor.name)
            shape = tuple(sizes.after(term) for term in terms) if terms is not None else tensor.shape
            numel = round(prod(shape) * factor.get(tensor.name, 1.0))
            parameters += numel if tensor.trainable else 0
            own = bits.get(tensor.name, FLOAT)
            width = tensor.bytes // max(1, prod(tensor.shape))
            size += numel * width if own == FLOAT else ceil(numel * own / 8) + 4 * shape[0]
        return Cost(macs=round(macs), parameters=parameters, bytes=size)

    @cached_property
    def _atoms(self) -> dict[str, Any]:
        return {group.name: group.atom for group in self.channels.groups}

    @cached_property
    def _weights(self) -> dict[str, str]:
        """Convolution to the weight whose kernel may shrink."""
        own = {axis.members[0] for axis in self.axes if axis.kind == "kernel"}
        tensors = ((tensor.name, tensor.used_by) for tensor in self.trace.graph.tensors)
        return {user: name for name, users in tensors if name in own for user in users}
