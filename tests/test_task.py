"""Tasks and batches: what is accepted, and every refusal by its text."""

from __future__ import annotations

import collections
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lissom.errors import DataError, UsageError
from lissom.task import SPLITS, Batch, Task, contiguous, default_feed, fitting, repeated, sliced

X = torch.arange(12.0).reshape(6, 2)
Y = torch.arange(6)


def task(**given) -> Task:
    return Task(example_inputs=(X[:1],), **given)


def first(of: Task, split="validation", **options) -> list[Batch]:
    return list(of.batches(split, **options))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"example_inputs": [X]},
            "Task(example_inputs=...) must be a tuple of the model's positional inputs, got list. Write "
            "example_inputs=(x,).",
        ),
        (
            {"example_inputs": X},
            "Task(example_inputs=...) must be a tuple of the model's positional inputs, got Tensor. Write "
            "example_inputs=(x,).",
        ),
        (
            {"example_inputs": (X,), "metrics": "f1"},
            "Task(metrics=...) must be metrics by name, got 'f1'. Write metrics={'f1': your_function}.",
        ),
        (
            {"example_inputs": (X,), "metric": max, "metrics": {1: max}},
            "Task(metrics=...) must be metrics by name, got {1: <built-in function max>}. Write metrics={'f1': "
            "your_function}.",
        ),
        (
            {"example_inputs": (X,), "metrics": {"f1": max, "auc": max}},
            "Task(metrics=...) stand beside Task(metric=...), which choices go by and which was not given. Give one of "
            "f1, auc as metric=...",
        ),
        ({}, "Task needs at least one example input tensor. Write Task(example_inputs=(x,))."),
        (
            {"example_inputs": (3, "a")},
            "Task needs at least one example input tensor. Write Task(example_inputs=(x,)).",
        ),
        *(
            (
                {"example_inputs": (X,), split: 3},
                f"Task({split}=...) must be an iterable of batches, got int.",
            )
            for split in SPLITS
        ),
    ],
)
def test_wrong_tasks(given, text):
    with pytest.raises(UsageError) as wrong:
        Task(**given)
    assert str(wrong.value) == text


def test_example_inputs_must_be_finite():
    bad = X.clone()
    bad[0, 0], bad[1, 1] = math.nan, math.inf
    with pytest.raises(DataError) as wrong:
        Task(example_inputs=(torch.arange(3), bad))
    assert str(wrong.value) == (
        "Input 1 in the example inputs holds 2 NaN or infinite values (shape (6, 2)). Clean the data before "
        "compressing: ranges and metrics would be meaningless."
    )


def generator():
    yield X, Y


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (None, "This needs Task(validation=...), which was not given."),
        ([], "Task(validation=...) yielded no batch: the loader is empty."),
        (
            generator(),
            "Task(validation=...) is a one-shot iterator (generator): it would be exhausted after one pass. Give a "
            "DataLoader, a list of batches, or another object whose iter() starts anew.",
        ),
        (
            map(tuple, [(X, Y)]),
            "Task(validation=...) is a one-shot iterator (map): it would be exhausted after one pass. Give a "
            "DataLoader, a list of batches, or another object whose iter() starts anew.",
        ),
        (
            [(X, Y), ("text", Y)],
            "Batch 1 of Task(validation=...) holds no input tensor (got tuple). Give Task(feed=...) a function from "
            "your batch to lissom.Batch(args, kwargs, target).",
        ),
        (
            [(X, Y), (X / 0, Y)],
            "Input 0 in batch 1 of Task(validation=...) holds 12 NaN or infinite values (shape (6, 2)). Clean the data "
            "before compressing: ranges and metrics would be meaningless.",
        ),
    ],
)
def test_wrong_splits(split, text):
    with pytest.raises(DataError) as wrong:
        first(task(validation=split))
    assert str(wrong.value) == text


def test_targets_may_be_anything():
    (batch,) = first(task(validation=[(X, torch.tensor([math.nan] * 6))]))
    assert torch.equal(batch.args[0], X)


def test_splits_can_be_walked_again_and_again():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    one = task(validation=loader)
    assert one.has("validation")
    assert not one.has("train")
    for _ in range(2):
        assert [b.size for b in first(one)] == [4, 2]
        assert torch.equal(torch.cat([b.args[0] for b in first(one)]), X)
        assert torch.equal(torch.cat([b.target for b in first(one)]), Y)


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (6, [4, 2]), (99, [4, 2])])
def test_limit_counts_examples(limit, sizes):
    batches = first(task(validation=[(X[:4], Y[:4]), (X[4:], Y[4:])]), limit=limit)
    assert [b.size for b in batches] == sizes
    assert [len(b.target) for b in batches] == sizes


Pair = collections.namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("raw", "args", "kwargs", "target"),
    [
        (X, 1, {}, False),
        ((X,), 1, {}, False),
        ([X, Y], 1, {}, True),
        (Pair(X, Y), 1, {}, True),
        ((X, X, Y), 2, {}, True),
        ({"ids": X, "mask": X, "labels": Y}, 0, {"ids", "mask"}, True),
        ({"ids": X, "label": Y}, 0, {"ids"}, True),
        ({"ids": X}, 0, {"ids"}, False),
        (Batch((X,), {"mask": X}, Y), 1, {"mask"}, True),
    ],
)
def test_default_feed(raw, args, kwargs, target):
    batch = default_feed(raw)
    assert len(batch.args) == args
    assert set(batch.kwargs) == set(kwargs)
    assert (batch.target is not None) == target
    assert batch.size == 6


def test_a_feed_of_ones_own():
    (batch,) = first(task(validation=["x"], feed=lambda raw: Batch((X,), {}, raw)))
    assert batch.target == "x"


def test_keyword_inputs_come_in_the_examples_order():
    one = Task(example_kwargs={"ids": X, "mask": X + 1}, validation=[{"mask": X + 1, "labels": Y, "ids": X}])
    (batch,) = first(one)
    assert list(batch.kwargs) == ["ids", "mask"]
    assert torch.equal(batch.tensors()[0], X)
    other = Task(example_kwargs={"ids": X}, validation=[{"mask": X, "ids": X}])
    assert list(first(other)[0].kwargs) == ["mask", "ids"]


def test_batches_are_contiguous():
    strided = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert contiguous(Batch((strided,))).args[0].is_contiguous()
    assert first(task(validation=[(strided, Y)]))[0].args[0].is_contiguous()
    assert not strided.is_contiguous()


def test_slicing_cuts_what_follows_the_batch():
    batch = Batch((X, 5, None), {"table": torch.zeros(3, 2)}, {"y": Y, "name": "a"})
    part = sliced(batch, 1, 4)
    assert torch.equal(part.args[0], X[1:4])
    assert part.args[1:] == (5, None)
    assert part.kwargs["table"].shape == (3, 2)
    assert torch.equal(part.target["y"], Y[1:4])
    assert part.target["name"] == "a"


@pytest.mark.parametrize("count", [1, 6, 7, 20])
def test_repeating_fills_and_cuts(count):
    whole = repeated(Batch((X, 5)), count)
    assert whole.size == count
    assert whole.args[1] == 5
    assert torch.equal(whole.args[0], X[torch.arange(count) % 6])


@pytest.mark.parametrize("size", [None, 1, 4, 6, 8])
def test_pieces_fit_and_hold_every_example(size):
    pieces = list(fitting(Batch((X,), {}, Y), size))
    assert all(p.size == (size or 6) for p in pieces)
    seen = {tuple(row) for p in pieces for row in p.args[0].tolist()}
    assert seen == {tuple(row) for row in X.tolist()}


def test_scalar_inputs_have_one_example():
    assert Batch((torch.tensor(3.0),)).size == 1
    assert Batch(()).size == 1
