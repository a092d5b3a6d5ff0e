"""Networks to start an architecture search from, where there is none: every size at its largest, of plain layers.

    block   x -> x + project(squeeze(depthwise_k(expand(x))))      with stride 1 and as many channels out as in
            x ->     project(squeeze(depthwise_k(expand(x))))      else

expand and project are 1 x 1 convolutions between c and e * c channels, each convolution is followed by a batch
normalization, all but the last by an activation. squeeze multiplies channels by gates in [0, 1] that are computed from
their means. Sandler et al. 2018, "MobileNetV2" (arXiv:1801.04381), section 3.3; Hu et al. 2018, "Squeeze-and-Excitation
Networks" (arXiv:1709.01507), equations 2 to 4; as a space of widths, kernels and depths: Tan et al. 2019, "MnasNet"
(arXiv:1807.11626), section 4. Deviation: gates are on all e * c channels, as in MobileNetV3, with hard sigmoids.

The module knows nothing of search. `Supernet` finds the axes of its graph, as those of any other network: the channels
of a stage, the expanded ones of each block and the inner ones of each gate (width), the blocks after the first of a
stage (depth), the sides of depthwise kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor, nn

from lissom.errors import UsageError
from lissom.settings import Setting

Activation = Literal["relu", "hardswish", "silu"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish, "silu": nn.SiLU}
_LEAST = 8
"""Channels that a gate is computed through at least."""


class Stage(Setting):
    """Blocks with the same number of channels; the first of them has the stride."""

    width: Annotated[int, pydantic.Field(ge=1)]
    """Channels out of every block."""
    depth: Annotated[int, pydantic.Field(ge=1)] = 4
    kernel: Literal[3, 5, 7] = 7
    expansion: Annotated[float, pydantic.Field(ge=1.0)] = 6.0
    stride: Literal[1, 2] = 1
    squeeze: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.25
    """Channels inside a gate, as a share of the expanded ones; 0: no gate."""


SMALL = (
    Stage(width=24, depth=2, kernel=5, expansion=4.0, squeeze=0.0),
    Stage(width=32, depth=3, kernel=5, expansion=4.0, stride=2),
    Stage(width=64, depth=3, kernel=5, expansion=4.0, stride=2),
)
"""For images of about 32 x 32."""
LARGE = (
    Stage(width=24, kernel=7, stride=2, squeeze=0.0),
    Stage(width=40, kernel=7, stride=2),
    Stage(width=80, kernel=7, stride=2, squeeze=0.0),
    Stage(width=112, kernel=7),
    Stage(width=160, kernel=7, stride=2),
)
"""For images of about 224 x 224, with the widths, depths and kernels of Cai et al. 2020 (arXiv:1908.09791)."""


class Gate(nn.Module):
    """Squeeze and excitation: (n, c, h, w) times a number in [0, 1] for each example and channel."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(channels, inner, 1)
        self.act = nn.ReLU()
        self.up = nn.Conv2d(inner, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.act(self.down(self.pool(x)))))


class MBConv(nn.Module):
    """One block; `stage` gives kernel, expansion and gate."""

    def __init__(self, channels: int, stage: Stage, stride: int, activation: Activation) -> None:
        super().__init__()
        inner = round(channels * stage.expansion)
        act = _ACTIVATIONS[activation]
        self.expand = _convolution(channels, inner, 1, act=act) if inner != channels else nn.Identity()
        self.depthwise = _convolution(inner, inner, stage.kernel, stride, groups=inner, act=act)
        self.squeeze = Gate(inner, max(_LEAST, round(inner * stage.squeeze))) if stage.squeeze else nn.Identity()
        self.project = _convolution(inner, stage.width, 1)
        self.residual = stride == 1 and channels == stage.width

    def forward(self, x: Tensor) -> Tensor:
        made = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + made if self.residual else made


class MBConvNet(nn.Module):
    """(n, inputs, h, w) to logits (n, classes); any size of image that its strides leave a pixel of."""

    def __init__(
        self,
        classes: int,
        stages: Sequence[Stage],
        *,
        inputs: int,
        stem: int,
        stem_stride: int,
        head: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        act = _ACTIVATIONS[activation]
        self.stem = _convolution(inputs, stem, 3, stem_stride, act=act)
        made: list[nn.Module] = []
        channels = stem
        for stage in stages:
            blocks: list[nn.Module] = []
            for index in range(stage.depth):
                blocks.append(MBConv(channels, stage, stage.stride if index == 0 else 1, activation))
                channels = stage.width
            made.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*made)
        self.head = _convolution(channels, head, 1, act=act)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.head(self.stages(self.stem(x))))))


def mbconv(
    classes: int,
    stages: Sequence[Stage] = SMALL,
    *,
    inputs: int = 3,
    stem: int = 16,
    stem_stride: Literal[1, 2] = 1,
    head: int | None = None,
    activation: Activation = "hardswish",
    seed: int = 0,
) -> MBConvNet:
    """A network of `MBConv` blocks with fresh weights: the largest of the space that `Supernet` then searches.

    Args:
        classes: logits that it gives.
        stages: largest sizes, stage by stage; `SMALL` or `LARGE`, or your own.
        inputs: channels of an image.
        stem: channels of the first convolution, 3 x 3, with `stem_stride` (2 for large images).
        head: channels before the classifier; six times the last stage's, where it is None.
        seed: of the weights (He et al. 2015, by fan-out); torch's own generators are left as they were.

    Raises:
        UsageError: no classes, no stages, or a width that is no positive number.
    """
    sizes = {"classes": classes, "inputs": inputs, "stem": stem, "head": 1 if head is None else head}
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"mbconv({name}={value}) has to be at least 1.")
    if not stages:
        raise UsageError("mbconv needs at least one stage. Leave stages out for lissom.spaces.SMALL, or give LARGE.")
    if activation not in _ACTIVATIONS:
        raise UsageError(f"mbconv(activation={activation!r}) is none of {', '.join(_ACTIVATIONS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MBConvNet(
            classes,
            stages,
            inputs=inputs,
            stem=stem,
            stem_stride=stem_stride,
            head=6 * stages[-1].width if head is None else head,
            activation=activation,
        )
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
    return model


def _convolution(
    channels: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    """Convolution that keeps the size (but for the stride), normalization, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))
