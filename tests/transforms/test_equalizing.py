"""Equalization in a traced model: which layers form pairs, and that the function stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.graph.trace import Trace, trace
from lissom.task import Batch
from lissom.transforms.base import clone
from lissom.transforms.quantization.equalizing import (
    cross_layer,
    equalizations,
    equalize_,
    find_pairs,
    smoothing,
)
from small_models import MODELS, call, settled, traced


class Net(nn.Module):
    def __init__(self, wire, **parts: nn.Module) -> None:
        super().__init__()
        self.wire = wire
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def made(wire, shape=(3, 4, 6, 6), **parts) -> tuple[Trace, Batch]:
    torch.manual_seed(0)
    for part in parts.values():
        for parameter in part.parameters():
            with torch.no_grad():
                parameter.mul_(torch.exp(torch.randn(parameter.shape[0])).reshape(-1, *[1] * (parameter.ndim - 1)))
    example = Batch((torch.randn(shape),))
    return trace(settled(Net(wire, **parts)), example), example


def products(graph) -> set[str]:
    return {node.name for node in graph.nodes if node.op in ("conv2d", "conv1d", "linear")}


def conv(groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, groups=groups)


CASES = {
    "relu": (lambda m, x: m.b(F.relu(m.a(x))), {"a": conv, "b": conv}, [("a", ["b"])]),
    "grouped": (lambda m, x: m.b(F.leaky_relu(m.a(x))), {"a": conv, "b": lambda: conv(2)}, [("a", ["b"])]),
    "depthwise, pooled": (
        lambda m, x: m.b(F.max_pool2d(F.relu(m.a(x)), 2)),
        {"a": lambda: conv(4), "b": lambda: conv(4)},
        [("a", ["b"])],
    ),
    "chain": (
        lambda m, x: m.c(m.b(F.relu(m.a(x))).relu()),
        {"a": conv, "b": conv, "c": conv},
        [("a", ["b"]), ("b", ["c"])],
    ),
    "two readers": (
        lambda m, x: m.b(y := F.relu(m.a(x))) + m.c(y),
        {"a": conv, "b": conv, "c": conv},
        [("a", ["b", "c"])],
    ),
    "sigmoid": (lambda m, x: m.b(torch.sigmoid(m.a(x))), {"a": conv, "b": conv}, []),
    "relu6": (lambda m, x: m.b(F.relu6(m.a(x))), {"a": conv, "b": conv}, []),
    "read elsewhere": (lambda m, x: m.b(y := F.relu(m.a(x))) + y, {"a": conv, "b": conv}, []),
    "shared": (lambda m, x: m.a(F.relu(m.a(x))), {"a": conv}, []),
    "other axis": (lambda m, x: m.b(F.relu(m.a(x))), {"a": conv, "b": lambda: nn.Linear(6, 5)}, []),
}


def names(pairs) -> list[tuple[str, list[str]]]:
    return [(pair.source.layer, sorted(node.layer for node, _ in pair.readers)) for pair in pairs]


@pytest.mark.parametrize("case", CASES)
def test_pairs_are_found_and_equalized_without_changing_the_function(case):
    wire, parts, wanted = CASES[case]
    one, example = made(wire, **{name: make() for name, make in parts.items()})
    pairs = find_pairs(one.graph, products(one.graph))
    assert names(pairs) == wanted
    for how in (cross_layer, smoothing(one.module, pairs, [example], one.graph)):
        module = clone(one.module)
        actions = equalizations(module, pairs, how)
        assert len(actions) == len(pairs)
        before, after = call(one.module, example)[0], call(module, example)[0]
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
        again = clone(one.module)
        equalize_(again, actions)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


def test_only_chosen_readers():
    one, _ = made(CASES["chain"][0], a=conv(), b=conv(), c=conv())
    first = next(node.name for node in one.graph.nodes if node.layer == "b")
    assert names(find_pairs(one.graph, {first})) == [("a", ["b"])]


def test_a_normalization_hands_its_scales_to_all_linear_layers_that_read_it():
    one, example = made(
        lambda m, x: m.q(y := m.norm(x)) * m.k(y),
        shape=(2, 5, 8),
        norm=nn.LayerNorm(8),
        q=nn.Linear(8, 4),
        k=nn.Linear(8, 4),
    )
    pairs = find_pairs(one.graph, products(one.graph))
    assert names(pairs) == [("norm", ["k", "q"])]
    assert pairs[0].outputs == ("norm.weight", "norm.bias")
    assert cross_layer(one.module, pairs[0]) is None
    module = clone(one.module)
    (action,) = equalizations(module, pairs, smoothing(one.module, pairs, [example], one.graph))
    torch.testing.assert_close(call(module, example)[0], call(one.module, example)[0], rtol=1e-4, atol=1e-4)

    normal = F.layer_norm(example.args[0], (8,), one.module.norm.weight, one.module.norm.bias)
    seen = normal.flatten(0, 1).abs().amax(0)
    read = torch.maximum(one.module.q.weight.abs().amax(0), one.module.k.weight.abs().amax(0))
    raw = (seen / read).sqrt()
    torch.testing.assert_close(torch.tensor(action.scales), raw / raw.log().mean().exp(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_no_model_changes_what_it_computes(name):
    _, example, one = traced(name)
    pairs = find_pairs(one.graph, products(one.graph))
    module = clone(one.module)
    equalizations(module, pairs, cross_layer)
    for a, b in zip(call(one.module, example), call(module, example), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)
