"""A subnet as a plain module: the user's own class where its trace proves it, else the exported graph.

Channels are cut by `pruning.surgery`, which checks the smaller network against the masked original; then blocks are
replaced by the identity, kernels cropped, and a hook brings images down. The result has to compute the supernet's own
program of that subnet, operator by operator for the user's class, and number by number on the example in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule

from lissom.errors import VerificationError
from lissom.graph.agreement import ALLOWED_GAP, apart, outputs, tensors_in
from lissom.graph.trace import Trace
from lissom.task import Batch, contiguous
from lissom.transforms.architecture.programs import Program, Programs, Statistics, tensors_of
from lissom.transforms.architecture.resolutions import hook_
from lissom.transforms.architecture.space import Space, Subnet
from lissom.transforms.base import clone
from lissom.transforms.pruning.own_class import unlike
from lissom.transforms.pruning.surgery import prune


@dataclass(frozen=True, eq=False)
class Extracted:
    """`own` says whether the module is of the user's class; else `reason` says why not."""

    module: nn.Module
    own: bool
    reason: str


def extracted(
    model: nn.Module, programs: Programs, subnet: Subnet, example: Batch, statistics: Statistics | None = None
) -> Extracted:
    """The subnet of `model`, whose structure is that of the space's trace, with these statistics.

    Raises:
        VerificationError: it is not what the supernet computes.
    """
    space = programs.space
    program = programs.of(subnet)
    tensors = tensors_of(model)
    plain = program.plain(tensors)
    module, reason = _own(model, space, subnet, plain, example)
    found: nn.Module = plain if module is None else module
    _load_(found, statistics or {})
    _verify(program, tensors, found, example, statistics or {})
    return Extracted(found, module is not None, reason)


def _own(
    model: nn.Module, space: Space, subnet: Subnet, wanted: GraphModule, example: Batch
) -> tuple[nn.Module | None, str]:
    kept = space.kept(subnet)
    smaller = clone(model)
    if kept:
        traced = Trace(space.trace.program, _with_values(space.trace.module, model), space.trace.graph)
        pruned = prune(model, traced, kept, example, space.channels)
        if not pruned.own:
            return None, pruned.reason
        smaller = pruned.module
    for block in space.gone(subnet):
        smaller.set_submodule(block.module, nn.Identity())
    present = dict(smaller.named_modules())
    for weight, (before, after) in space.sides(subnet).items():
        layer = present.get(weight.rpartition(".")[0])
        if layer is None:
            continue  # in a block that is gone
        if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
            return None, f"the kernel of {weight} is not that of an nn.Conv2d"
        crop_(layer, before, after)
    if (image := space.image(subnet)) is not None:
        hook_(smaller, image[1])
    reason = unlike(smaller, wanted, example)
    return (None, reason) if reason else (smaller, "")


def _with_values(module: GraphModule, model: nn.Module) -> GraphModule:
    """The traced graph with the weights of `model`."""
    made = clone(module)
    made.load_state_dict(tensors_of(model), strict=False)
    return made


@torch.no_grad()
def crop_(layer: nn.Conv2d, before: int, after: int) -> None:
    """Keep the middle of a square kernel, and as much less padding."""
    start = (before - after) // 2
    weight = layer.weight[..., start : start + after, start : start + after].contiguous()
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    layer.kernel_size = (after, after)
    layer.padding = tuple(
        int(p) - d * (before - after) // 2 for p, d in zip(layer.padding, layer.dilation, strict=True)
    )
    layer._reversed_padding_repeated_twice = [  # pyright: ignore[reportPrivateUsage]  what other padding modes read
        p for p in reversed(layer.padding) for _ in range(2)
    ]


@torch.no_grad()
def _load_(module: nn.Module, statistics: Statistics) -> None:
    state = module.state_dict()
    for name, value in statistics.items():
        state[name].copy_(value)


@torch.no_grad()
def _verify(
    program: Program, tensors: dict[str, torch.Tensor], found: nn.Module, example: Batch, statistics: Statistics
) -> None:
    example = contiguous(example)
    wanted = tensors_in(program.run(tensors, example, "kept", statistics))
    got = outputs(found, example)
    gap = max((apart(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)
    if not gap <= ALLOWED_GAP:
        raise VerificationError(
            f"The subnet differs from what the supernet computes by {gap:.1e} of the largest output (allowed "
            f"{ALLOWED_GAP:.0e}). This is a bug in Lissom: please report the model. Supernet(exclude=[...]) leaves "
            "layers whole."
        )
