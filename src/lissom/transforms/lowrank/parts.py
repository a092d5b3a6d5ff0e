"""The layers that a layer becomes: plain `nn.Linear`, `nn.Conv*d` and `nn.Embedding`, one after the other.

    svd       kernel to r channels, 1x1 to the outputs               (a linear layer: two linear layers)
    spatial   (kh, 1) to r channels, (1, kw) to the outputs
    tucker    1x1 to r_in channels, kernel to r_out channels, 1x1 to the outputs
    full-tucker  1x1 to r_in channels, one convolution of each channel by itself along each axis of the kernel that is
              cut, what is left of the kernel to r_out channels, 1x1 to the outputs (`multilinear`)
    cp        1x1 to r channels, kernel of each channel by itself, 1x1 to the outputs
    tt        1x1, one convolution along each axis of the kernel, 1x1 to the outputs
    ring      the same, computed r_0 times side by side (`modules.RingConv`)
    kronecker kernel on each group of inputs, 1x1 across the groups (`modules.KroneckerConv`)

A table (`nn.Embedding`) becomes a narrow table and a linear layer (svd) or a chain of tables; `tt`, `ring` and
`kronecker` make of a linear layer a chain of linear layers (`modules.ChainLinear`).

Stride, dilation and padding go with the kernel they belong to; only the last one has the bias, so that what is padded
is the same as before: zeros (and repeated border values) pass through a 1x1 without bias unchanged. `stages` counts
multiplications by where each part is computed: at the layer's output positions, at its input positions, or, for the
first part of `spatial`, at output rows and input columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from lissom.transforms.lowrank import chains, multilinear
from lissom.transforms.lowrank.modules import ChainEmbedding, ChainLinear, KroneckerConv, RingConv
from lissom.transforms.lowrank.shapes import METHODS as METHODS
from lissom.transforms.lowrank.shapes import PLAIN as PLAIN
from lissom.transforms.lowrank.shapes import Method as Method
from lissom.transforms.lowrank.shapes import Shape as Shape
from lissom.transforms.lowrank.shapes import Stage as Stage


def stages(shape: Shape, method: Method, ranks: Sequence[int]) -> tuple[Stage, ...]:
    one, every = (1,) * len(shape.kernel), tuple(range(len(shape.kernel)))
    last = Stage(shape.outs, ranks[0], one, "outputs")
    match method:
        case "svd" if shape.table:
            return Stage(shape.outs, ranks[0], (), "outputs", work=0), Stage(shape.ins, ranks[0], (), "outputs")
        case "svd":
            return Stage(ranks[0], shape.ins, shape.kernel, "outputs", every), last
        case "spatial":
            high, wide = shape.kernel
            column = Stage(ranks[0], shape.ins, (high, 1), "between", (0,))
            return column, Stage(shape.outs, ranks[0], (1, wide), "outputs", (1,))
        case "tucker":
            inner = Stage(ranks[0], ranks[1], shape.kernel, "outputs", every)
            return Stage(ranks[1], shape.ins, one, "inputs"), inner, last
        case "full-tucker":
            return multilinear.stages(shape, ranks)
        case "cp":
            inner = Stage(ranks[0], 1, shape.kernel, "outputs", every, groups=ranks[0])
            return Stage(ranks[0], shape.ins, one, "inputs"), inner, last
        case "tt" | "ring" | "kronecker":
            return chains.stages(shape, method, ranks)


def macs_of(shape: Shape, method: Method, ranks: Sequence[int]) -> int:
    """Multiply-accumulates of one example."""
    return sum(stage.macs(shape) for stage in stages(shape, method, ranks))


def parameters_of(shape: Shape, method: Method, ranks: Sequence[int]) -> int:
    return sum(stage.parameters for stage in stages(shape, method, ranks)) + shape.outs * shape.bias


def largest(shape: Shape, method: Method) -> tuple[int, ...]:
    """The ranks at which the layer is given back exactly (for `cp`, at the latest)."""
    match method:
        case "svd":
            return (min(shape.outs, shape.ins * shape.window),)
        case "spatial":
            high, wide = shape.kernel
            return (min(shape.outs * wide, shape.ins * high),)
        case "tucker":
            return shape.outs, shape.ins
        case "full-tucker":
            return multilinear.sizes(shape)
        case "cp":
            sides = (shape.outs, shape.ins, shape.window)
            return (prod(sides) // max(sides),)
        case "tt" | "ring" | "kronecker":
            return chains.largest(shape, method)


def at_rank(shape: Shape, method: Method, rank: int) -> tuple[int, ...]:
    """The ranks of the layer's action, none above `rank` or what the layer has."""
    if method in chains.CHAINS:
        return chains.at_rank(shape, method, rank)
    return tuple(min(rank, most) for most in largest(shape, method))


def applies(shape: Shape, method: Method) -> bool:
    """Whether the method has something of its own to do for this kernel."""
    if method == "svd":
        return True
    if method in chains.CHAINS:
        return chains.applies(shape, method)
    if method == "spatial":
        return len(shape.kernel) == 2 and min(shape.kernel) > 1
    return shape.window > 1


def inapplicable(shape: Shape, method: Method) -> str:
    """Why not."""
    if method in chains.CHAINS:
        return chains.inapplicable(shape, method)
    kernel = "table" if shape.table else "linear layer's kernel"
    if shape.kernel:
        kernel = f"{' x '.join(map(str, shape.kernel))} kernel"
    return f"{method} has nothing to split in a {kernel}; svd has"


def makes_outputs(shape: Shape, method: Method) -> bool:
    """Whether the last part makes the layer's outputs themselves, and is a product that can be fitted to them."""
    return method not in chains.CHAINS or (bool(shape.kernel) and method != "kronecker")


def has_bias(module: nn.Module) -> bool:
    return "bias" in dict(module.named_parameters(recurse=False))


def shape_of(module: nn.Module, outputs: int, inputs: int, between: int, steps: Sequence[int] = ()) -> Shape:
    weight = cast(Tensor, module.weight)
    kernel = tuple(weight.shape[2:])
    return Shape(
        outs=weight.shape[0],
        ins=weight.shape[1],
        kernel=kernel,
        bias=has_bias(module),
        outputs=outputs,
        inputs=inputs,
        between=between,
        steps=tuple(steps),
        table=isinstance(module, nn.Embedding),
        padded=isinstance(module, nn.Embedding) and module.padding_idx is not None,
    )


def build(layer: nn.Module, method: Method, ranks: Sequence[int]) -> nn.Sequential:
    """The parts with all weights zero, in the layer's type, place and mode; no random number is drawn."""
    weight = cast(Tensor, layer.weight)
    with torch.device("meta"):
        made = _made(layer, shape_of(layer, 1, 1, 1), method, ranks, weight.dtype)
    split = made.to_empty(device=weight.device).train(layer.training)
    for parameter in split.parameters():
        parameter.requires_grad_(weight.requires_grad)
        parameter.data.zero_()
    return split


def _made(layer: nn.Module, shape: Shape, method: Method, ranks: Sequence[int], dtype: torch.dtype) -> nn.Sequential:
    todo = stages(shape, method, ranks)
    if isinstance(layer, nn.Embedding):
        if method in chains.CHAINS:
            return ChainEmbedding(chains.cores(shape, method, ranks), shape.outs, dtype=dtype)
        table = nn.Embedding(todo[0].outs, todo[0].ins, padding_idx=layer.padding_idx, sparse=layer.sparse, dtype=dtype)
        return nn.Sequential(table, nn.Linear(todo[1].ins, todo[1].outs, bias=False, dtype=dtype))
    if isinstance(layer, nn.Linear) and method in chains.CHAINS:
        return ChainLinear(chains.cores(shape, method, ranks), bias=shape.bias, dtype=dtype)
    last_bias = shape.bias and method != "kronecker"
    parts: list[nn.Module] = []
    for index, stage in enumerate(todo):
        options: dict[str, Any] = {"bias": last_bias and index == len(todo) - 1, "dtype": dtype}
        if isinstance(layer, nn.Linear):
            parts.append(nn.Linear(stage.ins, stage.outs, **options))
            continue
        parts.append(_convolution(cast(nn.Conv2d, layer), stage, options))
    if method == "ring":
        return RingConv(ranks[0], parts)
    if method == "kronecker":
        outs, ins = chains.digits(shape, method)
        return KroneckerConv((outs[0], outs[1]), (ins[0], ins[1]), parts, shape.bias)
    return nn.Sequential(*parts)


def _convolution(layer: nn.Conv2d, stage: Stage, options: dict[str, Any]) -> nn.Module:
    """A part of a convolution of any number of axes."""

    def own(given: Sequence[int], other: int) -> Any:  # as many axes as the layer has
        return tuple(value if axis in stage.axes else other for axis, value in enumerate(given))

    padding = layer.padding
    return type(layer)(
        stage.ins * stage.groups,
        stage.outs,
        cast(Any, stage.kernel),
        stride=own(layer.stride, 1),
        padding=(padding if stage.axes else 0) if isinstance(padding, str) else own(padding, 0),
        dilation=own(layer.dilation, 1),
        groups=stage.groups,
        padding_mode=layer.padding_mode if stage.axes else "zeros",
        **options,
    )


@torch.no_grad()
def fill_(split: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> None:
    """Weights of the parts, in order, and the bias of all of them or of the last."""
    for part, weight in zip(split, weights, strict=True):
        own = cast(Tensor, part.weight)
        own.copy_(weight.reshape(own.shape))
    if bias is not None:
        own = split.bias if isinstance(split, (ChainLinear, KroneckerConv)) else split[-1].bias
        cast(Tensor, own).copy_(bias)
