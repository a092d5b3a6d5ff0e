"""Calibration of `Quantize`: every method, the choice among them, and what they must not depend on."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional.affine import affine, fake_quantize
from lissom.functional.calibration import METHODS, Grid, calibrated
from lissom.functional.histogram import Tally
from lissom.functional.ranges import Range, mean_of, range_of
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace, trace
from lissom.graph.trials import Trial
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.quantization import Quantize, placement
from lissom.transforms.quantization.calibrating import best, estimates, grid_of, probes
from lissom.transforms.quantization.quantize import RoundActivation
from small_models import settled

TARGETS = ("onnxruntime", "openvino", "executorch")
"""Free uint8; symmetric int8 where signed; free int8."""


class Spiky(nn.Module):
    """Activations of both signs and of one, moved, added and pooled; some channels are far larger than others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.first(x))
        y = F.max_pool2d(torch.relu(self.second(y) + y), 2)
        return self.fc(self.third(y).mean((2, 3)))


def data(count: int = 40) -> Tensor:
    """Student's t with three degrees of freedom: rare values are far outside."""
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, (count, 3, 24, 24))).float()


@functools.cache
def spiky() -> tuple[nn.Module, Trace]:
    torch.manual_seed(0)
    model = settled(Spiky())
    return model, trace(model, Batch((data()[:2],)))


def studied(quantize: Quantize, target: str, batches: list[Tensor]) -> tuple[Statistics, Plan]:
    model, made = spiky()
    task, table = Task(example_inputs=(data()[:1],), calibration=batches), load_target(target)
    quantize = quantize.model_copy(update={"corrections": ()})
    study = quantize.study(model, made, task, table)
    assert study is not None
    return study, quantize.plan(made.graph, study, table)


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_are_those_of_the_method_on_the_values_themselves(target):
    model, _ = spiky()
    table, x = load_target(target).integers, data()
    with torch.no_grad():
        values = {"x": x, "silu": F.silu(model.first(x))}
    for method in METHODS:
        _, plan = studied(Quantize(calibration=method, percentile=99.5), target, list(data().split(16)))
        actions = {a.value: a for a in plan.of(RoundActivation) if a.value in values}
        assert set(actions) == set(values)
        for name, action in actions.items():
            tally = Tally()
            tally.add_(values[name])
            means = functools.reduce(lambda a, b: a.merge(b), (mean_of(s) for e in values[name] if (s := range_of(e))))
            grid = Grid(dtype=table.signed, symmetric=table.symmetric)
            low, high = calibrated(method, tally.histogram(), means, grid, 99.5)
            assert action.method == method
            # The network ran one example at a time here, all at once above: sums may round differently.
            wide = max(-low, high) * 127 / (127 if table.signed == "int8" else 128) if table.symmetric else high
            assert action.numbers.high == pytest.approx(wide, rel=0.02, abs=action.numbers.scale)
            assert action.numbers.dtype == grid.dtype


@pytest.mark.parametrize("target", TARGETS)
def test_auto_is_never_worse_than_minmax_where_its_readers_look(target):
    _, made = spiky()
    study, plan = studied(Quantize(), target, list(data().split(16)))
    _, plain = studied(Quantize(calibration="minmax"), target, [data()])
    rounded, before = plan.of(RoundActivation), {a.value: a for a in plain.of(RoundActivation)}
    assert [a.value for a in rounded] == [a.value for a in plain.of(RoundActivation)]
    found = placement.points(made.graph, *_chosen(target))
    roots = {point.value: point.root for point in found}
    for action in rounded:
        errors = study.trials[roots[action.value]]
        assert errors[action.method] <= errors["minmax"]
        assert errors[action.method] == min(errors.values()) or min(errors.values()) >= 0.8 * errors["minmax"]
        if action.method == "minmax":
            assert action.numbers == before[action.value].numbers
    assert any(action.method != "minmax" for action in rounded)
    assert type(study).model_validate_json(study.model_dump_json()) == study


def _chosen(target: str):
    table = load_target(target)
    chosen, _ = placement.partition(spiky()[1].graph, table.integers.ops, table, ())
    return chosen, table


@pytest.mark.parametrize("target", TARGETS)
def test_the_chosen_ranges_make_no_more_error_in_the_first_layers_over_all_data(target):
    """By hand, over every example: `Quantize` compared the methods on fewer."""
    model, _ = spiky()
    x = data()
    with torch.no_grad():
        silu = F.silu(model.first(x))
        for value, given, layer in (("x", x, model.first), ("silu", silu, model.second)):
            errors: list[float] = []
            for method in ("auto", "minmax"):
                _, plan = studied(Quantize(calibration=method), target, [x])
                numbers = next(a.numbers for a in plan.of(RoundActivation) if a.value == value)
                errors.append(float((layer(fake_quantize(given, numbers)) - layer(given)).square().sum()))
            assert errors[0] <= errors[1]


class OneSided(nn.Module):
    """Four values that are hardly negative: read by a linear layer, by two, by one and a convolution, by that alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.conv = nn.Conv1d(1, 1, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        read = F.gelu(self.a(F.gelu(x)))
        kept = F.gelu(2 * x)
        return self.b(read), self.c(read), self.b(kept), self.conv(kept[:, None]), self.conv(F.gelu(3 * x)[:, None])


@pytest.mark.parametrize("calibration", ["auto", "minmax", "mse", "entropy"])
def test_what_only_linear_layers_read_gets_a_free_zero_point_where_it_is_mostly_on_one_side(calibration):
    torch.manual_seed(0)
    x = 3 * torch.randn(64, 8)
    model, target = OneSided().eval(), load_target("openvino")
    task = Task(example_inputs=(x[:1],), calibration=[x])
    traced, quantize = trace(model, task.example), Quantize(calibration=calibration, corrections=())
    plan = quantize.plan(traced.graph, quantize.study(model, traced, task, target), target)
    found = {action.value: action.numbers for action in plan.of(RoundActivation)}
    free, fixed = [found[name] for name in ("gelu", "gelu_1")], [found[name] for name in ("gelu_2", "gelu_3")]
    assert all(one.dtype == "uint8" and 0 < one.zero_point < 64 for one in free)
    assert all(one.dtype == "int8" and one.zero_point == 0 for one in fixed)
    # As small as the least GELU, -0.17, and the range above allow.
    assert free[0].scale == pytest.approx((free[0].high + 0.17) / 255, rel=0.01)


@pytest.mark.parametrize(("low", "high", "free"), [(-1, 2.9, False), (-1, 3, True), (-3, 1, True), (-2, 0, True)])
def test_three_quarters_of_a_range_on_one_side_are_enough_for_a_free_zero_point(low, high, free):
    table, seen = load_target("openvino").integers, Range(low=low, high=high, count=9)
    plain = Grid(dtype="int8", symmetric=True)
    assert grid_of(seen, table, shifts=True) == (Grid(dtype="uint8", symmetric=False) if free else plain)
    assert grid_of(seen, table) == plain


@pytest.mark.parametrize("calibration", ["auto", "average"])
def test_shuffling_and_batching_change_no_scale_by_a_bit(calibration):
    quantize = Quantize(calibration=calibration)
    whole = studied(quantize, "onnxruntime", [data()])
    for size in (1, 7):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(size))
        again = studied(quantize, "onnxruntime", list(data()[order].split(size)))
        assert [one.model_dump_json() for one in again] == [one.model_dump_json() for one in whole]


def test_values_moved_from_one_root_share_their_grid_and_are_tried_once():
    _, made = spiky()
    study, plan = studied(Quantize(), "onnxruntime", [data()])
    found = placement.points(made.graph, *_chosen("onnxruntime"))
    groups: dict[str, set] = {}
    numbers = {a.value: (a.numbers, a.method) for a in plan.of(RoundActivation)}
    for point in found:
        groups.setdefault(point.root, set()).add(numbers[point.value])
    assert len(groups) < len(numbers)
    assert all(len(group) == 1 for group in groups.values())
    assert set(study.trials) == set(groups)
    asked = probes(made.graph, found)
    assert len({(p.root, p.reader) for p in asked}) == len(asked)
    assert all(p.reader is None or made.graph.by_name[p.reader].op not in placement.MOVES for p in asked)


def test_estimates_count_what_the_few_examples_did_not_show():
    tally = Tally()
    tally.add_(torch.cat([torch.linspace(-1, 1, 100001), torch.tensor([50.0])]))
    seen = Statistics(ranges={}, examples=9, histograms={"x": tally.histogram()})
    clipping, coarse = (affine(-t, t, "int8", symmetric=True) for t in (1.0, 50.0))
    # On examples without the outlier, clipping looks 2500 times better.
    tried = {"x": {"mse": Trial(0.4e-3, clipping.scale**2 / 12), "minmax": Trial(1.0, coarse.scale**2 / 12)}}
    found = estimates(seen, tried, {"x": {"mse": clipping, "minmax": coarse}})["x"]
    clipped = (49**2 / 100002 + clipping.scale**2 / 12) / (clipping.scale**2 / 12)
    assert found["mse"] == pytest.approx(0.4e-3 * clipped, rel=0.02)
    assert found["minmax"] == pytest.approx(1.0, rel=0.1)


def test_ties_and_doubts_go_to_minmax_and_nothing_finite_too():
    errors = {"minmax": 0.5, "average": 0.5, "mse": 0.7}
    assert best({"x": errors}, "x") == "minmax"
    assert best({"x": {**errors, "entropy": 0.3, "mse": 0.39}}, "x") == "entropy"
    assert best({"x": {**errors, "mse": 0.41}}, "x") == "minmax"
    assert best({"x": {"minmax": 0.0, "mse": 0.0}}, "x") == "minmax"
    assert best({"x": {"mse": 0.4}}, "x") == "mse"
    assert best({"x": {}}, "x") == "minmax"


def test_statistics_that_hold_too_little_are_explained():
    _, made = spiky()
    table = load_target("torch")
    seen = observe(made, [Batch((data(),))], Quantize().watch(made.graph, table))
    with pytest.raises(DataError, match=r"Quantize\(calibration='mse'\) needs a histogram of 'x', .* Quantize.study"):
        Quantize(calibration="mse").plan(made.graph, seen, table)
    with pytest.raises(DataError, match=r"Quantize\(calibration='auto'\) needs trials of 'x', .* Quantize.study"):
        Quantize().plan(made.graph, seen, table)


def test_wrong_methods_and_percentiles_are_refused():
    for wrong in ({"calibration": "max"}, {"percentile": 0.0}, {"percentile": 101}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Quantize(**wrong)


@pytest.mark.parametrize("calibration", ["auto", *METHODS])
@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 2.0**-149])
def test_constant_data_give_positive_finite_scales(calibration, value):
    _, plan = studied(Quantize(calibration=calibration), "onnxruntime", [torch.full((3, 3, 24, 24), value)])
    assert all(0 < action.numbers.scale < math.inf for action in plan.of(RoundActivation))
