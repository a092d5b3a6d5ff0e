"""One pass over the data: exact ranges, whatever the batches."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional.histogram import Tally
from lissom.functional.ranges import Range
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import trace
from lissom.task import Batch
from small_models import build, traced


class Exact(nn.Module):
    """Small integers only: float arithmetic is exact, so every batching gives the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.fc = nn.Linear(2 * 9, 3)
        for parameter in self.parameters():
            parameter.data = torch.randint(-3, 4, parameter.shape).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


@pytest.fixture(scope="module")
def exact():
    torch.manual_seed(0)
    model = Exact().eval()
    data = torch.randint(-9, 10, (24, 1, 5, 5)).float()
    made = trace(model, Batch((data[:3],)))
    return model, data, made, (*made.graph.inputs, *made.graph.by_name)


def test_ranges_equal_direct_computation(exact):
    model, data, made, watch = exact
    seen = observe(made, [Batch((data[:7],)), Batch((data[7:],))], watch)
    with torch.no_grad():
        hidden = model.conv(data)
        wanted = {"x": data, "conv2d": hidden, "relu": hidden.relu(), "linear": model(data)}
    for name, values in wanted.items():
        assert seen.ranges[name] == Range(low=float(values.min()), high=float(values.max()), count=values.numel()), name
    assert seen.examples == 24
    assert Statistics.model_validate_json(seen.model_dump_json()) == seen


def test_ranges_do_not_depend_on_batches_or_their_order(exact):
    _, data, made, watch = exact
    whole = observe(made, [Batch((data,))], watch)
    for size in (1, 5, 8):
        pieces = [Batch((piece,)) for piece in data.split(size)]
        random.Random(size).shuffle(pieces)
        assert observe(made, pieces, watch) == whole


def test_histograms_and_means_equal_direct_computation(exact):
    model, data, made, watch = exact
    seen = observe(made, [Batch((data,))], watch, histograms=True)
    with torch.no_grad():
        hidden = model.conv(data)
    for name, values in {"x": data, "conv2d": hidden, "relu": hidden.relu()}.items():
        tally = Tally()
        tally.add_(values)
        assert seen.histograms[name] == tally.histogram()
        lows, highs = values.flatten(1).double().aminmax(dim=1)
        assert seen.means[name].bounds == pytest.approx((float(lows.mean()), float(highs.mean())), rel=1e-12)
    assert Statistics.model_validate_json(seen.model_dump_json()) == seen


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_nothing_depends_on_batches_or_their_order_where_kernels_round(name):
    """With other batch sizes kernels may round otherwise; what is kept may not change by a bit."""
    _, example, made = traced(name)
    data = torch.randn(23, *example.args[0].shape[1:], generator=torch.Generator().manual_seed(1))
    watch = (*made.graph.inputs, *made.graph.by_name)
    whole = observe(made, [Batch((data,))], watch, histograms=True)
    for size in (1, 6):
        pieces = [Batch((piece,)) for piece in data[torch.randperm(23)].split(size)]
        assert observe(made, pieces, watch, histograms=True).model_dump_json() == whole.model_dump_json()


def test_parts_of_the_data_merge_to_the_whole(exact):
    _, data, made, watch = exact
    whole = observe(made, [Batch((data,))], watch, histograms=True)
    parts = [observe(made, [Batch((part,))], watch, histograms=True) for part in (data[:5], data[5:6], data[6:])]
    assert parts[2].merge(parts[0]).merge(parts[1]) == whole
    other = observe(made, [Batch((data[:5],))], ["x"])
    assert parts[1].merge(other).ranges["linear"] == parts[1].ranges["linear"]


def test_inputs_of_different_batch_sizes_are_explained():
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x, y], 0)

    made = trace(Two(), Batch((torch.ones(2, 3), torch.ones(2, 3))))
    with pytest.raises(DataError, match=r"the batch sizes \[2, 4\] differ"):
        observe(made, [Batch((torch.ones(2, 3), torch.ones(4, 3)))], [])


def test_only_what_is_watched_is_kept(exact):
    _, data, made, _ = exact
    assert set(observe(made, [Batch((data,))], ["relu"]).ranges) == {"relu"}


def test_fixed_batches_are_filled_up():
    model, _, made = traced("fixed batch")
    data = torch.randn(7, 4)
    seen = observe(made, [Batch((data,))], ["linear", *made.graph.inputs])
    with torch.no_grad():
        wanted = model.fc(data)
    assert seen.examples == 7
    assert seen.ranges[made.graph.inputs[0]].low == float(data.min())
    assert seen.ranges["linear"].high == pytest.approx(float(wanted.max()), rel=1e-6)


def test_keyword_and_plain_inputs():
    _, example, made = traced("keywords")
    seen = observe(made, [example], made.graph.inputs)
    assert seen.ranges["a"].high == float(example.kwargs["a"].max())
    assert seen.ranges["b"].high == float(example.kwargs["b"].max())

    class Scaled(nn.Module):
        def forward(self, x: Tensor, factor: int, extra: Tensor | None = None) -> Tensor:
            return x * factor

    batch = Batch((torch.ones(2, 3), 4, None))
    seen = observe(trace(Scaled(), batch), [batch], ["mul"])
    assert seen.ranges["mul"] == Range(low=4.0, high=4.0, count=6)


def test_progress_counts_examples(exact):
    _, data, made, _ = exact
    told: list[int] = []
    observe(made, [Batch((piece,)) for piece in data.split(10)], [], progress=told.append)
    assert told == [10, 20, 24]


def test_inputs_and_buffers_are_untouched(exact):
    _, data, made, watch = exact
    before, state = data.clone(), {k: v.clone() for k, v in made.module.state_dict().items()}
    observe(made, [Batch((data,))], watch)
    assert torch.equal(before, data)
    assert all(torch.equal(v, state[k]) for k, v in made.module.state_dict().items())


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (Batch((torch.zeros(2, 1, 6, 5),)), "the input 'x' has another shape"),
        (Batch((torch.zeros(2, 25),)), "the input 'x' has another shape"),
        (Batch((torch.zeros(2, 1, 5, 5).double(),)), "the input 'x' is torch.float64, traced with float32"),
        (Batch((torch.zeros(2, 1, 5, 5), torch.zeros(2))), "2 inputs instead of 1"),
        (Batch(("text",)), "the input 'x' is no tensor"),
    ],
)
def test_batches_that_do_not_fit(exact, batch, reason):
    with pytest.raises(DataError) as wrong:
        observe(exact[2], [batch], [])
    assert str(wrong.value).startswith("A calibration batch does not fit the model: inputs of shape [")
    assert f"traced with [('N', 1, 5, 5)]. ({reason})" in str(wrong.value)


def test_values_that_fit_no_table_are_explained():
    _, _, made = traced("text")
    with pytest.raises(DataError, match=r"does not fit the model: .*out of range"):
        observe(made, [Batch((torch.full((2, 7), 99),))], [])


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.log(x))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_activations_that_are_not_finite(place, bad):
    """Whether NaN (of -1) or infinity (of 0) comes in the first batch or the last."""
    made = trace(Overflowing(), Batch((torch.ones(3, 2),)))
    batches = [Batch((torch.ones(2, 2),)) for _ in range(3)]
    batches[place].args[0][0, 0] = bad
    with pytest.raises(DataError) as wrong:
        observe(made, batches, ["linear"])
    assert str(wrong.value).startswith("Activations become infinite or NaN at 'inner' on the calibration data")


def test_a_mutating_model_is_observed_without_harm():
    model, example = build("in place")
    made = trace(model, example)
    kept = example.args[0].clone()
    observe(made, [example], made.graph.by_name)
    assert torch.equal(example.args[0], kept)
