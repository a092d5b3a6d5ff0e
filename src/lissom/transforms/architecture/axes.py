"""The search space that a network holds: what may be left out of it, axis by axis.

    width     channels of a group, or of groups that the code ties together: the first k in order of importance
    depth     residual blocks of a chain: the first k
    kernel    side of a square odd kernel above 3: the middle
    bits      of the weights of a residual block, or of a layer in none: 32 (float), 8, 4
    resolution  height of the image that the network sees (`resolutions`)

The order of the channels is made once, from the weights at the start, so that a narrower subnet's channels are always
among a wider one's ("sorted channels": Cai et al. 2020, "Once-for-All" (arXiv:1908.09791), section 3.3). Chains and
kernels are theirs too; a smaller kernel is the middle of the larger one, without their learned transformation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.fx import Node as FxNode

from lissom.functional.selection import SLACK, rounded
from lissom.graph.blocks import Block
from lissom.graph.channels import Group, listed_names
from lissom.graph.describe import op_name
from lissom.graph.graph import Graph
from lissom.graph.trace import Trace
from lissom.target import Target
from lissom.transforms.pruning.ties import Ties
from lissom.transforms.quantization.choosing import choose
from lissom.transforms.quantization.operators import KINDS
from lissom.transforms.quantization.precision import FLOAT

Kind = Literal["width", "depth", "kernel", "bits", "resolution"]
LEAST_KERNEL = 3


@dataclass(frozen=True)
class Axis:
    """`choices` are the sizes, largest first: channels of the first of `members`, blocks that stay, side of a kernel,
    bits, height of the image.

    `members` are groups, block modules in order, the one weight of a kernel, all weights that have the same bits, or
    the input.
    """

    kind: Kind
    members: tuple[str, ...]
    choices: tuple[int, ...]
    whole: tuple[int, ...]
    """Size of each member; 1 for blocks, 32 for bits; height and width of the image."""

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.members[0]}"

    def counts(self, choice: int) -> dict[str, int]:
        """Channels of every group of a width."""
        share = self.choices[choice] / self.whole[0]
        return {name: round(share * size) for name, size in zip(self.members, self.whole, strict=True)}


def widths(
    groups: Mapping[str, Group],
    ties: Ties,
    multiples: Mapping[str, int],
    shares: Sequence[float],
) -> Iterator[Axis]:
    """One axis for each tie and each group that is in none."""
    sizes = {name: group.size for name, group in groups.items()}
    floors = {name: group.floor for name, group in groups.items()}
    tied = list(ties.among(groups))
    loose = set(groups) - {name for tie in tied for name in tie}
    for names in sorted((*tied, *((name,) for name in loose)), key=lambda own: list(groups).index(own[0])):
        found: dict[tuple[int, ...], None] = {tuple(sizes[name] for name in names): None}
        for share in sorted(shares, reverse=True):
            wished = {n: rounded(int(share * sizes[n] + SLACK), sizes[n], floors[n], multiples[n]) for n in names}
            kept = ties.tied(wished, sizes, floors, multiples)
            found[tuple(kept[name] for name in names)] = None
        if len(found) > 1:
            counts = sorted((one[0] for one in found), reverse=True)
            yield Axis("width", names, tuple(counts), tuple(sizes[name] for name in names))


def depths(blocks: Sequence[Block], most: float) -> Iterator[Axis]:
    """One axis for each chain of blocks that follow one another; at most the share `most` of each may go."""
    chains: list[list[Block]] = [[block] for block in blocks[:1]]
    for before, block in pairwise(blocks):
        if block.source == before.output:
            chains[-1].append(block)
        else:
            chains.append([block])
    for chain in chains:
        least = ceil(len(chain) * (1 - most) - SLACK)
        if least < len(chain):
            modules = tuple(block.module for block in chain)
            yield Axis("depth", modules, tuple(range(len(chain), least - 1, -1)), (1,) * len(chain))


def kernels(trace: Trace) -> Iterator[Axis]:
    """One axis for each convolution with a square odd kernel above 3 whose padding makes up for a smaller one."""
    names = listed_names(trace)
    readers: dict[str, list[FxNode]] = {}
    for node in trace.module.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                readers.setdefault(names.get(str(source.target), ""), []).append(node)
    for name, nodes in readers.items():
        if len(nodes) != 1 or op_name(nodes[0]) != "conv2d" or not name.endswith(".weight"):
            continue
        weight = cast(FxNode, nodes[0].args[1])
        if weight.op != "get_attr" or names.get(str(weight.target)) != name:
            continue
        side, other = weight.meta["val"].shape[2:]
        if side != other or side % 2 == 0:
            continue
        sides = [k for k in range(side, LEAST_KERNEL - 1, -2) if cropped_padding(nodes[0], side, k) is not None]
        if len(sides) > 1:
            yield Axis("kernel", (name,), tuple(sides), (side,))


def precisions(
    graph: Graph, target: Target, blocks: Sequence[Block], bits: Sequence[int], excluded: Collection[str]
) -> Iterator[Axis]:
    """One axis for each residual block and each layer in none whose weights the target multiplies in integers.

    Layers that are `excluded` have one of their own, with the one choice of staying in float.
    """
    products, _ = choose(graph, target.integers.ops, target, (), None, fix="off", training=False)
    owners = {name: block.module for block in blocks for name in block.parameters}
    held: dict[tuple[str, bool], list[str]] = {}
    for node in products:
        weight = node.parameter(1) if KINDS[node.op] in ("conv", "linear") else None
        if weight is None or graph.tensor_by_name[weight].used_by != (node.name,):
            continue
        layer = weight.rpartition(".")[0]
        if layer:
            owner = owners.get(weight, layer)
            held.setdefault((owner, layer in excluded or owner in excluded), []).append(weight)
    for (_, whole), weights in held.items():
        choices = (FLOAT,) if whole else (FLOAT, *sorted(set(bits), reverse=True))
        yield Axis("bits", tuple(weights), choices, (FLOAT,) * len(weights))


def cropped_padding(node: FxNode, before: int, after: int) -> list[int] | None:
    """The padding with which a smaller kernel makes values at the same places; None where there is none."""
    padding = _pair(node, 4, 0)
    dilation = _pair(node, 5, 1)
    if padding is None or dilation is None:
        return None
    found = [p - d * (before - after) // 2 for p, d in zip(padding, dilation, strict=True)]
    return found if min(found) >= 0 else None


def _pair(node: FxNode, position: int, default: int) -> list[int] | None:
    given: Any = node.args[position] if len(node.args) > position else default
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(value, int) for value in values):
        return None
    return values * 2 if len(values) == 1 else values


def order_of(scores: Tensor) -> Tensor:
    """(channels,) indices, most important first; of equal ones the earlier is."""
    return torch.argsort(scores, descending=True, stable=True)
