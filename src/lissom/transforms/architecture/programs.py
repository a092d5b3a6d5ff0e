"""A subnet computed inside its supernet: the traced graph with smaller constants, on slices of the full parameters.

Nothing is masked: a parameter is sliced where the graph reads it, so that a narrower subnet costs less, and gradients
flow into the slices of the full parameters. The graph was traced in evaluation mode; batch normalizations are told
which statistics to use:

    batch         those of the batch, for training
    kept          given ones, or the supernet's own slices
    recalibrate   those of the batch, averaged into the given ones

Dropout is not in the graph: subnets are trained without it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.graph.channels import listed_names
from lissom.graph.describe import op_name
from lissom.graph.resize import Sizes, resize_
from lissom.graph.trace import quiet
from lissom.task import Batch
from lissom.transforms.architecture.axes import cropped_padding
from lissom.transforms.architecture.resolutions import shrink_
from lissom.transforms.architecture.space import Space, Subnet
from lissom.transforms.pruning.depth import bypass_

Statistics = dict[str, Tensor]
"""Running mean or variance, by its name, to (channels of the subnet,) values."""
HELD = 8
"""Rewritten graphs that are kept: the largest and smallest are needed at every step."""
_CONVOLUTION_PADDING = 4


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


@dataclass(frozen=True, eq=False)
class Slices:
    """What of a tensor a subnet reads: places of axes, and the middle of a kernel."""

    places: Mapping[int, Tensor]
    sides: tuple[int, int] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        for axis, kept in self.places.items():
            tensor = tensor.index_select(axis, kept.to(tensor.device))
        if self.sides is not None:
            before, after = self.sides
            start = (before - after) // 2
            tensor = tensor[..., start : start + after, start : start + after]
        return tensor


@dataclass(frozen=True, eq=False)
class Program:
    """The graph of one subnet; `slices` by the name that the graph reads a tensor under."""

    module: GraphModule
    slices: Mapping[str, Slices]
    names: Mapping[str, str]

    def run(
        self,
        tensors: Mapping[str, Tensor],
        batch: Batch,
        norms: Literal["batch", "kept", "recalibrate"] = "kept",
        statistics: Statistics | None = None,
        seen: int = 0,
    ) -> Any:
        """Outputs in the model's own structure; `recalibrate` writes into `statistics`, of `seen` batches."""
        leaves = pytree.tree_leaves((batch.args, dict(batch.kwargs)))
        statistics = {} if statistics is None else statistics
        run = _Running(self, tensors, norms, statistics, seen)
        return self.module.graph.process_outputs(run.run(*leaves, enable_io_processing=False))

    def plain(self, tensors: Mapping[str, Tensor]) -> GraphModule:
        """A module of its own with the subnet's parameters, and no others."""
        made = _copied(self.module)
        done: dict[str, Tensor] = {}
        for target in sorted({str(node.target) for node in made.graph.nodes if node.op == "get_attr"}):
            owner, _, attribute = target.rpartition(".")
            holder = made.get_submodule(owner)
            before: object = getattr(holder, attribute)
            if not isinstance(before, Tensor):
                continue
            listed = self.names.get(target, target)
            if listed not in done:
                full = read(tensors, target, listed, before).detach()
                sliced = self.slices[target].of(full).clone() if target in self.slices else full.clone()
                trains = isinstance(before, nn.Parameter)
                done[listed] = nn.Parameter(sliced, before.requires_grad) if trains else sliced
            setattr(holder, attribute, done[listed])
        return made


def read(tensors: Mapping[str, Tensor], target: str, listed: str, constant: Tensor) -> Tensor:
    return tensors.get(target, tensors.get(listed, constant))


def _copied(module: GraphModule) -> GraphModule:
    """Another graph over the same tensors."""
    with quiet():
        return GraphModule(module, copy.deepcopy(module.graph))


class Programs:
    """Makes the programs of the subnets of one space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.of = lru_cache(HELD)(self._made)

    def __deepcopy__(self, memo: object) -> Programs:
        return self  # of one traced graph, which nobody writes into

    def _made(self, subnet: Subnet) -> Program:
        space = self.space
        module = _copied(space.trace.module)
        sizes = Sizes(space.channels, space.kept(subnet))
        resize_(module, sizes)
        sides = space.sides(subnet)
        names = listed_names(space.trace)
        for node in module.graph.nodes:
            if op_name(node) == "conv2d":
                weight = cast(FxNode, node.args[1])
                own = sides.get(names.get(str(weight.target), "")) if weight.op == "get_attr" else None
                if own is not None:
                    pad_(node, *own)
        bypass_(module, space.gone(subnet))
        if (image := space.image(subnet)) is not None:
            shrink_(module, *image)
        slices: dict[str, Slices] = {}
        for node in module.graph.nodes:
            if node.op != "get_attr" or (listed := names.get(str(node.target))) is None:
                continue
            places = {axis: torch.from_numpy(kept) for axis, kept in sizes.of_parameter(listed).items()}
            if places or listed in sides:
                slices[str(node.target)] = Slices(places, sides.get(listed))
        return Program(GraphModule(module, module.graph), slices, names)


def pad_(node: FxNode, before: int, after: int) -> None:
    """The padding of a smaller kernel."""
    padding = cropped_padding(node, before, after)
    assert padding is not None, "the axis has only sides with a padding"
    node.args = (*node.args[:_CONVOLUTION_PADDING], padding, *node.args[_CONVOLUTION_PADDING + 1 :])


class _Running(Interpreter):
    def __init__(
        self, program: Program, tensors: Mapping[str, Tensor], norms: str, statistics: Statistics, seen: int
    ) -> None:
        super().__init__(program.module)
        self._program, self._tensors = program, tensors
        self._norms, self._statistics, self._seen = norms, statistics, seen

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        constant: object = operator.attrgetter(str(target))(self.module)
        if not isinstance(constant, Tensor):
            return constant
        listed = self._program.names.get(str(target), str(target))
        if listed in self._statistics:
            return self._statistics[listed]
        found = read(self._tensors, str(target), listed, constant)
        return self._program.slices[str(target)].of(found) if str(target) in self._program.slices else found

    def run_node(self, n: FxNode) -> Any:
        if self._norms == "kept" or not has_statistics(n):
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        value, weight, bias, mean, variance, *_ = args
        eps = args[7]
        if self._norms == "batch":
            return torch.batch_norm(value, weight, bias, None, None, True, 0.0, eps, False)
        momentum = 1.0 / (self._seen + 1)
        own = [self._statistics.setdefault(name, old.detach().clone()) for name, old in zip(
            statistics_of(n, self._program.names), (mean, variance), strict=True)]  # fmt: skip
        return torch.batch_norm(value, weight, bias, own[0], own[1], True, momentum, eps, False)


def has_statistics(node: FxNode) -> bool:
    """Whether a batch normalization goes by running statistics."""
    if op_name(node) != "batch_norm" or node.args[5]:
        return False
    return all(isinstance(arg, FxNode) and arg.op == "get_attr" for arg in node.args[3:5])


def statistics_of(node: FxNode, names: Mapping[str, str]) -> tuple[str, str]:
    mean, variance = (str(cast(FxNode, arg).target) for arg in node.args[3:5])
    return names.get(mean, mean), names.get(variance, variance)


@torch.no_grad()
def recalibrate(program: Program, tensors: Mapping[str, Tensor], batches: Iterable[Batch]) -> Statistics:
    """The statistics of a subnet's own batch normalizations: the mean of those of all batches, which count alike.

    Yu and Huang 2019, "Universally Slimmable Networks" (arXiv:1903.05134), section 3.3. Empty without such layers.
    """
    found: Statistics = {}
    if not any(has_statistics(node) for node in program.module.graph.nodes):
        return found
    for seen, batch in enumerate(batches):
        program.run(tensors, batch, "recalibrate", found, seen)
    return found


@dataclass(frozen=True, eq=False)
class Trained:
    """A supernet's tensors, and the subnets that are asked of it."""

    programs: Programs
    tensors: Mapping[str, Tensor]
    batches: tuple[Batch, ...] = field(default=())
    """That statistics are taken from."""

    def statistics(self, subnet: Subnet) -> Statistics:
        return recalibrate(self.programs.of(subnet), self.tensors, self.batches)

    @torch.no_grad()
    def run(self, subnet: Subnet, batch: Batch, statistics: Statistics) -> Any:
        return self.programs.of(subnet).run(self.tensors, batch, "kept", statistics)
