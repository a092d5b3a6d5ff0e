"""The layers that a layer becomes: plain `nn.Linear` and `nn.Conv*d`, one after the other.

    svd       kernel to r channels, 1x1 to the outputs               (a linear layer: two linear layers)
    spatial   (kh, 1) to r channels, (1, kw) to the outputs
    tucker    1x1 to r_in channels, kernel to r_out channels, 1x1 to the outputs
    cp        1x1 to r channels, kernel of each channel by itself, 1x1 to the outputs

Stride, dilation and padding go with the kernel they belong to; only the last one has the bias, so that what is padded
is the same as before: zeros (and repeated border values) pass through a 1x1 without bias unchanged. `stages` counts
multiplications by where each part is computed: at the layer's output positions, at its input positions, or, for the
first part of `spatial`, at output rows and input columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from lissom.settings import Setting

Method = Literal["svd", "spatial", "tucker", "cp"]
METHODS: tuple[Method, ...] = ("svd", "spatial", "tucker", "cp")
PLAIN: dict[type[nn.Module], int] = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
"""Classes that can be replaced, and the axes of their kernels. A subclass may do more, and is not."""

Where = Literal["outputs", "inputs", "between"]


class Shape(Setting):
    """A layer's weight, and at how many positions of one example it is computed, over all calls."""

    outs: int
    ins: int
    kernel: tuple[int, ...]
    """Empty for a linear layer."""
    bias: bool
    outputs: int
    inputs: int
    between: int
    """Output rows times input columns."""

    @property
    def window(self) -> int:
        return prod(self.kernel)

    @property
    def macs(self) -> int:
        return self.outs * self.ins * self.window * self.outputs

    @property
    def parameters(self) -> int:
        return self.outs * self.ins * self.window + self.outs * self.bias


class Stage(NamedTuple):
    """Weight shape (outs, ins, *kernel) of one part, where it is computed, and the axes on which it has the kernel of
    the layer, with its stride, dilation and padding. `cp`'s middle part is grouped: one input per output."""

    outs: int
    ins: int
    kernel: tuple[int, ...]
    where: Where
    axes: tuple[int, ...] = ()


def stages(shape: Shape, method: Method, ranks: Sequence[int]) -> tuple[Stage, ...]:
    one, every = (1,) * len(shape.kernel), tuple(range(len(shape.kernel)))
    last = Stage(shape.outs, ranks[0], one, "outputs")
    match method:
        case "svd":
            return Stage(ranks[0], shape.ins, shape.kernel, "outputs", every), last
        case "spatial":
            high, wide = shape.kernel
            column = Stage(ranks[0], shape.ins, (high, 1), "between", (0,))
            return column, Stage(shape.outs, ranks[0], (1, wide), "outputs", (1,))
        case "tucker":
            inner = Stage(ranks[0], ranks[1], shape.kernel, "outputs", every)
            return Stage(ranks[1], shape.ins, one, "inputs"), inner, last
        case "cp":
            inner = Stage(ranks[0], 1, shape.kernel, "outputs", every)
            return Stage(ranks[0], shape.ins, one, "inputs"), inner, last


def macs_of(shape: Shape, method: Method, ranks: Sequence[int]) -> int:
    """Multiply-accumulates of one example."""
    at = {"outputs": shape.outputs, "inputs": shape.inputs, "between": shape.between}
    return sum(s.outs * s.ins * prod(s.kernel) * at[s.where] for s in stages(shape, method, ranks))


def parameters_of(shape: Shape, method: Method, ranks: Sequence[int]) -> int:
    return sum(s.outs * s.ins * prod(s.kernel) for s in stages(shape, method, ranks)) + shape.outs * shape.bias


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
        case "cp":
            sides = (shape.outs, shape.ins, shape.window)
            return (prod(sides) // max(sides),)


def applies(shape: Shape, method: Method) -> bool:
    """Whether the method has something of its own to do for this kernel."""
    if method == "svd":
        return True
    if method == "spatial":
        return len(shape.kernel) == 2 and min(shape.kernel) > 1
    return shape.window > 1


def has_bias(module: nn.Module) -> bool:
    return "bias" in dict(module.named_parameters(recurse=False))


def shape_of(module: nn.Module, outputs: int, inputs: int, between: int) -> Shape:
    weight = cast(Tensor, module.weight)
    return Shape(
        outs=weight.shape[0],
        ins=weight.shape[1],
        kernel=tuple(weight.shape[2:]),
        bias=has_bias(module),
        outputs=outputs,
        inputs=inputs,
        between=between,
    )


def build(layer: nn.Module, method: Method, ranks: Sequence[int]) -> nn.Sequential:
    """The parts with all weights zero, in the layer's type, place and mode; no random number is drawn."""
    weight = cast(Tensor, layer.weight)
    todo = stages(shape_of(layer, 1, 1, 1), method, ranks)
    made: list[nn.Module] = []
    for index, stage in enumerate(todo):
        bias = has_bias(layer) and index == len(todo) - 1
        options: dict[str, Any] = {"bias": bias, "device": "meta", "dtype": weight.dtype}
        if isinstance(layer, nn.Linear):
            part: nn.Module = nn.Linear(stage.ins, stage.outs, **options)
        else:
            grouped = method == "cp" and index == 1
            part = _convolution(cast(nn.Conv2d, layer), stage, stage.outs if grouped else 1, options)
        made.append(part.to_empty(device=weight.device))
    split = nn.Sequential(*made).train(layer.training)
    for parameter in split.parameters():
        parameter.requires_grad_(weight.requires_grad)
        parameter.data.zero_()
    return split


def _convolution(layer: nn.Conv2d, stage: Stage, groups: int, options: dict[str, Any]) -> nn.Module:
    """A part of a convolution of any number of axes."""

    def own(given: Sequence[int], other: int) -> Any:  # as many axes as the layer has
        return tuple(value if axis in stage.axes else other for axis, value in enumerate(given))

    padding = layer.padding
    return type(layer)(
        stage.ins * groups,
        stage.outs,
        cast(Any, stage.kernel),
        stride=own(layer.stride, 1),
        padding=(padding if stage.axes else 0) if isinstance(padding, str) else own(padding, 0),
        dilation=own(layer.dilation, 1),
        groups=groups,
        padding_mode=layer.padding_mode if stage.axes else "zeros",
        **options,
    )


@torch.no_grad()
def fill_(split: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> None:
    """Weights of the parts, in order, and the bias of the last."""
    for part, weight in zip(split, weights, strict=True):
        own = cast(Tensor, part.weight)
        own.copy_(weight.reshape(own.shape))
    if bias is not None:
        cast(Tensor, split[-1].bias).copy_(bias)
