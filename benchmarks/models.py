"""Networks that experiments need and that come with no download."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""(inner channels, blocks, stride of the first) of ResNet-50: He et al. 2016, table 1; stride in the 3x3 (v1.5)."""


class Bottleneck(nn.Module):
    """`(b, inputs, h, w)` to `(b, 4 inner, h/stride, w/stride)`."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.shortcut = nn.Sequential()
        if inputs != 4 * inner or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet50(nn.Module):
    """`(b, 3, 224, 224)` images to `(b, classes)` logits, 25.6 million parameters."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs, stages = 64, []
        for inner, blocks, stride in STAGES:
            stages.append(nn.Sequential(*_blocks(inputs, inner, blocks, stride)))
            inputs = 4 * inner
        self.stages = nn.Sequential(*stages)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.average(self.stages(x)).flatten(1))


def _blocks(inputs: int, inner: int, count: int, stride: int) -> list[nn.Module]:
    return [Bottleneck(inputs if i == 0 else 4 * inner, inner, stride if i == 0 else 1) for i in range(count)]


def resnet50(seed: int = 0) -> nn.Module:
    """Random weights, statistics of the normalizations from a few batches of noise, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet50()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None  # a plain average over the batches
            for _ in range(3):
                model.train()(torch.randn(8, 3, 224, 224))
    return model.eval()


class BertEncoder(nn.Module):
    """BERT-base (12 layers, 768 wide, 110 million parameters), random weights: `(b, n)` ids to `(b, n, 768)`.

    `config` holds what differs from that, by the names of `transformers.BertConfig`.
    """

    def __init__(self, seed: int = 0, config: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__()
        from lissom.sources.optional import ready_torchvision

        ready_torchvision()  # transformers imports it where it is installed
        from transformers import BertConfig, BertModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.bert: Any = BertModel(BertConfig(**config), add_pooling_layer=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.bert(input_ids=ids).last_hidden_state
