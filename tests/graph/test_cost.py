"""Multiply-accumulates: half of what torch's own counter finds, closed forms where it counts nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lissom.graph.trace import trace
from lissom.task import Batch, repeated
from small_models import build, traced


class Apply(nn.Module):
    def __init__(self, function, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


COUNTED = {
    "conv1d": (nn.Conv1d(3, 4, 3), [(2, 3, 9)]),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), padding=1), [(2, 3, 9, 8)]),
    "conv3d": (nn.Conv3d(2, 3, 2), [(2, 2, 4, 5, 6)]),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), [(2, 4, 7, 7)]),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), [(2, 4, 7, 7)]),
    "dilated": (nn.Conv2d(3, 4, 3, dilation=2, stride=2), [(2, 3, 11, 11)]),
    "same": (nn.Conv2d(3, 4, 3, padding="same"), [(2, 3, 5, 5)]),
    "transposed1d": (nn.ConvTranspose1d(3, 4, 3, stride=2), [(2, 3, 5)]),
    "transposed2d": (nn.ConvTranspose2d(3, 4, 3, stride=2), [(2, 3, 5, 5)]),
    "linear2": (nn.Linear(5, 3), [(2, 5)]),
    "linear3": (nn.Linear(5, 3, bias=False), [(2, 4, 5)]),
    "matmul": (Apply(lambda _, a, b: a @ b), [(2, 3, 4, 5), (2, 3, 5, 6)]),
    "matmul with weight": (Apply(lambda m, a: a @ m.w, w=weight(5, 6)), [(2, 4, 5)]),
    "bmm": (Apply(lambda _, a, b: torch.bmm(a, b)), [(2, 3, 4), (2, 4, 5)]),
    "baddbmm": (Apply(lambda m, a, b: torch.baddbmm(m.w, a, b), w=weight(1, 3, 5)), [(2, 3, 4), (2, 4, 5)]),
    "addmm": (Apply(lambda m, a: torch.addmm(m.b, a, m.w), w=weight(4, 3), b=weight(3)), [(2, 4)]),
    "einsum": (Apply(lambda _, a, b: torch.einsum("nqd,nkd->nqk", a, b)), [(2, 3, 4), (2, 5, 4)]),
    "attention": (
        Apply(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v)),
        [(2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8)],
    ),
    "network": (build("residual")[0], [(2, 3, 8, 8)]),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_macs_are_half_of_torchs_flops(name):
    model, shapes = COUNTED[name]
    inputs = tuple(torch.randn(shape) for shape in shapes)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(*inputs)
    assert counter.get_total_flops() > 0
    graph = trace(model, Batch(inputs)).graph
    assert 2 * graph.macs * len(inputs[0]) == counter.get_total_flops()
    assert graph.uncounted == {}


@pytest.mark.parametrize(("layers", "both_ways"), [(1, False), (2, True)])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind, gates, layers, both_ways):
    width, hidden, length = 3, 5, 7
    model = kind(width, hidden, layers, batch_first=True, bidirectional=both_ways)
    ways = 1 + both_ways
    inner = (layers - 1) * (ways * hidden + hidden)
    wanted = length * ways * gates * hidden * (width + hidden + inner)
    graph = trace(Apply(lambda m, x: m.cell(x)[0], cell=model), Batch((torch.randn(2, length, width),))).graph
    assert graph.macs == wanted
    assert graph.uncounted == {}


@pytest.mark.parametrize("name", ["residual", "transformer", "recurrent", "text", "keywords"])
def test_macs_of_one_example_do_not_depend_on_the_batch(name):
    model, example, made = traced(name)
    assert trace(model, repeated(example, 4)).graph.macs == made.graph.macs > 0


def test_fixed_batches_count_one_example_too():
    assert traced("fixed batch")[2].graph.macs == 4 * 2


def test_products_of_parameters_do_not_shrink_with_the_batch():
    model = Apply(lambda m, x: x * (m.a @ m.b).sum(), a=weight(3, 4), b=weight(4, 5))
    for size in (2, 64):
        assert trace(model, Batch((torch.randn(size, 6),))).graph.macs == 3 * 4 * 5


@torch.library.custom_op("lissom_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x @ x.transpose(-1, -2)


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-2])


def test_unknown_operators_are_counted_by_name():
    model = Apply(lambda _, x: mystery(x) + mystery(x * 2))
    graph = trace(model, Batch((torch.randn(2, 3, 4),))).graph
    assert graph.uncounted == {"mystery": 2}
    assert graph.macs == 0


def test_layers_report_their_own_cost():
    graph = traced("residual")[2].graph
    layers = {layer.name: layer for layer in graph.layers}
    assert layers["stem.0"].macs == 8 * 3 * 9 * 64
    assert layers["stem.0"].weight_shape == (8, 3, 3, 3)
    assert layers["stem.0"].input_shape == ("N", 3, 8, 8)
    assert layers["stem.0"].output_shape == ("N", 8, 8, 8)
    assert layers["stem.0"].parameters * 4 == layers["stem.0"].bytes == 4 * 8 * 3 * 9
    assert layers["fc"].parameters == 8 * 5 + 5
    assert sum(layer.macs for layer in graph.layers) == graph.macs
    assert sum(layer.parameters for layer in graph.layers) == graph.parameters
