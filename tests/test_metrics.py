from __future__ import annotations

from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import DataError, UsageError
from lissom.metrics import (
    Metric,
    accuracy,
    as_metric,
    class_hits,
    logits_of,
    metrics_of,
    negative_mae,
    negative_mse,
    top5,
)
from lissom.task import Task

LOGITS = torch.tensor([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
Named = namedtuple("Named", ["logits", "hidden"])


class Sequence(dict):
    """Like the ordered outputs of transformers: a mapping that also has attributes."""

    @property
    def logits(self):
        return self["logits"]


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        LOGITS.numpy(),
        (LOGITS, None),
        [LOGITS],
        {"loss": torch.tensor(1.0), "logits": LOGITS},
        SimpleNamespace(logits=LOGITS),
        Sequence(logits=LOGITS),
        Named(logits=LOGITS, hidden=torch.zeros(1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_accuracy_finds_the_logits(outputs):
    scores = accuracy.per_example(outputs, torch.tensor([1, 1, 2]))
    assert scores.tolist() == [1.0, 0.0, 1.0]
    assert scores.dtype == torch.float64


@pytest.mark.parametrize("targets", [[1, 1, 2], np.array([1, 1, 2]), torch.tensor([1, 1, 2], dtype=torch.uint8)])
def test_targets_may_be_any_integers(targets):
    assert accuracy.per_example(LOGITS, targets).tolist() == [1.0, 0.0, 1.0]


def test_accuracy_of_tokens_is_averaged_inside_an_example():
    logits = torch.zeros(2, 4, 3)
    logits[..., 1] = 1.0
    targets = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 2]])
    assert accuracy.per_example(logits, targets).tolist() == [1.0, 0.25]


def test_equal_logits_take_the_first_class():
    logits = torch.zeros(2, 1000)
    assert accuracy.per_example(logits, torch.tensor([0, 999])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("metric", "classes"), [(accuracy, 3), (top5, 8)])
def test_an_answer_of_nan_is_not_right_by_luck(metric, classes):
    logits = torch.arange(float(classes)).repeat(classes, 1)
    logits[:, 0] = float("nan")
    assert metric.per_example(logits, torch.arange(classes)).sum() == 0


def test_top5():
    logits = torch.arange(10.0).repeat(10, 1)
    assert top5.per_example(logits, torch.arange(10)).tolist() == [0.0] * 5 + [1.0] * 5


@given(st.integers(min_value=1, max_value=7), st.integers(min_value=6, max_value=12), st.integers(0, 2**31))
def test_top5_is_never_below_accuracy(count, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    targets = torch.randint(classes, (count,), generator=generator)
    assert (top5.per_example(logits, targets) >= accuracy.per_example(logits, targets)).all()


def test_errors_are_negated():
    outputs, targets = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert negative_mse.per_example(outputs, targets).tolist() == [-5.0, -2.0]
    assert negative_mae.per_example(outputs, targets).tolist() == [-2.0, -1.0]


@pytest.mark.parametrize(("output_shape", "target_shape"), [((3, 1), (3,)), ((3,), (3, 1)), ((3, 1), (3, 1))])
def test_one_number_per_example_is_never_broadcast(output_shape, target_shape):
    outputs = torch.tensor([1.0, 2.0, 3.0]).reshape(output_shape)
    targets = torch.tensor([1.0, 0.0, 0.0]).reshape(target_shape)
    assert negative_mse.per_example(outputs, targets).tolist() == [0.0, -4.0, -9.0]


def test_errors_are_summed_in_float64():
    # In float32 the difference of one is lost: 2**25 + 1 is not representable.
    outputs = torch.tensor([2.0**25 + 1.0], dtype=torch.float64)
    assert negative_mae.per_example(outputs, torch.tensor([2.0**25])).tolist() == [-1.0]


def refused(metric, outputs, targets) -> str:
    with pytest.raises(DataError) as error:
        metric.per_example(outputs, targets)
    return str(error.value)


def test_targets_that_do_not_fit_are_refused_by_name():
    assert refused(accuracy, LOGITS, torch.zeros(3)) == (
        "accuracy compares class indices: the targets must be integers, got torch.float32 of shape (3,). For "
        "one-hot targets use their argmax(-1); for regression use lissom.metrics.negative_mse."
    )
    assert refused(accuracy, LOGITS, torch.tensor([0, 1])) == (
        "accuracy: logits of shape (3, 3) need targets of shape (3,) (classes on the last axis), got "
        "(2,). Give Task(metric=...) a function of your own."
    )
    assert refused(accuracy, LOGITS, torch.tensor([0, 1, 3])) == (
        "accuracy: 3 logits have classes 0 to 2, but a target is 3. Renumber the targets, or give "
        "Task(metric=...) a function that leaves such positions out."
    )
    assert refused(accuracy, LOGITS, torch.tensor([0, -100, 1])) == (
        "accuracy: 3 logits have classes 0 to 2, but a target is -100. Renumber the targets, or give "
        "Task(metric=...) a function that leaves such positions out."
    )
    assert refused(accuracy, LOGITS, None) == (
        "accuracy: the targets must be a tensor or numbers, got NoneType. Let the batches be (inputs, "
        "targets), or give Task(metric=...) a function of your own."
    )
    assert refused(negative_mse, torch.zeros(3, 2), torch.zeros(2, 3)) == (
        "negative_mse: outputs of shape (3, 2) need targets of the same shape, got (2, 3). Give "
        "Task(metric=...) a function of your own."
    )


def test_a_metric_that_every_answer_meets_is_refused():
    assert refused(top5, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)) == (
        "top5 needs more than 5 classes on the last axis, got logits of shape (2, 4): every answer would "
        "count as right. Give Task(metric=...) another metric."
    )
    assert "accuracy needs more than 1 classes" in refused(
        accuracy, torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    )


def test_outputs_without_logits_are_refused_with_their_keys():
    with pytest.raises(DataError) as error:
        logits_of({"hidden": LOGITS, "loss": None})
    assert str(error.value) == (
        "No logits in an output of type dict with the keys hidden, loss: expected a tensor, a tuple "
        "whose first element is one, or something with `logits`. Give Task(metric=...) your own function."
    )
    for outputs in ((), ("text",), None, 3.0):
        with pytest.raises(DataError, match="No logits in an output of type"):
            logits_of(outputs)


def f1(outputs, targets):
    return 0.5


class Callable:
    def __call__(self, outputs, targets):
        return 0.5


def test_a_plain_function_becomes_a_metric_of_its_name():
    metric = as_metric(f1)
    assert (metric.name, metric.whole, metric.per_example) == ("f1", f1, None)
    assert as_metric(partial(f1)).name == "f1"
    assert as_metric(Callable()).name == "Callable"
    assert as_metric(lambda outputs, targets: 1.0).name == "metric"
    assert as_metric(accuracy) is accuracy


def test_hits_by_class_have_the_metric_as_their_mean():
    logits = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(30).reshape(6, 5) % 7
    for metric in (accuracy, top5):
        classes, hits = metric.by_class(logits, targets)
        assert torch.equal(classes, targets)
        assert torch.equal(hits.mean(1), metric.per_example(logits, targets))
    assert class_hits(LOGITS, torch.tensor([1, 1, 2]))[1].tolist() == [1.0, 0.0, 1.0]
    assert metrics_of(Task((logits,), metric=negative_mse, metrics={"a": accuracy}))[1].by_class is class_hits


def test_the_metrics_of_a_task_own_first():
    x = (torch.zeros(1, 3),)
    found = metrics_of(Task(x, metric=accuracy, metrics={"macro": f1, "five": top5}))
    assert [one.name for one in found] == ["accuracy", "macro", "five"]
    assert found[1].whole is f1
    assert found[2].per_example is top5.per_example
    assert metrics_of(Task(x)) == ()
    with pytest.raises(UsageError, match="holds 'accuracy', which is the name of Task"):
        metrics_of(Task(x, metric=accuracy, metrics={"accuracy": f1}))
    with pytest.raises(UsageError, match="A metric is a"):
        metrics_of(Task(x, metric=accuracy, metrics={"f1": 3}))


def test_what_is_no_metric_is_refused():
    with pytest.raises(UsageError) as error:
        as_metric("accuracy")
    assert str(error.value) == (
        "A metric is a lissom.metrics.Metric or a function (outputs, targets) -> number, higher is "
        "better, got 'accuracy'. Ready ones: lissom.metrics.accuracy, top5, negative_mse, negative_mae."
    )


@pytest.mark.parametrize(("functions", "given"), [({}, "none"), ({"per_example": f1, "whole": f1}, "both")])
def test_a_metric_has_exactly_one_function(functions, given):
    with pytest.raises(UsageError) as error:
        Metric("mine", **functions)
    assert str(error.value) == (
        "Metric('mine') needs exactly one of per_example=... (one score per example) and whole=... (one "
        f"number over a split), got {given}."
    )
