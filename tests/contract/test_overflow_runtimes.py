"""Which two products a runtime of this machine adds in 16 bits: found by running it, and all certified against."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.functional.overflow import saturates_here, worst_pair
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.quantization import Quantize

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.skipif(not saturates_here(), reason="no sum of this processor saturates"),
]


class Pairs(nn.Module):
    """Each output channel has two weights, of one more pair of inputs than the last, and all other weights zero."""

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.pairs = list(itertools.combinations(range(channels * kernel * kernel), 2))
        outputs = len(self.pairs) * groups
        self.first = nn.Conv2d(channels * groups, channels * groups, 1, bias=False, groups=channels * groups)
        self.conv = nn.Conv2d(channels * groups, outputs, kernel, padding=kernel // 2, bias=False, groups=groups)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            rows = self.conv.weight.zero_().view(groups, len(self.pairs), -1)
            for row, pair in enumerate(self.pairs):
                rows[:, row, list(pair)] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.relu(self.first(x)))


@pytest.mark.parametrize(("channels", "kernel", "groups"), [(1, 3, 1), (3, 3, 1), (4, 3, 1), (5, 1, 1), (3, 3, 2)])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_pair_that_saturates_is_certified_against(name, channels, kernel, groups, tmp_path):
    target = load_target(name)
    runtime = runtime_of(target)
    if not runtime.availability().found:
        pytest.skip(runtime.availability().detail)
    net = Pairs(channels, kernel, groups).eval()
    x = torch.ones(2, channels * groups, 5, 5)
    task = Task(example_inputs=(x,), calibration=[x])
    made = trace(net, task.example)

    def outputs(overflow_fix):
        one = Quantize(calibration="minmax", corrections=(), overflow_fix=overflow_fix)
        plan = one.plan(made.graph, one.study(net, made, task, target), target)
        model = one.apply(net, plan, made, task)
        artifact = runtime.export(model, Batch((x,)), name, tmp_path, overflow_fix)
        (found,) = run(runtime.load(artifact, tmp_path, 1), artifact, Batch((x,)))
        return model, found[0, :, 2, 2]

    model, plain = outputs("off")
    (steps,) = (held for key, held in model.state_dict().items() if key.endswith("_int8") and held.shape[0] > len(x[0]))
    risky = np.array([worst_pair(row[None], 255).rows > 0 for row in steps])
    wrong = (plain < 1.9).numpy()
    assert wrong.any() or channels == 1
    assert not (wrong & ~risky).any()
    assert risky.sum() < len(risky)
    _, fixed = outputs("on")
    torch.testing.assert_close(fixed, torch.full_like(fixed, 2.0), atol=0.02, rtol=0)
