from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lissom.errors import DataError, VerificationError
from lissom.measure.quality import assess, evaluate, parity, scores
from lissom.metrics import Metric, accuracy, as_metric, negative_mse
from lissom.task import Batch

Heads = collections.namedtuple("Heads", ["logits", "features"])


def batches_of(inputs: Tensor, targets: Tensor, size: int) -> list[Batch]:
    return [Batch((inputs[i : i + size],), {}, targets[i : i + size]) for i in range(0, len(inputs), size)]


def identity(batch: Batch) -> Tensor:
    return batch.args[0]


def data(count: int = 23, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, classes, generator=generator), torch.randint(classes, (count,), generator=generator)


def failing(metric: Metric, predict=identity, batches=None) -> str:
    with pytest.raises(DataError) as error:
        evaluate(predict, batches_of(*data(), 8) if batches is None else batches, metric, split="test")
    return str(error.value)


def test_accuracy_over_a_split():
    inputs, targets = data()
    value = evaluate(identity, batches_of(inputs, targets, 8), accuracy, split="test")
    assert value.value == pytest.approx((inputs.argmax(1) == targets).double().mean().item())
    assert (value.name, value.samples, value.split) == ("accuracy", 23, "test")


@given(st.integers(min_value=1, max_value=23))
def test_batch_size_does_not_change_the_value(size):
    inputs, targets = data()
    wanted = torch.zeros_like(inputs)
    for metric, target in ((accuracy, targets), (negative_mse, wanted)):
        whole = evaluate(identity, batches_of(inputs, target, 23), metric, split="validation")
        assert evaluate(identity, batches_of(inputs, target, size), metric, split="validation") == whole


def f1_of(outputs: Tensor, targets: Tensor) -> float:
    """Macro F1, 2 tp / (2 tp + fp + fn) a class."""
    guess = outputs.argmax(1)
    table = torch.zeros(outputs.shape[1], outputs.shape[1]).index_put_(
        (targets, guess), torch.ones(len(targets)), accumulate=True
    )
    return float((2 * table.diagonal() / (table.sum(0) + table.sum(1)).clamp(min=1)).mean())


def test_several_metrics_in_one_pass():
    inputs, targets = data()
    seen: list[int] = []

    def predict(batch: Batch) -> Tensor:
        seen.append(batch.size)
        return batch.args[0]

    metrics = (accuracy, Metric("f1", whole=f1_of), Metric("again", whole=f1_of))
    found = assess(predict, batches_of(inputs, targets, 8), metrics, split="test")
    assert seen == [8, 8, 7], "each batch is predicted once"
    assert found.metric == evaluate(identity, batches_of(inputs, targets, 8), accuracy, split="test")
    assert [one.name for one in found.further] == ["f1", "again"]
    peer = pytest.importorskip("sklearn.metrics").f1_score(targets, inputs.argmax(1), average="macro")
    assert found.by_name == pytest.approx({"f1": peer, "again": peer})
    assert {one.samples for one in found.further} == {23}
    swapped = assess(identity, batches_of(inputs, targets, 5), (metrics[1], accuracy), split="test")
    assert swapped.metric.value == pytest.approx(found.by_name["f1"])
    assert swapped.by_name == {"accuracy": found.metric.value}


@given(st.integers(min_value=1, max_value=23))
def test_classes_are_told_apart_by_the_first_metric_that_does(size):
    inputs, targets = data()
    metrics = (Metric("f1", whole=f1_of), accuracy)
    found = assess(identity, batches_of(inputs, targets, size), metrics, split="test").classes
    peer = pytest.importorskip("sklearn.metrics")
    table = peer.confusion_matrix(targets, inputs.argmax(1), labels=range(4))
    assert (found.metric, found.labels) == ("accuracy", (0, 1, 2, 3))
    assert found.examples == tuple(table.sum(1))
    assert found.shares == pytest.approx(table.diagonal() / table.sum(1))
    label = int((table.diagonal() / table.sum(1)).argmin())
    assert found.worst == (label, pytest.approx(min(found.shares)), table.sum(1)[label])
    assert assess(identity, batches_of(inputs, targets, size), metrics[:1], split="test").classes is None


def test_a_class_that_occurs_nowhere_has_no_share():
    found = assess(identity, [Batch((torch.eye(5)[:3],), {}, torch.tensor([0, 4, 2]))], (accuracy,), split="test")
    assert (found.classes.labels, found.classes.shares, found.classes.examples) == (
        (0, 2, 4),
        (1.0, 1.0, 0.0),
        (1, 1, 1),
    )


@pytest.mark.parametrize(
    "by_class",
    [
        lambda outputs, targets: targets,
        lambda outputs, targets: (targets, torch.ones(3)),
        lambda outputs, targets: (targets.float(), torch.ones(len(targets))),
        lambda outputs, targets: (targets, torch.full((len(targets),), 1.5)),
        lambda outputs, targets: (targets, torch.full((len(targets),), float("nan"))),
    ],
)
def test_classes_that_are_none_are_refused(by_class):
    metric = Metric("mine", whole=f1_of, by_class=by_class)
    with pytest.raises(DataError, match="The metric 'mine' must return classes and scores from by_class"):
        assess(identity, batches_of(*data(), 8), (metric,), split="test")


def test_what_is_wrong_with_a_further_metric_names_it():
    nan = Metric("broken", whole=lambda *_: float("nan"))
    with pytest.raises(DataError, match="The metric 'broken' returned nan"):
        assess(identity, batches_of(*data(), 8), (accuracy, nan), split="test")
    with pytest.raises(DataError, match="'accuracy' has no batches"):
        assess(identity, [], (accuracy, nan), split="test")


def test_scores_keep_the_order_of_the_examples():
    inputs, targets = data()
    found = scores(identity, batches_of(inputs, targets, 5), accuracy)
    assert found is not None
    assert found.dtype == torch.float64
    assert torch.equal(found, (inputs.argmax(1) == targets).double())


def test_a_whole_metric_has_no_scores_and_reads_no_batches():
    def never():
        raise AssertionError
        yield

    assert scores(identity, never(), as_metric(lambda outputs, targets: 1.0)) is None


def test_a_whole_metric_sees_the_split_at_once():
    inputs, targets = data()
    seen = {}

    def kept(outputs, wanted):
        seen.update(outputs=outputs, targets=wanted)
        return 0.25

    value = evaluate(identity, batches_of(inputs, targets, 8), as_metric(kept), split="validation")
    assert torch.equal(seen["outputs"], inputs)
    assert torch.equal(seen["targets"], targets)
    assert (value.name, value.value, value.samples, value.split) == ("kept", 0.25, 23, "validation")


def test_structures_are_kept_and_joined_leaf_by_leaf():
    inputs, targets = data()

    def predict(batch: Batch):
        x = batch.args[0]
        loss = x.sum()
        return {"heads": Heads(x, (x + 1, x.numpy() + 2)), "levels": [x, -x], "cache": None, "loss": loss}

    seen = {}

    def kept(outputs, wanted):
        seen.update(outputs)
        return 1.0

    evaluate(predict, batches_of(inputs, targets, 8), as_metric(kept), split="test")
    assert isinstance(seen["heads"], Heads)
    assert torch.equal(seen["heads"].logits, inputs)
    assert torch.equal(seen["heads"].features[0], inputs + 1)
    assert torch.equal(seen["heads"].features[1], inputs + 2)
    assert torch.equal(seen["levels"][1], -inputs)
    assert seen["cache"] is None
    assert seen["loss"].shape == (3,)


def joined(targets: list, sizes: list[int]):
    """What a whole metric receives as targets of batches of these sizes."""
    batches = [Batch((torch.zeros(n, 2),), {}, t) for n, t in zip(sizes, targets, strict=True)]
    seen = []

    def kept(outputs, wanted):
        seen.append(wanted)
        return 1.0

    evaluate(identity, batches, as_metric(kept), split="test")
    return seen[0]


def test_lists_with_one_entry_per_example_are_chained():
    assert joined([["a", "b"], ["c"]], [2, 1]) == ["a", "b", "c"]
    boxes = [torch.zeros(n, 4) for n in (3, 1, 0)]
    chained = joined([boxes[:2], boxes[2:]], [2, 1])
    assert [tuple(box.shape) for box in chained] == [(3, 4), (1, 4), (0, 4)]
    images = [{"boxes": box} for box in boxes]
    assert len(joined([images[:2], images[2:]], [2, 1])) == 3


def test_a_list_that_fits_both_readings_follows_the_other_batches():
    # One image with one box looks like one output with one example; the next batch decides.
    boxes = [torch.full((n, 4), float(n)) for n in (1, 2, 1)]
    chained = joined([[box] for box in boxes], [1, 1, 1])
    assert [tuple(box.shape) for box in chained] == [(1, 4), (2, 4), (1, 4)]


def test_a_runtime_may_reuse_its_output_buffer():
    inputs, targets = data(24)
    buffer = torch.zeros(8, 4)

    def predict(batch: Batch) -> Tensor:
        return buffer.copy_(batch.args[0])

    seen = []

    def kept(outputs, wanted):
        seen.append(outputs)
        return 1.0

    evaluate(predict, batches_of(inputs, targets, 8), as_metric(kept), split="test")
    assert torch.equal(seen[0], inputs)
    first = Metric("first", per_example=lambda outputs, wanted: outputs[:, 0])
    doubled = buffer.double()

    def predict_double(batch: Batch) -> Tensor:
        return doubled.copy_(batch.args[0])

    found = scores(predict_double, batches_of(inputs, targets, 8), first)
    assert found is not None
    assert torch.equal(found, inputs[:, 0].double())


def test_nothing_is_kept_for_gradients():
    inputs, targets = data()
    weight = torch.ones(4, requires_grad=True)
    seen = []

    def kept(outputs, wanted):
        seen.append((outputs * weight).requires_grad or outputs.requires_grad)
        return outputs.sum()

    evaluate(lambda b: b.args[0] * weight, batches_of(inputs, targets, 8), as_metric(kept), split="test")
    assert seen == [False]


def test_progress_counts_examples():
    for metric in (accuracy, as_metric(lambda outputs, targets: 1.0)):
        seen: list[int] = []
        evaluate(identity, batches_of(*data(), 10), metric, split="test", progress=seen.append)
        assert seen == [10, 20, 23]


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), torch.tensor([[0.5]]), np.array([0.5])])
def test_numbers_of_every_kind_are_accepted(value):
    metric = as_metric(lambda outputs, targets: value)
    found = evaluate(identity, batches_of(*data(), 8), metric, split="test")
    assert found.value == float(value if isinstance(value, (int, float)) else value.item())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ("0.9", "'0.9'"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (torch.tensor(math.nan), "tensor(nan)"),
        (torch.zeros(23), "a tensor of shape (23,)"),
        ({"f1": 0.5}, "{'f1': 0.5}"),
    ],
)
def test_what_is_no_finite_number_is_refused(value, shown):
    metric = Metric("mine", whole=lambda outputs, targets: value)
    assert failing(metric) == (
        f"The metric 'mine' returned {shown}, not a finite number. Return one float for all examples, "
        "higher is better; for one score per example use Metric(name, per_example=...)."
    )


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (torch.zeros(()), "shape ()"),
        (torch.zeros(8, 4), "shape (8, 4)"),
        (torch.zeros(7), "shape (7,)"),
        (0.5, "0.5"),
    ],
)
def test_per_example_means_one_score_each(result, shown):
    metric = Metric("mine", per_example=lambda outputs, targets: result)
    assert failing(metric) == (
        "The metric 'mine' must return one score per example, a tensor of shape (8,), got "
        f"{shown}. For one number over the split use Metric(name, whole=...)."
    )


def test_a_score_of_nan_is_refused():
    def broken(batch: Batch) -> Tensor:
        outputs = batch.args[0].clone()
        outputs[3] = math.nan
        return outputs

    batches = batches_of(data()[0], torch.zeros(23, 4), 8)
    assert failing(negative_mse, broken, batches) == (
        "The metric 'negative_mse' is nan for example 3 of a batch. Check the model's outputs and the "
        "targets for NaN and infinity."
    )


@pytest.mark.parametrize("metric", [accuracy, Metric("mine", whole=lambda outputs, targets: 1.0)])
def test_no_batches(metric):
    assert failing(metric, batches=[]) == (
        f"The metric '{metric.name}' has no batches to be computed over. Check the task's data."
    )


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (
            [torch.zeros(2, 5), torch.zeros(2, 7)],
            "their shapes differ, such as (2, 5) and (2, 7)",
        ),
        ([{"a": torch.zeros(2)}, {"b": torch.zeros(2)}], "their structure differs from batch to batch"),
        ([{1, 2}, {3}], "they hold set"),
        ([None, torch.zeros(2)], "they hold NoneType, Tensor"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused(outputs, reason):
    batches = [Batch((torch.zeros(2, 2),), {}, torch.zeros(2)) for _ in outputs]
    remaining = iter(outputs)
    metric = Metric("mine", whole=lambda outputs, targets: 1.0)
    assert failing(metric, lambda batch: next(remaining), batches) == (
        f"The outputs of all batches cannot be joined for the metric 'mine': {reason}. Pad them to one "
        "shape, or use Metric(name, per_example=...), which sees one batch at a time."
    )


# --- parity ---


def grid(shape: tuple[int, ...] = (16, 16)) -> np.ndarray:
    """0, 1, ..., 255: one quantization step is exactly 1."""
    return np.arange(256, dtype=np.float32).reshape(shape)


def test_identical_outputs_are_zero_steps_apart():
    found = parity([grid()], [grid()])
    assert (found.max_steps, found.mean_steps, found.agreement) == (0.0, 0.0, 1.0)


def test_one_step_is_one_step():
    measured = grid()
    measured[0, 0] += 1.0
    measured[3, 3] -= 0.5
    found = parity([grid()], [measured])
    assert found.max_steps == 1.0
    assert found.mean_steps == pytest.approx(1.5 / 256)


@given(st.floats(min_value=2.0**-20, max_value=2.0**20))
def test_steps_do_not_depend_on_the_scale(scale):
    measured = grid() + np.float32(0.25)
    plain = parity([grid()], [measured])
    wide = [np.float64(scale) * array.astype(np.float64) for array in (grid(), measured)]
    scaled = parity([wide[0]], [wide[1]])
    assert scaled.max_steps == pytest.approx(plain.max_steps, rel=1e-9)
    assert scaled.mean_steps == pytest.approx(plain.mean_steps, rel=1e-9)


def test_each_output_has_its_own_step():
    # The same absolute difference of 1: one step of the first output, a hundredth of one of the second.
    found = parity([grid(), 100 * grid()], [grid() + 1, 100 * grid() + 1])
    assert found.max_steps == pytest.approx(1.0)
    assert found.mean_steps == pytest.approx((1.0 + 0.01) / 2)


def test_agreement_counts_examples_of_two_dimensional_float_outputs():
    simulated = np.eye(4, dtype=np.float32)
    measured = simulated.copy()
    measured[0] = [0.0, 2.0, 0.0, 0.0]
    assert parity([simulated], [measured]).agreement == 0.75
    assert parity([grid((256,))], [grid((256,))]).agreement is None
    assert parity([grid((256, 1))], [grid((256, 1))]).agreement is None
    integers = np.arange(6).reshape(2, 3)
    assert parity([integers], [integers]).agreement is None


def test_a_constant_output_agrees_or_is_infinitely_far():
    constant = np.full((2, 3), 7.0, dtype=np.float32)
    assert parity([constant], [constant]).max_steps == 0.0
    assert parity([constant], [np.nextafter(constant, np.float32(8))]).max_steps == 0.0
    assert parity([constant], [constant + np.float32(1e-3)]).max_steps == math.inf
    zeros = np.zeros((2, 3), dtype=np.float32)
    assert parity([zeros], [zeros]).max_steps == 0.0
    assert parity([zeros], [zeros + np.float32(1e-3)]).max_steps == math.inf


def test_rounding_noise_around_a_constant_is_not_measured_in_steps():
    constant = np.full((4, 4), 100.0, dtype=np.float32)
    noisy = constant.copy()
    noisy[0, 0] = np.nextafter(noisy[0, 0], np.float32(200))
    assert parity([noisy], [constant]).max_steps == 0.0


def test_what_is_not_finite_must_be_so_on_both_sides():
    masked = grid()
    masked[0, 0], masked[0, 1] = -np.inf, np.nan
    assert parity([masked], [masked.copy()]).max_steps == 0.0
    for place in ((0, 0), (0, 1), (5, 5)):
        other = masked.copy()
        other[place] = 3.0 if place != (5, 5) else np.nan
        assert parity([masked], [other]).max_steps == math.inf


def test_other_outputs_are_refused():
    with pytest.raises(VerificationError) as error:
        parity([np.zeros((2, 3))], [np.zeros((2, 4))])
    assert str(error.value) == (
        "The runtime returns outputs of shapes [(2, 4)], torch of shapes [(2, 3)]: the artifact is not "
        "the model that was simulated. Export it again."
    )
    with pytest.raises(VerificationError):
        parity([np.zeros(2)], [np.zeros(2), np.zeros(2)])
    with pytest.raises(VerificationError, match="nothing to compare"):
        parity([], [])
