"""Which task an input is of, and how often that is right."""

from __future__ import annotations

import math

import pytest
import torch
import worlds

from lissom.errors import UsageError
from lissom.lifelong import Lifelong
from lissom.lifelong.identity import doubt


def test_doubt_is_zero_where_sure_and_one_where_not() -> None:
    for classes in (2, 5):
        logits = torch.stack([torch.zeros(classes), torch.eye(classes)[0] * 100])
        for by in ("entropy", "confidence"):
            assert torch.allclose(doubt(logits, by), torch.tensor([1.0, 0.0]), atol=1e-6)
    p = torch.tensor([[0.7, 0.2, 0.1]])
    wanted = -(p * p.log()).sum() / math.log(3)
    assert float(doubt(p.log(), "entropy")) == pytest.approx(float(wanted))
    assert float(doubt(p.log(), "confidence")) == pytest.approx((1 - 0.7) / (1 - 1 / 3))
    assert doubt(torch.zeros(4, 1), "entropy").tolist() == [0.0] * 4
    assert doubt(torch.zeros(2, 3, 5, 5), "entropy").shape == (2,)


def test_the_surest_task_is_named(three: Lifelong) -> None:
    x, _ = worlds.clouds(1, classes=4)
    alone, together = three.infer(x), three.infer(x, together=True)
    assert alone.tasks == ("a", "b", "c")
    assert alone.doubts.shape == (3, 96)
    assert [alone.tasks[at] for at in alone.doubts.argmin(0).tolist()] == list(alone.names)
    assert set(together.names) == {alone.tasks[int(alone.doubts.mean(1).argmin())]}
    assert not torch.equal(three.infer(x, by="confidence").doubts, alone.doubts)
    with pytest.raises(UsageError, match="No task"):
        three.infer(torch.zeros(1, 7))


def test_measure_keeps_the_matrix_and_says_how_often_the_task_was_found(three: Lifelong, tmp_path) -> None:
    tasks = {"a": worlds.task(0), "b": worlds.task(1, classes=4), "c": worlds.task(2)}
    row = three.measure(tasks, split="validation")
    assert row.after == 3
    count, right = 0, 0
    for name, task in tasks.items():
        ((x, y),) = task.validation
        assert row.metrics[name].value == pytest.approx(float((three.model(name)(x).argmax(1) == y).double().mean()))
        found = three.infer(x).names
        count, right = count + len(found), right + sum(one == name for one in found)
    assert row.identified == pytest.approx(right / count)
    matrix = three.record.matrix("validation")
    assert list(matrix) == ["a", "b", "c"]
    assert list(matrix["b"]) == ["a", "b"]
    assert {name: matrix[name][name] for name in matrix} == matrix["c"]
    assert three.record.backward_transfer("validation") == 0.0
    three.measure({"b": tasks["b"]}, split="validation")
    assert three.record.matrix("validation") == matrix, "measured in parts, what was known stays"
    assert three.record.rows[-1].identified == row.identified
    with pytest.raises(UsageError, match="no task 'x'"):
        three.measure({"x": tasks["a"]})
