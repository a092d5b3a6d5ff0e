"""What tasks share and what is each task's own, in any module.

The head is the module whose weights make the model's output: every task has its own. With masks, tasks share the
matrices and kernels of everything else; biases, normalizations and their statistics are each task's own, because they
are small. Methods that let one set of weights drift share every trainable parameter but the head's.

A model can be made wider: the channels that may be cut (`graph.channels`) may also be added, where they are the whole
axis of plain layers. What was there stays in the leading block.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from lissom.errors import UsageError, nearest
from lissom.graph.channels import Group, find_channels
from lissom.graph.graph import Graph
from lissom.graph.trace import Trace, quiet
from lissom.measure.lifelong import Axis, Family
from lissom.training.chance import generator_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HEADS = (nn.Linear, *CONVOLUTIONS)


def check_plain(model: nn.Module) -> None:
    """
    Raises:
        UsageError: not a module whose weights can be shared.
    """
    if isinstance(model, GraphModule):
        raise UsageError(
            "Lifelong needs the model itself, got an exported graph (torch.fx.GraphModule). Give the nn.Module that it "
            "was exported from; each task's model can be compressed and exported afterwards."
        )
    wrapped = [name for name, module in model.named_modules() if parametrize.is_parametrized(module)]
    if wrapped:
        raise UsageError(
            f"{wrapped[0] or 'the model'} is parametrized: its weights are computed, not stored. Call "
            "torch.nn.utils.parametrize.remove_parametrizations first."
        )


def head_of(model: nn.Module, graph: Graph, named: str | None) -> str:
    """The module that makes the output; `named`, if it is given.

    Raises:
        UsageError: no such module, several that make the output, or one whose outputs are not classes.
    """
    modules = dict(model.named_modules())
    if named is None:
        found = sorted({node.rpartition(".")[0] for node in _last_weights(graph)})
        if len(found) != 1:
            what = f"{' and '.join(found)} do" if found else "none does"
            raise UsageError(
                f"One module has to make the model's output, to be each task's own: {what}. Name it: head='fc'."
            )
        named = found[0]
    elif named not in modules:
        raise UsageError(f"head={named!r}: the model has no such module. {nearest(named, (n for n in modules if n))}")
    head = modules[named]
    if not isinstance(head, HEADS) or getattr(head, "groups", 1) != 1:
        raise UsageError(
            f"The head {named!r} is a {type(head).__name__}; it has to be an nn.Linear or an ungrouped nn.Conv, which "
            "can be given other classes. Name another one: head='fc'."
        )
    return named


def _last_weights(graph: Graph) -> Iterable[str]:
    """Matrices and kernels between which and the output there is no other."""
    waiting, seen = list(graph.outputs), set[str]()
    while waiting:
        name = waiting.pop()
        node = graph.by_name.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        held = [o.source for o in node.operands if o.kind == "parameter"]
        matrices = [one for one in held if len(graph.tensor_by_name[one].shape) > 1]
        if matrices:
            yield from matrices
        else:
            waiting += node.values


def shared_of(model: nn.Module, head: str, family: Family) -> dict[str, int]:
    """Shared parameters, and the axis of their outputs. A weight that two modules hold is each task's own.

    Raises:
        UsageError: there is nothing to share.
    """
    times: dict[int, int] = {}
    for parameter in (p for _, p in model.named_parameters(remove_duplicate=False)):
        times[id(parameter)] = times.get(id(parameter), 0) + 1
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if name.startswith(f"{head}.") or not parameter.is_floating_point() or times[id(parameter)] > 1:
            continue
        if family == "drifting" and parameter.requires_grad:
            found[name] = 0
        elif family == "masks" and parameter.ndim > 1:
            found[name] = int(isinstance(owner, nn.modules.conv._ConvTransposeNd))  # pyright: ignore[reportPrivateUsage]
    if not found:
        raise UsageError(
            f"Beside the head {head!r} the model has no weight that tasks could share. Give a model with hidden layers."
        )
    return found


def grows(model: nn.Module, traced: Trace) -> dict[str, tuple[Axis, ...]]:
    """Tensors that a larger width makes larger, with their axes. Inputs and outputs of the model never grow."""
    found: dict[str, dict[int, Axis]] = {}
    for group in find_channels(traced).groups:
        if group.reason is None and _can_grow(model, group):
            for member in group.members:
                axes = found.setdefault(member.parameter, {})
                axes[member.axis] = Axis(axis=member.axis, base=group.size, each=member.places.shape[1])
    return {name: tuple(axis for _, axis in sorted(axes.items())) for name, axes in found.items()}


def _can_grow(model: nn.Module, group: Group) -> bool:
    for member in group.members:
        owner = model.get_submodule(member.parameter.rpartition(".")[0])
        plain = isinstance(owner, (nn.Linear, *NORMALIZATIONS)) or (
            isinstance(owner, CONVOLUTIONS) and owner.groups == 1
        )
        whole = np.array_equal(member.places.ravel(), np.arange(member.places.size))
        if not plain or not whole or member.axis > 1:
            return False
    return True


def grown_size(base: int, width: float) -> int:
    """Channels at a width; never fewer than there were."""
    return math.ceil(round(base * width, 9))


def grown_shape(shape: Iterable[int], axes: Iterable[Axis], width: float) -> tuple[int, ...]:
    sizes = list(shape)
    for axis in axes:
        sizes[axis.axis] = grown_size(axis.base, width) * axis.each
    return tuple(sizes)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A model as a template: of any width, with a head of any number of classes."""

    model: nn.Module
    head: str
    growing: Mapping[str, tuple[Axis, ...]]
    seed: int

    @property
    def classes(self) -> int:
        """Of the model as it was given."""
        weight = self.model.get_submodule(self.head).weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]

    def shared(self, family: Family) -> dict[str, int]:
        return shared_of(self.model, self.head, family)

    def shapes(self, width: float, family: Family) -> dict[str, tuple[int, ...]]:
        """Of the shared parameters."""
        return {
            name: grown_shape(self.model.get_parameter(name).shape, self.growing.get(name, ()), width)
            for name in self.shared(family)
        }

    def build(self, width: float, classes: int, *, idle: bool = False) -> nn.Module:
        """A plain module with the original values; new channels random, or idle: multiplied by zero."""
        with quiet():
            made = copy.deepcopy(self.model)
        if width > 1.0:
            self._widen_(made, width, idle)
        if classes != self.classes:
            self._answer_(made, classes)
        return made

    @torch.no_grad()
    def _widen_(self, made: nn.Module, width: float, idle: bool) -> None:
        for name, axes in self.growing.items():
            owner_name, _, leaf = name.rpartition(".")
            owner = made.get_submodule(owner_name)
            old = getattr(owner, leaf)
            shape = grown_shape(old.shape, axes, width)
            fresh = torch.zeros(shape, dtype=old.dtype)
            if old.ndim > 1 and not idle:
                # At one width the same values come out whatever was built before.
                fresh.uniform_(-1, 1, generator=generator_of("grown", self.seed, name, str(shape)))
                fresh /= math.sqrt(math.prod(shape[1:]))
            elif old.ndim == 1 and isinstance(owner, NORMALIZATIONS) and leaf in ("weight", "running_var"):
                fresh.fill_(1.0)
            fresh[tuple(slice(size) for size in old.shape)] = old.detach().cpu()
            _set(owner, leaf, fresh)
        for module in made.modules():
            _resize_attributes_(module)

    def _answer_(self, made: nn.Module, classes: int) -> None:
        head = made.get_submodule(self.head)
        for leaf, old in [(leaf, p) for leaf, p in head.named_parameters(recurse=False)]:
            shape = (classes, *old.shape[1:])
            fan_in = math.prod(made.get_parameter(f"{self.head}.weight").shape[1:])
            fresh = torch.empty(shape, dtype=old.dtype)
            fresh.uniform_(-1, 1, generator=generator_of("head", self.seed, leaf, str(shape)))
            _set(head, leaf, fresh / math.sqrt(fan_in))
        _resize_attributes_(head)


def _set(owner: nn.Module, leaf: str, value: Tensor) -> None:
    old = getattr(owner, leaf)
    value = value.to(old.device)
    if isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        owner.register_buffer(leaf, value, persistent=leaf not in owner._non_persistent_buffers_set)  # pyright: ignore[reportPrivateUsage]


def _resize_attributes_(module: nn.Module) -> None:
    """The integers that plain layers keep beside their weights."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, CONVOLUTIONS):
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, NORMALIZATIONS) and isinstance(module.running_mean, Tensor):
        module.num_features = len(module.running_mean)
