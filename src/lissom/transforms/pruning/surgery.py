"""Cuts carried out: the user's own class with smaller parameters where that is proven, else the rewritten graph.

The traced graph is rewritten first (`graph.resize`): that is what the result must compute. Then the same slices are
taken from a copy of the user's module, and the integers that its modules keep (`num_heads`, `groups`,
`normalized_shape`) are set to what the graph's constants became. The copy is traced again: only if it gives the
rewritten graph, operator by operator and constant by constant, is it handed back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import VerificationError, first_line
from lissom.graph.agreement import ALLOWED_GAP, apart, outputs, tensors_in
from lissom.graph.channels import Channels, find_channels, listed_names
from lissom.graph.masked import Masked
from lissom.graph.resize import Kept, Sizes, resize_, slice_parameters_
from lissom.graph.trace import TRACE_BATCH, Trace
from lissom.task import Batch, contiguous, repeated
from lissom.transforms.base import ALONE, Recovery, clone
from lissom.transforms.pruning.constants import fold_constants_
from lissom.transforms.pruning.left_out import NOTHING, LeftOut
from lissom.transforms.pruning.own_class import own_class
from lissom.transforms.pruning.recovery import Pair, recover_

EXPORTED = "exported_because"
"""Name of the note (`Work.note`) that says why a model came back as an exported graph."""
ALREADY = "the model is an exported graph"


@dataclass(frozen=True, eq=False)
class Pruned:
    """`own` says whether the module is of the user's class; else `reason` says why not."""

    module: nn.Module
    own: bool
    reason: str
    gap: float
    """Largest difference to the masked original, as a share of the largest output."""


@dataclass(frozen=True, eq=False)
class Refit:
    """How what is left is fitted again, and on what."""

    how: Recovery | Literal["constants"] = "none"
    batches: Iterable[Batch] = ()
    tick: Callable[[float], None] = ALONE.tick


def prune(
    model: nn.Module,
    traced: Trace,
    kept: Kept,
    example: Batch,
    channels: Channels | None = None,
    refit: Refit = Refit(),
) -> Pruned:
    """A smaller copy of `model` with only the `kept` channels, checked against the masked original, then fitted again.

    Raises:
        VerificationError: the smaller network is not the masked one.
    """
    channels = channels or find_channels(traced)
    sizes = Sizes(channels, kept)
    names = listed_names(traced)
    module = clone(traced.module)
    slice_parameters_(module, sizes, names)
    changes = resize_(module, sizes)
    left_out = LeftOut.of(traced, sizes)
    reason = ALREADY
    found: nn.Module = module
    own = False
    if not isinstance(model, GraphModule):
        candidate, reason = own_class(model, traced, sizes, changes, module, example, left_out)
        found, own = (module, False) if candidate is None else (candidate, True)
    try:
        gap = difference(traced, sizes, found, example)
    except (RuntimeError, IndexError, ValueError) as wrong:
        raise VerificationError(
            f"The pruned network does not run ({first_line(wrong)}); {_blame(traced, sizes, example)}"
        ) from wrong
    if not gap <= ALLOWED_GAP:
        raise VerificationError(
            f"The pruned network differs from the masked original by {gap:.1e} of the largest output (allowed "
            f"{ALLOWED_GAP:.0e}); {_blame(traced, sizes, example)}"
        )
    pair = Pair(traced.module, module, sizes, traced.graph.fixed_batch)
    if refit.how == "constants":
        changed = set(fold_constants_(pair, _batch_for(traced, example)))
    else:
        changed = set(recover_(pair, refit.batches, refit.how, refit.tick))
    if own:
        take_(found, module, changed, left_out)
    return Pruned(found, own, reason, gap)


@torch.no_grad()
def take_(own: nn.Module, fitted: GraphModule, changed: Collection[str], left_out: LeftOut = NOTHING) -> None:
    """Copy what was fitted in the graph into the user's class."""
    source = {left_out.name(name): tensor for name, tensor in fitted.state_dict().items() if name in changed}
    for name, tensor in own.state_dict().items():
        if name in source:
            tensor.copy_(source[name])


@torch.no_grad()
def difference(traced: Trace, sizes: Sizes, pruned: nn.Module, example: Batch) -> float:
    """Largest gap between the masked original and `pruned` on the example, as a share of the largest output."""
    inputs = _batch_for(traced, example)
    masked = Masked(traced, sizes, listed_names(traced))
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    wanted = tensors_in(masked.run(*leaves, enable_io_processing=False))
    got = outputs(pruned, inputs)
    worst = max((apart(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)
    if traced.graph.dynamic_batch:
        # The masked original runs at the size that was traced; the pruned one has to at any other.
        more = repeated(inputs, inputs.size + 1)
        for one, rows in zip(got, outputs(pruned, more), strict=True):
            if rows.shape[:1] == (more.size,):
                worst = max(worst, apart(one, rows[: inputs.size]))
    return worst


def _batch_for(traced: Trace, example: Batch) -> Batch:
    example = contiguous(example)
    return repeated(example, max(TRACE_BATCH, example.size)) if traced.graph.dynamic_batch else example


def _blame(traced: Trace, sizes: Sizes, example: Batch) -> str:
    return (
        f"the first group that does so alone: {_culprit(traced, sizes, example)}. This is a bug in Lissom's channel "
        "coupling: please report the model. Prune(exclude=[...]) leaves the group whole."
    )


def _culprit(traced: Trace, sizes: Sizes, example: Batch) -> str:
    """The first group that differs, or does not run, when it alone is cut."""
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
