"""The error that rounding one value causes in its readers, against computing it by hand."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.functional.affine import Affine, fake_quantize
from lissom.graph.trace import trace
from lissom.graph.trials import Probe, Trial, trial_errors
from lissom.task import Batch

WAYS = {
    "fine": Affine(dtype="uint8", scale=0.01, zero_point=0),
    "coarse": Affine(dtype="uint8", scale=0.5, zero_point=0),
    "same as fine": Affine(dtype="uint8", scale=0.01, zero_point=0),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x))
        return self.second(F.max_pool2d(y, 2)) + self.other(y)[..., :2, :2], y


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = Net().eval()
    examples = [(torch.randn(1, 1, 10, 10),) for _ in range(5)]
    made = trace(model, Batch((torch.randn(2, 1, 10, 10),)))
    names = {
        node.layer or node.op: node.name for node in made.graph.nodes if node.op in ("conv2d", "max_pool2d", "relu")
    }
    return model, examples, made, names


def by_hand(model: Net, examples, way: Affine) -> Trial:
    noise, signal, own = torch.zeros(3).double(), torch.zeros(3).double(), []
    for (x,) in examples:
        with torch.no_grad():
            y = torch.relu(model.first(x))
            q = fake_quantize(y, way)
            pairs = [(F.max_pool2d(v, 2), v, v) for v in (y, q)]
            wanted, got = ((model.second(a), model.other(b), c) for a, b, c in pairs)
        own.append(float((y - q).double().square().mean()))
        for i, (one, other) in enumerate(zip(wanted, got, strict=True)):
            noise[i] += (one - other).double().square().sum()
            signal[i] += one.double().square().sum()
    return Trial(float((noise / signal).sum()), sum(own) / len(own))


def test_errors_equal_computing_by_hand_in_any_order(case):
    model, examples, made, names = case
    value = names["relu"]
    probes = [
        Probe(value, value, (names["max_pool2d"],), names["second"]),
        Probe(value, value, (), names["other"]),
        Probe(value, value, (), None),
    ]
    found = trial_errors(made, examples, probes, {value: WAYS})
    assert set(found) == {value}
    for name, way in WAYS.items():
        assert tuple(found[value][name]) == pytest.approx(by_hand(model, examples, way), rel=1e-5)
    assert found[value]["fine"] < found[value]["coarse"]
    shuffled = list(examples)
    random.Random(1).shuffle(shuffled)
    assert trial_errors(made, shuffled, probes, {value: WAYS}) == found


def test_errors_that_are_not_finite_are_left_out():
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(torch.relu(x))

    made = trace(Log(), Batch((torch.ones(2, 3),)))
    probes = [Probe("relu", "relu", (), "log")]
    found = trial_errors(made, [(torch.full((1, 3), 0.1),)], probes, {"relu": WAYS})
    assert set(found["relu"]) == {"fine", "same as fine"}


def test_outputs_that_are_all_zero():
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x - 1)

    made = trace(Zero(), Batch((torch.ones(2, 3),)))
    found = trial_errors(made, [(torch.full((1, 3), 0.25),)], [Probe("x", "x", (), "sub")], {"x": WAYS})
    assert found["x"]["fine"].outputs == pytest.approx(0.0, abs=1e-3)


def test_a_value_with_two_roots_is_rounded_by_the_ways_of_each(case):
    _, examples, made, names = case
    value, other = names["relu"], names["second"]
    ways = {value: {"own": WAYS["coarse"]}, other: {"joined": WAYS["fine"]}}
    own, joined = Probe(value, value, (), names["other"]), Probe(other, value, (names["max_pool2d"],), names["second"])
    both = trial_errors(made, examples, [own, joined], ways)
    assert both[value] == trial_errors(made, examples, [own], {value: ways[value]})[value]
    assert both[other] == trial_errors(made, examples, [joined], {other: ways[other]})[other]
    assert both[other]["joined"].outputs > 0.0
