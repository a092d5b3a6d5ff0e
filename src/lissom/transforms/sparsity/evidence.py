"""What the criteria know of single weights beyond their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import DataError
from lissom.graph.graph import Node
from lissom.graph.moments import input_moments
from lissom.graph.statistics import check_inputs
from lissom.graph.trace import Trace
from lissom.task import Batch, Split, Task, sliced
from lissom.training.objective import checked
from lissom.transforms.base import clone


def moments_by_parameter(
    trace: Trace,
    batches: Iterable[Batch],
    weights: Mapping[str, Iterable[str]],
    *,
    full: bool,
    progress: Callable[[int], None],
) -> dict[str, Tensor]:
    """Second moments of the rows that each weight meets, (groups, n, n) if `full`, else their diagonal (groups, n).

    `weights` holds the nodes that read a weight; one that is used twice reads the rows of both uses.
    """
    nodes = [node for own in weights.values() for node in own]
    found = input_moments(trace, batches, nodes, full=full, progress=progress)
    return {name: cast(Tensor, sum(found.pop(node) for node in own)) for name, own in weights.items()}


def gradient_scores(
    trace: Trace,
    task: Task,
    split: Split,
    samples: int,
    weights: Mapping[str, list[Node]],
    progress: Callable[[int], None],
) -> dict[str, Tensor]:
    """Mean over batches of |w dL/dw|, by parameter, in evaluation mode.

    Raises:
        DataError: no labels, no batch of the size that the graph takes, or gradients that are not finite.
    """
    loss = task.loss
    assert loss is not None
    module = clone(trace.module)
    parameters = {name: module.get_parameter(name).requires_grad_(True) for name in weights}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    done = 0
    for batch in _whole(task.batches(split, limit=samples), trace.graph.fixed_batch):
        if batch.target is None:
            raise DataError(
                f"Sparsify(criterion='gradient') needs labels, and Task({split}=...) gives none. Give batches of "
                "(input, target), or use criterion='magnitude', 'wanda' or 'sparsegpt'."
            )
        check_inputs(trace.graph, pytree.tree_leaves((batch.args, dict(batch.kwargs))))
        for name, gradient in _gradients(module, batch, loss, parameters).items():
            total[name] += (parameters[name].detach() * gradient).abs()
        done += batch.size
        progress(done)
    if not done:
        raise DataError(
            f"The model takes batches of exactly {trace.graph.fixed_batch} examples, and Task({split}=...) has "
            "none of that size. Give batches of that size."
        )
    for name, score in total.items():
        if not torch.isfinite(score).all():
            raise DataError(
                f"The loss has infinite or NaN gradients at {name!r} on Task({split}=...); look for overflow in "
                "the model or the loss before compressing."
            )
    return total


def _whole(batches: Iterable[Batch], size: int | None) -> Iterable[Batch]:
    """The batches, in whole pieces of `size` where the traced program takes no other."""
    for batch in batches:
        if size is None:
            yield batch
            continue
        for start in range(0, batch.size - size + 1, size):
            yield sliced(batch, start, start + size)


def _gradients(
    module: GraphModule, batch: Batch, loss: Callable[[Any, Any], Tensor], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    with torch.enable_grad():
        value = checked(loss(module(*batch.args, **batch.kwargs), batch.target))
        # A weight that the loss does not depend on gets zeros.
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))
