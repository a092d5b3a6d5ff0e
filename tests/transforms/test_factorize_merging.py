"""Chains put together again: exactly those that a split makes, and the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.transforms.lowrank.evidence import Seen
from lissom.transforms.lowrank.fitting import fit
from lissom.transforms.lowrank.merging import merged
from lissom.transforms.lowrank.parts import applies, build, fill_, shape_of

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 5, 3, padding=1, bias=False), (2, 4, 7, 8)),
    "one row": (lambda: nn.Conv2d(4, 5, (1, 3), stride=(2, 1), padding=(0, 1)), (2, 4, 7, 8)),
    "dilated": (lambda: nn.Conv2d(4, 5, 3, stride=2, padding=(2, 3), dilation=(1, 2)), (2, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(4, 5, (3, 4), padding="same", dilation=2), (2, 4, 9, 9)),
    "valid": (lambda: nn.Conv2d(4, 5, 3, padding="valid"), (2, 4, 7, 7)),
    "reflected": (lambda: nn.Conv2d(4, 5, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 7, 7)),
    "pointwise": (lambda: nn.Conv2d(4, 5, 1, stride=2), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 3, padding=1), (2, 3, 4, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["svd", "spatial", "tucker", "cp"])
def test_what_a_split_makes_is_merged_to_the_same_function(name, method):
    make, size = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make().eval(), torch.randn(size)
    shape = shape_of(layer, 1, 1, 1)
    if not applies(shape, method):
        return
    ranks = (2, 3) if method == "tucker" else (2,)
    bias = layer.bias.detach() if layer.bias is not None else None
    split = build(layer, method, ranks)
    fill_(split, fit(layer.weight.detach(), bias, shape, method, ranks, Seen(), centred=False).weights, bias)
    model = nn.ModuleDict({"conv": split})
    whole = merged(model)["conv"]
    assert repr(whole) == repr(layer)
    torch.testing.assert_close(whole(x), split(x), rtol=0, atol=1e-5)
    assert model["conv"] is split
    assert isinstance(merged(model, keep={"conv.0"})["conv"], nn.Sequential)


@pytest.mark.parametrize(
    "chain",
    [
        lambda: nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 5)),
        lambda: nn.Sequential(nn.Linear(6, 2, bias=False), nn.ReLU(), nn.Linear(2, 5)),
        lambda: nn.Sequential(nn.Linear(6, 2, bias=False)),
        lambda: nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3))),
        lambda: nn.Sequential(nn.Conv2d(4, 2, 3, bias=False), nn.Conv2d(2, 4, 3)),
        lambda: nn.Sequential(nn.Conv2d(4, 2, 3, bias=False), nn.Conv2d(2, 4, 1, padding=1)),
        lambda: nn.Sequential(nn.Conv2d(4, 2, 1, stride=2, bias=False), nn.Conv2d(2, 4, 3)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Conv2d(4, 4, 1)),
    ],
    ids=["bias between", "relu between", "one", "three linear", "two kernels", "padded later", "strided", "grouped"],
)
def test_other_chains_stay(chain):
    model = nn.ModuleDict({"chain": chain()})
    assert repr(merged(model)) == repr(model)
