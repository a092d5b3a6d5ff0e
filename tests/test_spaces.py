"""A network made for search: its shapes and costs, and that a supernet finds every kind of axis in it."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from tests.transforms.elastic_nets import images, space, task
from torch import nn

import lissom
from lissom.errors import UsageError
from lissom.graph.agreement import apart
from lissom.graph.trace import trace
from lissom.pipeline.transforming import transform
from lissom.spaces import LARGE, Gate, MBConv, Stage, mbconv
from lissom.target import load_target
from lissom.task import Batch
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose
from lissom.transforms.architecture.extracting import extracted
from lissom.transforms.architecture.programs import Programs, tensors_of

TINY = (
    Stage(width=8, depth=1, kernel=3, expansion=1.0, squeeze=0.0),
    Stage(width=12, depth=3, kernel=7, expansion=2.0, stride=2),
)


def net() -> nn.Module:
    return mbconv(4, TINY, inputs=2, stem=8, head=16).eval()


@lru_cache
def programs() -> Programs:
    return Programs(space(net(), depth=1.0))


def test_parameters_are_those_of_the_formula() -> None:
    # (c in, c out, kernel, expansion, gate inside) of each block; convolutions without bias, two numbers a channel of a
    # normalization, gates with biases.
    def block(c: int, out: int, k: int, e: float, s: float) -> int:
        inner = round(c * e)
        gate = max(8, round(inner * s)) if s else 0
        return (
            (c * inner + 2 * inner if e > 1 else 0) + inner * k * k + 2 * inner
            + (2 * inner * gate + gate + inner if gate else 0) + inner * out + 2 * out
        )  # fmt: skip

    blocks = block(8, 8, 3, 1, 0) + block(8, 12, 7, 2, 0.25) + 2 * block(12, 12, 7, 2, 0.25)
    whole = 2 * 8 * 9 + 16 + blocks + 12 * 16 + 32 + 16 * 4 + 4
    assert sum(p.numel() for p in net().parameters()) == whole
    assert net()(images(3)).shape == (3, 4)


def test_a_block_adds_its_input_only_where_shapes_are_the_same() -> None:
    residual = [one.residual for one in net().modules() if isinstance(one, MBConv)]
    assert residual == [True, False, True, True]
    last = next(one for one in reversed(list(net().modules())) if isinstance(one, MBConv))
    nn.init.zeros_(last.project[1].weight)  # type: ignore[index, arg-type]
    x = torch.randn(2, 12, 4, 4)
    assert torch.equal(last.eval()(x), x)


def test_a_gate_multiplies_each_channel_of_each_example() -> None:
    torch.manual_seed(0)
    gate, x = Gate(6, 3), torch.rand(2, 6, 4, 4) + 0.1
    quotient = gate(x) / x
    assert bool((quotient >= 0).all() and (quotient <= 1).all())
    torch.testing.assert_close(quotient, quotient[..., :1, :1].expand_as(quotient))


def test_a_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (mbconv(4, TINY, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_every_kind_of_axis_is_found() -> None:
    axes = {axis.members[0]: axis for axis in programs().space.axes}
    assert {axis.kind for axis in axes.values()} == {"width", "depth", "kernel"}
    assert axes["stages.1.1"].choices == (2, 1, 0)  # of the two blocks that are residual
    assert axes["stages.1.0.depthwise.0.weight"].choices == (7, 5, 3)
    widths = {axis.whole for axis in axes.values() if axis.kind == "width"}
    assert (24,) in widths  # expanded
    assert (12,) in widths  # of the stage
    assert any(size == (8,) for size in widths)  # inside a gate


@pytest.mark.parametrize("seed", [1, 2])
def test_a_subnet_is_a_plain_network_of_the_same_class(seed: int) -> None:
    model, made = net(), programs()
    subnet = made.space.drawn(torch.Generator().manual_seed(seed))
    found = extracted(model, made, subnet, task(8).example)
    assert found.own, found.reason
    x = images(5, seed)
    with torch.no_grad():
        assert apart(found.module(x), made.of(subnet).run(tensors_of(model), Batch((x,), {}, None))) < 1e-5
    assert trace(found.module, task(8).example).graph.macs == made.space.cost(subnet).macs


def test_one_recipe_trains_searches_and_extracts() -> None:
    training = Training(epochs=1, learning_rate=0.05, precision="float32")
    search = lissom.Supernet(macs_ratio=2, training=training, candidates=3, depth=1.0, samples=32, distill=False)
    model = net()
    first, second = transform(
        model, task(), lissom.Recipe([search, lissom.Quantize(mode="dynamic")]), load_target("onnxruntime")
    )
    assert type(first.model) is type(model)
    assert 2 * first.plan.predicted.macs <= trace(model, task(8).example).graph.macs
    assert first.plan.of(Choose)
    assert second.model(images(2)).shape == (2, 4)


def test_the_large_one_takes_large_images() -> None:
    with torch.device("meta"):
        model = mbconv(10, LARGE[:2], stem_stride=2)
    assert model.to("meta")(torch.randn(1, 3, 64, 64, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"classes": 0}, "classes=0"), ({"classes": 2, "stages": ()}, "at least one stage"),
     ({"classes": 2, "activation": "tanh"}, "activation='tanh'"), ({"classes": 2, "head": 0}, "head=0")],
)  # fmt: skip
def test_nonsense_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mbconv(**given)  # type: ignore[arg-type]
