"""What a method does to one layer, against the same change made by hand on a copy of the model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

import lissom
from lissom.pipeline.layerwise import METHODS, half_pruned, half_ranked, layer_sensitivity, layers_seconds, open_methods
from lissom.search import Space

SPACE = Space(precision=("float32", "int8", "dynamic", "int4"), prune=(1.0, 2.0), rank=(1.0, 2.0))


@pytest.fixture(scope="module")
def model():
    return tiny.tiny()


@pytest.fixture(scope="module")
def graph(model):
    return lissom.analyze(model, tiny.task())


def test_every_cell_is_what_the_changed_copy_loses(model, graph):
    task = tiny.task(loss=F.cross_entropy)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layer_sensitivity(model, task, graph, SPACE, 60.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    batches = list(task.batches("validation", limit=256))
    x, y = torch.cat([b.args[0] for b in batches]), torch.cat([b.target for b in batches])
    assert found.examples == len(x)
    assert found.left == 0

    def scores(one) -> tuple[float, float]:
        with torch.no_grad():
            outputs = one.eval()(x)
        return float((outputs.argmax(1) == y).double().mean()), float(F.cross_entropy(outputs, y))

    metric, loss = scores(copy.deepcopy(model))
    layers = {one.layer for one in found.effects}
    assert len(found.effects) == len(layers) * len(METHODS)
    for one in found.effects:
        other = copy.deepcopy(model)
        weight = other.get_submodule(one.layer).weight
        with torch.no_grad():
            weight.copy_(by_hand(one.method, weight.flatten(1).double().numpy()).reshape(weight.shape))
        changed, risen = scores(other)
        assert one.drop == pytest.approx(metric - changed, abs=2.0 / len(x)), (one.layer, one.method)
        assert one.loss == pytest.approx(risen - loss, rel=1e-3, abs=1e-4), (one.layer, one.method)


def by_hand(method: str, rows: np.ndarray) -> torch.Tensor:
    made = rows.copy()
    if method == "prune":
        made[np.argsort(np.linalg.norm(rows, axis=1), kind="stable")[: len(rows) // 2]] = 0.0
    elif method == "rank":
        left, values, right = np.linalg.svd(rows, full_matrices=False)
        rank = max(1, rows.size // (2 * sum(rows.shape)))
        made = (left[:, :rank] * values[:rank]) @ right[:rank]
    else:
        most = {"int8": 127, "int4": 7}[method]
        scale = np.abs(rows).max(1, keepdims=True) / most
        made = np.round(rows / scale).clip(-most, most) * scale
    return torch.tensor(made, dtype=torch.float32)


def test_halves_of_the_smallest_matrices_are_something():
    assert torch.equal(half_pruned(torch.ones(1, 3)), torch.ones(1, 3)), "a single output is not half of anything"
    assert torch.linalg.matrix_rank(half_ranked(torch.randn(2, 2))) == 1


def test_methods_are_those_that_the_search_may_use():
    assert open_methods(SPACE) == ("prune", "rank", "int8", "int4")
    assert open_methods(Space(precision=("float32", "dynamic"))) == ("int8",)
    assert open_methods(Space()) == ()


def test_it_ends_in_time_with_the_costliest_layers_and_says_what_is_missing(model, graph):
    now = iter([0, 0, 0, *range(1, 100)])  # a second passes for every cell
    found = layer_sensitivity(model, tiny.task(), graph, SPACE, 5.0, clock=lambda: next(now))
    assert (len(found.effects), found.left) == (5, 7)
    costs = {layer.name: layer.macs for layer in graph.layers}
    listed = [costs[one.layer] for one in found.effects]
    assert listed == sorted(listed, reverse=True)
    assert all(one.loss is None for one in found.effects), "the task has no loss"
    slow = iter(range(100))  # the first few examples take a second
    none = layer_sensitivity(model, tiny.task(), graph, SPACE, 10.0, clock=lambda: next(slow))
    assert (none.effects, none.examples, none.left) == ((), 0, 12)


def test_a_budget_gives_it_a_small_share():
    assert (layers_seconds(None), layers_seconds(100.0), layers_seconds(1e6)) == (60.0, 5.0, 60.0)
