"""Semi-structured sparse layers: refused without a GPU, and what would be converted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import TargetError
from lissom.export.semistructured import converted, semi_structured
from lissom.functional.nm import Pattern
from lissom.transforms.sparsity.masking import patterned


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 8), nn.Linear(8, 8))
    with torch.no_grad():
        for at in (0, 2):
            model[at].weight.copy_(patterned(model[at].weight, "magnitude", None, Pattern(2, 4)))
    return model


def test_only_layers_in_the_pattern_that_the_kernels_take_are_converted():
    model, given = network(), []

    def compress(weight: Tensor) -> Tensor:
        if weight.shape[0] < 32:
            raise RuntimeError("both dimensions must be multiples of (32, 64)\nmore")
        given.append(weight)
        return weight

    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = converted(model, lambda tensor: tensor.double(), compress)
    assert made.sparse == ("0",)
    assert made.dense == {
        "2": "both dimensions must be multiples of (32, 64)",
        "3": "its weight does not have the pattern 2:4",
    }
    assert [w.shape for w in given] == [(32, 64)]
    x = torch.randn(5, 64)
    torch.testing.assert_close(made.model(x.double()), model.eval()(x).double(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TargetError, match=r"need an NVIDIA GPU, and torch sees none\. On a CPU zeros cost"):
        semi_structured(network())


def test_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(TargetError, match=r"compute capability 8\.0 or later \(Ampere\), this one has 7\.5"):
        semi_structured(network())
