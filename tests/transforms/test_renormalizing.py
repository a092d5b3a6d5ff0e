"""Normalizations put back behind convolutions: the same function before, batch statistics meanwhile, folded after."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import RoundActivation, RoundBias, StoreWeight
from lissom.transforms.quantization.learning import Rehearsal, rehearsal, settled, written
from lissom.transforms.quantization.renormalizing import Renormalization, moments, renormalizable


class Net(nn.Module):
    """Normalized, normalized by channel with one channel dead, plain, and an output of its own: `(b, 3, 6, 6)`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.c = nn.Conv2d(8, 4, 1, bias=False)
        self.d = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


def inputs(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@pytest.fixture(scope="module")
def start() -> tuple[Trace, Plan]:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.b.weight[3] = 0.0
    x = inputs(64)
    task = Task(example_inputs=(x[:1],), calibration=[x])
    made = trace(model, task.example)
    quantize, target = Quantize(weight_bits=4, corrections=(), calibration="minmax"), load_target("onnxruntime")
    return made, quantize.plan(made.graph, quantize.study(model, made, task, target), target)


def begun(start: tuple[Trace, Plan], live: int = 100) -> Rehearsal:
    made, plan = start
    seen = moments(made, renormalizable(made.graph, plan), [Batch((inputs(64),))])
    return rehearsal(made, plan, seen, live).eval()


def norms(student: Rehearsal) -> list[Renormalization]:
    return [module for module in student.modules() if isinstance(module, Renormalization)]


def test_moments_are_those_of_the_outputs(start):
    made, plan = start
    names = renormalizable(made.graph, plan)
    parts = [Batch((inputs(64)[:20],)), Batch((inputs(64)[20:],))]
    found = moments(made, names, parts)
    wanted = F.conv2d(
        inputs(64),
        dict(made.module.named_parameters())["a.weight"],
        dict(made.module.named_parameters())["a.bias"],
        padding=1,
    )
    torch.testing.assert_close(found["conv2d"].mean, wanted.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["conv2d"].variance, wanted.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


def test_convolutions_with_a_bias_that_are_no_output_get_one(start):
    made, plan = start
    assert renormalizable(made.graph, plan) == {"conv2d": "a.weight", "conv2d_1": "b.weight"}
    assert len(norms(begun(start))) == 2


def test_in_evaluation_it_computes_what_the_bias_alone_did(start):
    made, plan = start
    x = inputs(16, 3)
    # Without activations to round nothing can fall on the other side of a boundary.
    plan = plan.model_copy(update={"actions": tuple(plan.of(StoreWeight))})
    with torch.no_grad():
        plain = rehearsal(made, plan, {}, 0).eval()(x)
        normalized = begun((made, plan))(x)
    torch.testing.assert_close(normalized, plain, rtol=1e-4, atol=1e-5)


def test_training_takes_the_statistics_of_the_batch_until_they_stand_still(start):
    student = begun(start, live=2).train()
    norm = norms(student)[0]
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda _, given, out: seen.append(out.detach()))
    kept: list[Tensor] = []
    for step in range(4):
        student(inputs(16, step) * (1 + step)).sum().backward()
        kept.append(norm.mean.clone())
    # Gain and shift are what the batch is brought to, while it is looked at.
    for out in seen[:2]:
        torch.testing.assert_close(out.mean((0, 2, 3)), norm.shift.detach(), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(seen[3].mean((0, 2, 3)), norm.shift.detach(), rtol=1e-3, atol=1e-4)
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(kept[1], kept[2])
    assert torch.equal(kept[1], kept[3])
    assert int(norm.steps) == 2
    assert bool((norm.gain.grad != 0).any())
    student.eval()(inputs(4))
    assert torch.equal(norm.mean, kept[3])


def test_folded_after_training_it_is_the_same_function_on_the_grid(start):
    made, plan = start
    plan = plan.model_copy(update={"actions": tuple(a for a in plan.actions if not isinstance(a, RoundBias))})
    student = begun((made, plan)).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02)
    for step in range(6):
        optimizer.zero_grad()
        student(inputs(16, step)).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        norms(student)[0].gain[1] *= -1.0  # a sign that training may cross
        norms(student)[0].gain[2] = 0.0
        student.eval()
        final = settled(plan, made.graph, student)
        after = written(made, final, student)
        x = inputs(32, 9)
        gap = (after(x) - student(x)).abs()
    assert float(gap.median()) < 1e-5 * float(student(x).detach().abs().max())
    assert all(a.learned is not None for a in final.of(RoundActivation))
    stored = after.get_buffer("a.weight_int8")
    assert set(stored.unique().tolist()) <= set(range(-7, 8))
    assert len(stored.unique()) > 10
    assert bool((after.get_buffer("a.weight_scale") > 0).all())


def test_rounding_commutes_with_the_factor_of_a_channel():
    """What folding after the training rests on."""
    generator = torch.Generator().manual_seed(1)
    weight, scale = torch.randn(6, 40, generator=generator), torch.rand(6, 1, generator=generator) + 0.05
    factor = torch.tensor([0.5, -2.0, 0.25, 4.0, -0.125, 1.0])[:, None]  # powers of two: no rounding of floats

    def rounded(w: Tensor, s: Tensor) -> Tensor:
        return torch.round(w / s).clamp(-7, 7) * s

    assert torch.equal(rounded(weight, scale) * factor, rounded(weight * factor, scale * factor.abs()))


def test_a_net_with_normalizations_starts_where_folding_left_it():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    for _ in range(200):
        model(inputs(32, 4))
    model.eval()
    task = Task(example_inputs=(inputs(1),), calibration=[inputs(64)])
    made = trace(model, task.example)
    target = load_target("openvino")
    folded = Fold().apply(model, Fold().plan(made.graph, None, target), made, task)
    made = trace(copy.deepcopy(folded), task.example)
    quantize = Quantize(corrections=(), calibration="minmax")
    plan = quantize.plan(made.graph, quantize.study(folded, made, task, target), target)
    found = moments(made, renormalizable(made.graph, plan), [Batch((inputs(32, 4),))])
    # What the normalization itself had learned of its input, and gave it.
    torch.testing.assert_close(found["conv2d"].mean, model[1].bias.detach(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["conv2d"].variance.sqrt(), model[1].weight.detach(), atol=1e-2, rtol=1e-2)
