"""A model through `torch.compile` (Ansel et al. 2024, doi:10.1145/3620665.3640366): what lies between its products
(normalizations, activations, sums) goes through memory once instead of once each, forward and backward.

Kernels are made for inputs of one shape. Others, such as the last batch of a pass, are computed by the model as it is:
every further shape would be compiled by itself, which takes longer than what it saves.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.graph.trace import quiet

Shapes = tuple[tuple[int, ...], ...]


def shapes_of(*inputs: object) -> Shapes:
    """Of every tensor in `inputs`, in order."""
    return tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))


class Compiled(nn.Module):
    """Calls `model`, the same parameters and buffers, by kernels compiled for inputs of `shapes`.

    Compiling happens at the first call and takes from seconds to minutes.
    """

    def __init__(self, model: nn.Module, shapes: Shapes) -> None:
        super().__init__()
        self.model, self.shapes = model, shapes
        self._fast = torch.compile(_own_code(model), dynamic=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if shapes_of(args, kwargs) != self.shapes:
            return self.model(*args, **kwargs)
        with _unremarked():
            return self._fast(*args, **kwargs)


@contextlib.contextmanager
def _unremarked() -> Generator[None]:
    """The compiler remarks on its own reading of the model, at the first call and wherever it compiles again."""
    talkative = [logging.getLogger(name) for name in ("torch._dynamo", "torch._inductor")]
    levels = [one.level for one in talkative]
    for one in talkative:
        one.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        for one, level in zip(talkative, levels, strict=True):
            one.setLevel(level)


def _own_code(model: nn.Module) -> Callable[..., Any]:
    """A function that calls the model, with a code object that no other has.

    Compiled kernels hang on code objects, a few on each: a ninth model of one class would not be compiled any more,
    and all of them would stay in memory.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    call.__code__ = call.__code__.replace()
    return call
