"""Smaller images as an axis: the network reads an image that was brought down right behind its input.

Nothing outside changes: data, example and exported program keep their size, so that subnets of all resolutions stand
beside each other. In the module that is handed out the same is done by a hook before `forward` (`Shrink`), which
torch.export follows: the class, and the names of all parameters, stay the user's own.

A graph was traced at one size. It computes another one's if the model, traced with the hook, has the same operators
with the same constants; networks that flatten their last map, or hold positions, do not, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import RecipeError
from lissom.graph.describe import op_name
from lissom.graph.trace import Trace, trace
from lissom.task import Batch
from lissom.transforms.architecture.axes import Axis
from lissom.transforms.base import clone
from lissom.transforms.pruning.own_class import unlike

Size = tuple[int, int]
"""Height and width in pixels."""
Scales = Mapping[int, Mapping[str, float]]
"""Height to operator to its MACs as a share of those at full size."""


@dataclass(frozen=True)
class Shrink:
    """A hook before `forward`: images `(b, c, h, w)` come in bilinearly interpolated to `size`."""

    size: Size

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return pytree.tree_map(self._shrunk, (args, kwargs))

    def _shrunk(self, leaf: Any) -> Any:
        return F.interpolate(leaf, size=self.size, mode="bilinear", align_corners=False) if _is_image(leaf) else leaf


def _is_image(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4 and leaf.is_floating_point()


def hook_(module: nn.Module, size: Size) -> None:
    module.register_forward_pre_hook(Shrink(size), with_kwargs=True)


def shrink_(module: GraphModule, name: str, size: Size) -> None:
    """The same in a traced graph, behind the input `name`."""
    (image,) = (node for node in module.graph.nodes if node.op == "placeholder" and node.name == name)
    readers = [node for node in image.users if op_name(node) != "sym_size"]  # the batch, which stays
    with module.graph.inserting_before(min(readers)):
        smaller = module.graph.call_function(torch.ops.aten.upsample_bilinear2d.vec, (image, list(size), False, None))
    smaller.meta["val"] = image.meta["val"].new_empty((*image.meta["val"].shape[:2], *size))
    for reader in readers:
        reader.replace_input_with(image, smaller)


def size_of(axis: Axis, choice: int) -> Size:
    """The width follows the height; `whole` holds both at full size."""
    height, width = axis.whole
    return axis.choices[choice], max(1, round(width * axis.choices[choice] / height))


@dataclass(frozen=True, eq=False)
class Resolutions:
    """An axis, none where nothing smaller was asked for; `refused` are sizes that do not go, with the reason."""

    axes: tuple[Axis, ...] = ()
    scales: Scales = field(default_factory=dict[int, Mapping[str, float]])
    refused: tuple[tuple[int, str], ...] = ()


def resolutions(model: nn.Module, whole: Trace, example: Batch, shares: Sequence[float]) -> Resolutions:
    """
    Raises:
        RecipeError: the inputs hold no image, or several, or no smaller size goes.
    """
    if not shares:
        return Resolutions()
    name, (height, width) = _image(whole)
    heights = sorted({round(share * height) for share in shares} - {height}, reverse=True)
    asked = Axis("resolution", (name,), (height, *heights), (height, width))
    scales: dict[int, Mapping[str, float]] = {}
    refused: dict[int, str] = {}
    for choice, own in enumerate(heights, 1):
        try:
            scales[own] = _scaled(model, whole, example, name, size_of(asked, choice))
        except RecipeError as wrong:
            refused[own] = str(wrong)
    if not scales:
        why = next(iter(refused.values()), "they are the size that they have already")
        raise RecipeError(
            f"Supernet(resolutions={list(shares)}): no smaller image goes through this network: {why}. Leave "
            "resolutions out."
        )
    axis = Axis("resolution", (name,), (height, *scales), (height, width))
    return Resolutions((axis,), scales, tuple(refused.items()))


def scales_of(model: nn.Module, whole: Trace, example: Batch, axes: Sequence[Axis]) -> Scales:
    """Those of axes that were found before, as in a plan."""
    return {
        axis.choices[choice]: _scaled(model, whole, example, axis.members[0], size_of(axis, choice))
        for axis in axes
        if axis.kind == "resolution"
        for choice in range(1, len(axis.choices))
    }


def _scaled(model: nn.Module, whole: Trace, example: Batch, name: str, size: Size) -> Mapping[str, float]:
    """What each operator costs at that size, as a share.

    Raises:
        RecipeError: the traced graph is not what the model computes at that size.
    """
    smaller, wanted = clone(model), clone(whole.module)
    hook_(smaller, size)
    shrink_(wanted, name, size)
    reason = unlike(smaller, wanted, example)
    if reason:
        raise RecipeError(f"at {size[0]} x {size[1]} it is not the graph that was traced at full size ({reason})")
    before, after = ([node for node in one.graph.nodes if node.macs] for one in (whole, trace(smaller, example)))
    return {a.name: b.macs / a.macs for a, b in zip(before, after, strict=True)}


def _image(whole: Trace) -> tuple[str, Size]:
    """Name and size of the one input that is an image."""
    graph = whole.graph
    found = [
        (name, shape)
        for name, shape, dtype in zip(graph.inputs, graph.input_shapes, graph.input_dtypes, strict=True)
        if len(shape) == 4 and "float" in dtype
    ]
    if len(found) != 1:
        shapes = ", ".join(str(tuple(shape)) for shape in graph.input_shapes)
        raise RecipeError(
            "Supernet(resolutions=...) needs one input of images, floating point of shape (batch, channels, height, "
            f"width), got {len(found)} among inputs of shape {shapes}. Leave resolutions out."
        )
    ((name, shape),) = found
    return name, (int(shape[2]), int(shape[3]))
