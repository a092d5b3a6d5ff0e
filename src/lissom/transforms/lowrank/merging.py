"""Layers that were split put together again, so that they can be split anew at lower ranks.

A part that is split once more would make a longer chain; the product of the parts, W = product of their weights, is
one layer again, and whatever was learned since is in it. A chain is recognised by its structure alone: an
`nn.Sequential` of plain layers is merged if splitting the layer that they stand for would build exactly these.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lissom.functional.cp import Cp
from lissom.functional.spatial import Spatial
from lissom.functional.tucker import Tucker
from lissom.transforms.base import clone
from lissom.transforms.lowrank.parts import PLAIN, applies, build, has_bias, shape_of

Chain = Literal["svd", "spatial", "tucker", "cp"]
MERGED: tuple[Chain, ...] = ("svd", "spatial", "tucker", "cp")
"""Methods whose parts multiply to a kernel."""


@torch.no_grad()
def merged(model: nn.Module, keep: Container[str] = ()) -> nn.Module:
    """A copy with every chain as one layer, of the same name; a chain of which `keep` names a part stays."""
    whole = clone(model)
    for name, module in list(whole.named_modules()):
        if type(module) is not nn.Sequential or not name or any(f"{name}.{i}" in keep for i in range(len(module))):
            continue
        if (layer := _read(module)) is not None:
            whole.set_submodule(name, layer)
    return whole


def _read(chain: nn.Sequential) -> nn.Module | None:
    parts = list(chain)
    kind = type(parts[0]) if parts else nn.Module
    if kind not in PLAIN or any(type(part) is not kind for part in parts):
        return None
    layer = _layer(kind, [cast(nn.Conv2d, part) for part in parts])
    if layer is None:
        return None
    own = cast(Tensor, layer.weight)
    for method, ranks in _splits(parts):
        if not applies(shape_of(layer, 1, 1, 1), method) or [*map(repr, build(layer, method, ranks))] != [
            *map(repr, parts)
        ]:
            continue
        weights = [cast(Tensor, part.weight).detach() for part in parts]
        own.copy_(_product(method, weights).reshape(own.shape))
        if has_bias(layer):
            cast(Tensor, layer.bias).copy_(cast(Tensor, parts[-1].bias))
        return layer.train(chain.training)
    return None


def _splits(parts: list[nn.Module]) -> Iterator[tuple[Chain, tuple[int, ...]]]:
    """The methods that make as many parts, and the ranks that these would be of."""
    first = cast(Tensor, parts[0].weight).shape[0]
    last = cast(Tensor, parts[-1].weight).shape[1]
    for method in MERGED:
        if len(parts) == (2 if method in ("svd", "spatial") else 3):
            yield method, (last, first) if method == "tucker" else (last,)


def _layer(kind: type[nn.Module], parts: list[nn.Conv2d]) -> nn.Module | None:
    """The layer that the parts would be of, with no weights yet; strides and paddings of all of them together."""
    first, last = parts[0], parts[-1]
    options: dict[str, Any] = {"bias": has_bias(last), "device": first.weight.device, "dtype": first.weight.dtype}
    if kind is nn.Linear:
        return nn.Linear(first.weight.shape[1], last.weight.shape[0], **options)
    axes = range(PLAIN[kind])
    own = [max(parts, key=lambda part, axis=axis: _acts(part, axis)) for axis in axes]
    modes, paddings = {part.padding_mode for part in own}, {part.padding for part in own}
    words = any(isinstance(padding, str) for padding in paddings)
    if len(modes) > 1 or (words and len(paddings) > 1):
        return None
    padding = own[0].padding if words else tuple(part.padding[axis] for axis, part in zip(axes, own, strict=True))
    return kind(
        first.in_channels,
        last.out_channels,
        tuple(part.kernel_size[axis] for axis, part in zip(axes, own, strict=True)),
        stride=tuple(part.stride[axis] for axis, part in zip(axes, own, strict=True)),
        padding=padding,
        dilation=tuple(part.dilation[axis] for axis, part in zip(axes, own, strict=True)),
        padding_mode=modes.pop(),
        **options,
    )


def _acts(part: nn.Conv2d, axis: int) -> tuple[bool, ...]:
    """Which part has the kernel on an axis: all others are 1 wide there, without stride and padding."""
    padded = part.padding_mode != "zeros" or (
        part.padding == "same" if isinstance(part.padding, str) else part.padding[axis] > 0
    )
    return part.kernel_size[axis] > 1, part.stride[axis] > 1, padded


def _product(method: Chain, weights: list[Tensor]) -> Tensor:
    """What the parts stand for, (out, in, *kernel) up to its shape, float64."""
    one = [weight.double() for weight in weights]
    match method:
        case "svd":
            return one[1].flatten(1) @ one[0].flatten(1)
        case "spatial":
            return Spatial(*one).weight()
        case "tucker":
            return Tucker(one[2].flatten(1), one[1], one[0].flatten(1).T).weight()
        case "cp":
            return Cp(one[2].flatten(1), one[0].flatten(1).T, one[1].squeeze(1)).weight()
