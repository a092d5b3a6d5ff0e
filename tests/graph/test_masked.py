"""The masked original: by hand where channels mix, and by literally zeroing parameters where they do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from channel_cases import CASES, IMAGE, ROWS, TOKENS, Net, between, convs, lin
from torch import Tensor, nn

from lissom.graph.axes import Atom
from lissom.graph.channels import find_channels, listed_names
from lissom.graph.masked import Masked
from lissom.graph.resize import Sizes
from lissom.graph.trace import Trace, trace
from lissom.task import Batch
from lissom.transforms.base import clone
from small_models import MODELS, call, traced

KEPT = (0, 2, 3, 5)


def masked(made: Trace, kept: dict[int, tuple[int, ...]], inputs: Batch) -> list[Tensor]:
    """Outputs of the masked original, `kept` by the size of the group."""
    channels = find_channels(made)
    atoms: dict[Atom, np.ndarray] = {}
    for size, own in kept.items():
        (group,) = (g for g in channels.groups if g.reason is None and g.size == size)
        atoms[group.atom] = np.array(own, dtype=np.int64)
    found = Masked(made, Sizes(channels, atoms), listed_names(made)).run(*inputs.tensors(), enable_io_processing=False)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(found) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_masked_is_the_original_bit_for_bit(name):
    _, example, made = traced(name)
    inputs = Batch(tuple(example.tensors()))
    with torch.no_grad():  # recurrent layers take another kernel where gradients are kept
        found = masked(made, {}, inputs), call(made.module, example)
    for got, wanted in zip(*found, strict=True):
        assert torch.equal(got, wanted)


LITERAL = [
    "linear", "conv2d", "depthwise", "grouped", "transposed and grouped", "concatenation", "split", "padding shortcut",
    "batch norm", "instance norm", "prelu", "lstm", "channel shuffle", "glu", "residual", "layer scale", "embedding",
    "gate of squeezed channels", "class token and position table", "repeat", "im2col", "pixel shuffle", "embedding",
    "attention with its own scale", "attention with grouped queries", "one layer twice", "matmul with a parameter",
]  # fmt: skip
"""No operator normalizes over channels, and no values are summed over channels behind a function with f(0) != 0."""


@pytest.mark.parametrize("name", LITERAL)
def test_masking_is_zeroing_parameters_where_channels_do_not_mix(name):
    case = CASES[name]
    free = [group for group in case.channels.groups if group.reason is None and group.size > 1]
    sizes = Sizes(case.channels, {g.atom: np.arange(0, g.size, 2, dtype=np.int64) for g in free})
    zeroed = clone(case.trace.module)
    with torch.no_grad():
        for parameter, listed in listed_names(case.trace).items():
            tensor = (
                zeroed.get_parameter(parameter)
                if parameter in dict(zeroed.named_parameters())
                else zeroed.get_buffer(parameter)
            )
            for axis, kept in sizes.of_parameter(listed).items():
                gone = np.setdiff1d(np.arange(tensor.shape[axis]), kept)
                assert gone.size
                tensor.index_fill_(axis, torch.from_numpy(gone), 0.0)
    inputs = Batch(tuple(torch.randint(0, 5, s[:-1]) if s[-1] == 0 else torch.randn(s) for s in case.shapes))
    got = Masked(case.trace, sizes, listed_names(case.trace)).run(*inputs.tensors(), enable_io_processing=False)
    for one, wanted in zip(torch.utils._pytree.tree_leaves(got), call(zeroed, inputs), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-6)


def _layer_norm(m: Net, x: Tensor) -> Tensor:
    return F.layer_norm(m.a(x)[..., KEPT], (4,), m.n.weight[list(KEPT)], m.n.bias[list(KEPT)])


def _rms_norm(m: Net, x: Tensor) -> Tensor:
    return F.rms_norm(m.a(x)[..., KEPT], (4,), m.n.weight[list(KEPT)])


def _group_norm(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)[:, [0, 1, 2, 6, 7, 8]]
    at = [0, 1, 2, 6, 7, 8]
    return F.group_norm(y, 2, m.n.weight[at], m.n.bias[at])


def _channels_of_groups(m: Net, x: Tensor) -> Tensor:
    at = [0, 2, 3, 5]
    return F.group_norm(m.a(x)[:, at], 2, m.n.weight[at], m.n.bias[at])


def _sum(m: Net, x: Tensor) -> Tensor:
    y = torch.sigmoid(m.a(x))[..., KEPT]
    return y * y.sum(-1, keepdim=True)


def _by_hand(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)[..., KEPT]
    return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True) + 1).sqrt()


# forward, parts, input, kept by size, what b reads of the kept channels, and which of its inputs they are
MIXING: dict[
    str,
    tuple[
        Callable[..., Tensor],
        dict[str, nn.Module],
        tuple[int, ...],
        dict[int, tuple[int, ...]],
        Callable[..., Tensor],
        tuple[int, ...],
    ],
] = {
    "layer norm": (
        lambda m, x: m.b(m.n(m.a(x))),
        {**lin(), "n": nn.LayerNorm(8)},
        TOKENS,
        {8: KEPT},
        _layer_norm,
        KEPT,
    ),
    "rms norm": (lambda m, x: m.b(m.n(m.a(x))), {**lin(), "n": nn.RMSNorm(8)}, TOKENS, {8: KEPT}, _rms_norm, KEPT),
    "group norm, groups": (
        lambda m, x: m.b(m.n(m.a(x))),
        {**convs(9), "n": nn.GroupNorm(3, 9)},
        IMAGE,
        {},
        _group_norm,
        (0, 1, 2, 6, 7, 8),
    ),
    "group norm, channels": (
        lambda m, x: m.b(m.n(m.a(x))),
        {**convs(6), "n": nn.GroupNorm(2, 6)},
        IMAGE,
        {3: (0, 2)},
        _channels_of_groups,
        (0, 2, 3, 5),
    ),
    "sum where f(0) is not 0": (
        between(lambda y: torch.sigmoid(y) * torch.sigmoid(y).sum(-1, keepdim=True)),
        lin(),
        ROWS,
        {8: KEPT},
        _sum,
        KEPT,
    ),
    "norm by hand": (
        between(lambda y: (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True) + 1).sqrt()),
        lin(),
        ROWS,
        {8: KEPT},
        _by_hand,
        KEPT,
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_channels_runs_over_the_kept_ones(name):
    function, parts, shape, kept, wanted_of, at = MIXING[name]
    net = Net(function, parts).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    inputs = Batch((torch.randn(shape),))
    made = trace(net, inputs)
    with torch.no_grad():
        if kept:
            (got,) = masked(made, kept, inputs)
        else:  # two groups of the same size: the rows of the normalization come first
            channels = find_channels(made)
            rows = next(g for g in channels.groups if g.reason is None and g.members[0].places.tolist()[0] == [0, 1, 2])
            sizes = Sizes(channels, {rows.atom: np.array([0, 2])})
            got = Masked(made, sizes, listed_names(made)).run(*inputs.tensors(), enable_io_processing=False)[0]
        b = net.b
        read = wanted_of(net, inputs.args[0])
        layer = F.conv2d if isinstance(b, nn.Conv2d) else F.linear
        wanted = layer(read, b.weight[:, list(at)], b.bias)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_product_of_values_counts_masked_channels_as_zero():
    parts = {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "c": nn.Linear(4, 3)}
    net = Net(lambda m, x: m.c(torch.sigmoid(m.a(x)) @ torch.sigmoid(m.b(x)).mT), parts)
    inputs = Batch((torch.randn(TOKENS),))
    (got,) = masked(trace(net, inputs), {8: KEPT}, inputs)
    x = inputs.args[0]
    left, right = torch.sigmoid(net.a(x))[..., KEPT], torch.sigmoid(net.b(x))[..., KEPT]
    torch.testing.assert_close(got, net.c(left @ right.mT), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, call(net, inputs)[0], atol=1e-2)


def test_zero_by_zero_in_a_masked_channel_reaches_nobody():
    case = CASES["division that is zero by zero where a channel is masked"]
    inputs = Batch((torch.randn(TOKENS),))
    (got,) = masked(case.trace, {8: KEPT}, inputs)
    assert bool(got.isfinite().all())
