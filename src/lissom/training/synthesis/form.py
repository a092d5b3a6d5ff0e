"""What a model's inputs look like, so that others can be made: shapes, bounds, what stays as in the example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lissom.errors import DataError
from lissom.task import Batch, repeated


@dataclass(frozen=True, eq=False)
class Form:
    """Inputs to be made: the floating point tensors of the example that have its batch axis."""

    example: Batch
    shapes: tuple[tuple[int, ...], ...]
    """Of one example each, without the batch axis."""
    low: float | None
    high: float | None

    def batch(self, values: Sequence[Tensor], target: Any = None) -> Batch:
        """A call with `values`, `(n, *shape)` each; everything else is the example's, repeated."""
        like = repeated(self.example, len(values[0]))
        left = list(values)

        def put(leaf: Any) -> Any:
            if _is_made(leaf, len(values[0])):
                return left.pop(0)
            return leaf.to(values[0].device) if isinstance(leaf, Tensor) else leaf

        args, kwargs = pytree.tree_map(put, (like.args, dict(like.kwargs)))
        return Batch(args, kwargs, target)

    def bounded(self, free: Tensor) -> Tensor:
        """Any numbers as valid inputs: low + (high - low) sigmoid(free); as they are without bounds."""
        if self.low is None or self.high is None:
            return free
        return self.low + (self.high - self.low) * torch.sigmoid(free)

    def noise(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Uniform between the bounds, standard normal without."""
        if self.low is None or self.high is None:
            return [torch.randn(count, *shape, generator=generator) for shape in self.shapes]
        span = self.high - self.low
        return [self.low + span * torch.rand(count, *shape, generator=generator) for shape in self.shapes]


def form_of(example: Batch, low: float | None, high: float | None) -> Form:
    """
    Raises:
        DataError: an input of integers for each example, or none that could be made.
    """
    size = example.size
    for index, tensor in enumerate(example.tensors()):
        whole = not tensor.is_floating_point() and tensor.dtype != torch.bool
        if whole and tensor.ndim and tensor.shape[0] == size:
            raise DataError(
                f"Inputs can be synthesized where they are floating point, and input {index} is {tensor.dtype} of "
                f"shape {tuple(tensor.shape)}: token ids and other integers cannot be moved along a gradient. Wrap the "
                "model so that it takes embeddings (an input such as inputs_embeds), or give real data."
            )
    made = [tensor for tensor in example.tensors() if _is_made(tensor, size)]
    if not made:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example.tensors())
        raise DataError(
            f"No input can be synthesized: the example has inputs of shape {shapes}, and none is floating point with a "
            "batch axis. Give Task(example_inputs=...) such an input, or give real data."
        )
    return Form(example, tuple(tuple(tensor.shape[1:]) for tensor in made), low, high)


def _is_made(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 0 and leaf.shape[0] == size
