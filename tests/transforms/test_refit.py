"""Weights and biases fitted layer by layer, on graphs whose activations are rounded by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Interpreter

from lissom.functional.affine import affine, quantize_weight, weight_scales
from lissom.functional.gptq import gptq
from lissom.functional.weightgrid import clipped_grid
from lissom.graph.trace import Trace, trace
from lissom.task import Batch
from lissom.transforms.base import clone
from lissom.transforms.quantization import rewrite
from lissom.transforms.quantization.placement import Reader
from lissom.transforms.quantization.refit import Job, refit_
from small_models import settled


class Net(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x)) + x
        return self.last(x.movedim(1, -1))


def correlated(count: int) -> Tensor:
    """Images whose channels resemble each other, as those of trained networks do."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(count, 1, 6, 6, generator=generator)
    return shared + 0.3 * torch.randn(count, 4, 6, 6, generator=generator)


def rounded(made: Trace, steps: float) -> torch.fx.GraphModule:
    """Activations before the second convolution on a coarse grid."""
    module = clone(made.module)
    rewrite.round_value_(module, "relu", (Reader("conv2d_1", 0),), affine(0.0, 255 * steps, "uint8", symmetric=False))
    module.recompile()
    return module


def jobs(made: Trace, bits, fit, bias=False) -> dict[str, Job]:
    return {
        n.name: Job(n.parameter(1), bits, fit, n.parameter(2) if bias else None)
        for n in made.graph.nodes
        if n.op in ("conv2d", "linear")
    }


def run(made: Trace, module, pieces, todo):
    return refit_(made.module, module, todo, pieces)


def error(made: Trace, module, x: Tensor) -> float:
    with torch.no_grad():
        return float((module(x) - made.module(x)).square().sum())


def test_to_the_nearest_is_plain_rounding():
    x = correlated(4)
    made = trace(settled(Net()), Batch((x,)))
    module = rounded(made, 0.01)
    fitted = run(made, module, [Batch((x,))], jobs(made, 8, "nearest"))
    for name in ("first", "second", "last"):
        weight = made.module.get_parameter(f"{name}.weight").detach()
        scales = weight_scales(weight, 0)
        assert torch.equal(fitted.scales[f"{name}.weight"], scales)
        shape = (-1, *[1] * (weight.ndim - 1))
        wanted = quantize_weight(weight, scales, 0).float() * scales.reshape(shape)
        torch.testing.assert_close(module.get_parameter(f"{name}.weight"), wanted)
    assert fitted.shifts == {}


@pytest.mark.parametrize("bits", [8, 4])
def test_biases_take_up_the_mean_error_of_every_channel(bits):
    x = correlated(16)
    made = trace(settled(Net()), Batch((x,)))
    pieces = [Batch((x[:10],)), Batch((x[10:],))]
    plain, module = rounded(made, 0.1), rounded(made, 0.1)
    run(made, plain, pieces, jobs(made, bits, "nearest"))
    fitted = run(made, module, pieces, jobs(made, bits, "nearest", bias=True))
    assert set(fitted.shifts) == {"first.bias", "second.bias", "last.bias"}
    for name, shift in fitted.shifts.items():
        torch.testing.assert_close(module.get_parameter(name), made.module.get_parameter(name) + shift)
    with torch.no_grad():
        gaps = [(m(x) - made.module(x)).mean((0, 1, 2)).abs().max() for m in (plain, module)]
    assert float(gaps[1]) < 1e-5 < float(gaps[0])


def test_gptq_of_the_first_layer_is_that_of_its_patches():
    x = correlated(8)
    made = trace(settled(Net()), Batch((x,)))
    module = rounded(made, 0.01)
    fitted = run(made, module, [Batch((x[:3],)), Batch((x[3:],))], jobs(made, 4, "gptq"))
    rows = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    moments = (rows.T @ rows).double()
    # Nothing before it is rounded, so the best weights in float are its own.
    weight = made.module.get_parameter("first.weight").detach().flatten(1)
    grid = clipped_grid(weight, 4, importance=moments.diagonal().float())
    wanted = grid.restored(gptq(weight, moments, grid, by_energy=True))
    torch.testing.assert_close(module.get_parameter("first.weight").flatten(1), wanted)
    torch.testing.assert_close(fitted.scales["first.weight"], grid.scale[:, 0])


def test_gptq_makes_up_for_inputs_that_are_rounded():
    """The second layer starts from the least-squares answer to the rounded inputs: see it with a grid of 8 bits."""
    x = correlated(32)
    made = trace(settled(Net()), Batch((x,)))
    plain, module = rounded(made, 1.0), rounded(made, 1.0)
    todo = {name: job for name, job in jobs(made, 8, "gptq").items() if job.weight == "second.weight"}
    run(made, module, [Batch((x,))], todo)
    assert error(made, module, x) < 0.9 * error(made, plain, x)


@pytest.mark.parametrize("fit", ["gptq", "adaround"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_fitted_rounding_loses_less_than_the_nearest_on_other_data(fit, groups):
    x = correlated(48)
    made = trace(settled(Net(groups)), Batch((x[:24],)))
    plain, module = rounded(made, 0.02), rounded(made, 0.02)
    run(made, plain, [Batch((x[:24],))], jobs(made, 4, "nearest"))
    fitted = run(made, module, [Batch((x[:24],))], jobs(made, 4, fit))
    assert error(made, module, x[24:]) < 0.8 * error(made, plain, x[24:])
    for name, scales in fitted.scales.items():
        steps = module.get_parameter(name).detach().flatten(1) / scales[:, None]
        torch.testing.assert_close(steps, steps.round().clamp(-7, 7), rtol=0, atol=1e-4)


def test_a_weight_with_two_readers_is_rounded_once_to_the_nearest():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.relu(self.conv(x)))

    torch.manual_seed(0)
    x = correlated(4)
    made = trace(settled(Twice()), Batch((x,)))
    module = clone(made.module)
    fitted = run(made, module, [Batch((x,))], jobs(made, 4, "nearest"))
    weight = made.module.get_parameter("conv.weight").detach().flatten(1)
    torch.testing.assert_close(module.get_parameter("conv.weight").flatten(1), clipped_grid(weight, 4).rounded(weight))
    assert fitted.shifts == {}


def moments_of(values: Tensor) -> tuple[Tensor, Tensor]:
    rows = values.movedim(1, -1).flatten(0, -2).double()
    return rows.mean(0), rows.std(0, correction=0)


@pytest.mark.parametrize("fit", ["nearest", "gptq"])
def test_channels_get_back_the_mean_and_deviation_that_they_had(fit):
    net, x = Net().eval(), correlated(40)
    made = trace(net, Batch((x[:2],)))
    todo = {name: replace(job, rescale=True) for name, job in jobs(made, 3, fit, bias=True).items()}
    module = rounded(made, 0.1)
    steps = refit_(made.module, module, todo, [Batch((x[:20],)), Batch((x[20:],))])
    name = {"conv2d": "first.weight", "conv2d_1": "second.weight"}
    for node, weight in name.items():
        wanted, got = (Interpreter(m, garbage_collect_values=False) for m in (made.module, module))
        for one in (wanted, got):
            one.run(x, enable_io_processing=False)
        values = [next(v for n, v in one.env.items() if n.name == node) for one in (wanted, got)]
        for before, after in zip(*map(moments_of, values), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
        held = dict(module.named_parameters())[weight].detach().flatten(1)
        scales = steps.scales[weight][:, None]
        torch.testing.assert_close(held / scales, (held / scales).round(), rtol=0, atol=1e-4)


def test_normalizations_that_were_not_folded_get_the_statistics_of_what_they_read():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    x = correlated(40)
    made = trace(net, Batch((x[:2],)))
    module = clone(made.module)
    todo = {"conv2d": Job("0.weight", 2)}
    refit_(made.module, module, todo, [Batch((x,))], {"batch_norm": ("1.running_mean", "1.running_var")})
    with torch.no_grad():
        read = F.conv2d(x, module.get_parameter("0.weight"))
    mean, deviation = moments_of(read)
    torch.testing.assert_close(module.get_buffer("1.running_mean").double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.get_buffer("1.running_var").double().sqrt(), deviation, rtol=1e-4, atol=1e-5)
    assert torch.equal(made.module.get_buffer("1.running_mean"), torch.zeros(8))
