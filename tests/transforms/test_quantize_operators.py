"""Products of activations, attention, transposed convolutions and concatenations in integers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.functional.affine import affine, fake_quantize
from lissom.graph.statistics import observe
from lissom.graph.trace import Trace, trace
from lissom.pipeline.naming import by_planned_name
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan, clone
from lissom.transforms.quantization import QAT, Quantize, placement, planned_precision
from lissom.transforms.quantization.actions import MultiplyActivations, RoundActivation, RoundBias, StoreWeight
from lissom.transforms.quantization.attention import take_apart_
from lissom.transforms.quantization.concat import NEGATIVE, Family, families
from lissom.transforms.quantization.corrections import Corrected, Findings
from lissom.transforms.quantization.placement import root_of
from lissom.transforms.quantization.precision import FLOAT
from lissom.transforms.quantization.rewrite import finish_

TORCH = load_target("torch")


class Wired(nn.Module):
    def __init__(self, wire, **parts: nn.Module | Tensor | None) -> None:
        super().__init__()
        self.wire = wire
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Tensor):
        return self.wire(self, *inputs)


def wired(wire, *inputs: Tensor, **parts) -> Trace:
    return trace(Wired(wire, **parts).eval(), Batch(inputs))


def planned(made: Trace, *inputs: Tensor, target: str = "torch", **settings) -> Plan:
    table = load_target(target)
    quantize = Quantize(**{"calibration": "minmax", "overflow_fix": "off", **settings})
    seen = observe(made, [Batch(inputs)], quantize.watch(made.graph, table))
    return quantize.plan(made.graph, seen, table)


def applied(made: Trace, plan: Plan) -> nn.Module:
    return Quantize().apply(made.module, plan, made, Task(example_inputs=(torch.zeros(1),)))


def reasons(plan: Plan) -> dict[str, str]:
    return {skip.layer: skip.reason for skip in plan.skipped}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Attention

TRUTHS = torch.tensor([[True, False, True, True, False]] * 3 + [[False] * 5] + [[True] * 5] * 2)
SHIFTS = torch.where(TRUTHS, drawn(6, 5), torch.tensor(-math.inf))
ATTENTIONS = {
    "plain": ((2, 4, 6, 8), (2, 4, 5, 8), {}),
    "scaled": ((2, 4, 6, 8), (2, 4, 5, 8), {"scale": 0.3}),
    "causal": ((2, 4, 6, 8), (2, 4, 6, 8), {"is_causal": True}),
    "causal, fewer keys": ((2, 4, 6, 8), (2, 4, 5, 8), {"is_causal": True}),
    "truths, a row without keys": ((2, 4, 6, 8), (2, 4, 5, 8), {"attn_mask": TRUTHS}),
    "shifts, a row without keys": ((2, 4, 6, 8), (2, 4, 5, 8), {"attn_mask": SHIFTS}),
    "one mask an example": ((2, 4, 6, 8), (2, 4, 5, 8), {"attn_mask": drawn(2, 1, 6, 5)}),
    "grouped": ((2, 6, 6, 8), (2, 2, 5, 8), {"enable_gqa": True}),
    "grouped, causal": ((2, 6, 5, 8), (2, 2, 5, 8), {"enable_gqa": True, "is_causal": True}),
    "grouped, masked": ((2, 6, 6, 8), (2, 3, 5, 8), {"enable_gqa": True, "attn_mask": TRUTHS}),
    "without heads": ((2, 6, 8), (2, 5, 8), {"scale": 0.3}),
}


def attention(name: str) -> tuple[Trace, list[Tensor]]:
    query, key, how = ATTENTIONS[name]
    how = dict(how)
    mask = how.pop("attn_mask", None)
    inputs = [drawn(*query, seed=1), drawn(*key, seed=2), drawn(*key, seed=3)]
    made = wired(
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m.mask, **how), *inputs, mask=mask
    )
    return made, inputs


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_taken_apart_is_the_same(name):
    made, inputs = attention(name)
    module = clone(made.module)
    (node,) = [n.name for n in made.graph.nodes if n.op == "scaled_dot_product_attention"]
    take_apart_(module, node, None)
    finish_(module)
    assert not [n for n in module.graph.nodes if "scaled_dot_product" in str(n.target)]
    wanted = made.module(*inputs)
    assert bool(wanted.isfinite().all())
    torch.testing.assert_close(module(*inputs), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["scaled", "truths, a row without keys", "grouped, causal"])
def test_quantized_attention_is_what_the_formula_says(name):
    made, inputs = attention(name)
    plan = planned(made, *inputs)
    (product,) = plan.of(MultiplyActivations)
    assert (product.weights.low, product.weights.high, product.weights.zero_point) == (0.0, pytest.approx(1.0), 0)
    assert planned_precision(plan) == {product.node: "int8"}
    grids = {a.value: a.numbers for a in plan.of(RoundActivation)}
    assert len(grids) == 3
    q, k, v = (fake_quantize(x, grids[place]) for x, place in zip(inputs, made.graph.inputs, strict=True))
    how = dict(ATTENTIONS[name][2])
    repeats = q.shape[-3] // k.shape[-3]
    scores = q @ k.repeat_interleave(repeats, -3).transpose(-2, -1) * how.get("scale", q.shape[-1] ** -0.5)
    if how.get("is_causal"):
        scores = scores + torch.full(scores.shape[-2:], -math.inf).triu(1)
    if "attn_mask" in how:
        scores = scores.masked_fill(~how["attn_mask"], -math.inf)
    weights = fake_quantize(scores.softmax(-1).nan_to_num(0.0), affine(0.0, 1.0, "uint8", symmetric=True))
    wanted = weights @ v.repeat_interleave(repeats, -3)
    # A score that rounds the other way moves a weight by one step of 1/255.
    torch.testing.assert_close(applied(made, plan)(*inputs), wanted, rtol=0, atol=2 / 255 * float(v.abs().max()))


def test_attention_that_cannot_be_taken_apart_is_skipped():
    q = drawn(4, 6, 8)
    made = wired(lambda m, q, k: F.scaled_dot_product_attention(q, k, m.v), q, q, v=drawn(4, 6, 8))
    assert "one operand is stored" in reasons(planned(made, q, q))["scaled_dot_product_attention"]


@pytest.mark.parametrize("target", ["executorch", "tensorrt"])
def test_attention_stays_float_where_the_table_does_not_list_it(target):
    made, inputs = attention("plain")
    plan = planned(made, *inputs, target=target)
    assert not plan.actions
    table = load_target(target)
    assert reasons(plan) == {
        "scaled_dot_product_attention": (
            f"{table.title} has no integer kernel for scaled_dot_product_attention in this mode"
        )
    }


def test_parts_of_an_attention_are_not_taken_for_other_products():
    q = drawn(2, 4, 6, 8)
    made = wired(lambda m, q: torch.matmul(F.scaled_dot_product_attention(q, q, q), q.transpose(-1, -2)), q)
    module = applied(made, planned(made, q))
    again = trace(module, Batch((q,))).graph
    names = [node.name for node in again.nodes if node.op == "matmul"]
    assert len(names) == 3
    ran = dict(zip(names, ("int8", "int8", "float32"), strict=True))
    assert by_planned_name(module, again, ran) == {"scaled_dot_product_attention": "int8", "matmul": "float32"}
    mixed = dict(zip(names, ("int8", "float32", "int8"), strict=True))
    assert by_planned_name(module, again, mixed) == {"scaled_dot_product_attention": "unknown", "matmul": "int8"}


# Products of activations


def test_both_operands_of_a_product_are_rounded():
    a, b = drawn(2, 4, 5), drawn(2, 5, 3).relu()
    made = wired(lambda m, a, b: torch.matmul(a, b), a, b)
    plan = planned(made, a, b)
    assert [r.readers for r in plan.of(RoundActivation)] == [(("matmul", 0),), (("matmul", 1),)]
    assert [r.numbers.dtype for r in plan.of(RoundActivation)] == ["int8", "uint8"]
    left, right = (fake_quantize(x, r.numbers) for x, r in zip((a, b), plan.of(RoundActivation), strict=True))
    torch.testing.assert_close(applied(made, plan)(a, b), left @ right)


@pytest.mark.parametrize(
    ("wire", "shapes", "reason"),
    [
        (lambda m, x: torch.matmul(x, m.w), [(2, 4, 5)], "one operand is stored"),
        (lambda m, x, y: torch.matmul(x, y), [(2, 4, 5), (5,)], "one operand is a vector"),
        (lambda m, x, y: torch.einsum("bij,bjk->bik", x, y), [(2, 4, 5), (2, 5, 3)], "einsum stays in float"),
    ],
)
def test_other_products_say_why_they_stay_in_float(wire, shapes, reason):
    inputs = [drawn(*shape) for shape in shapes]
    made = wired(wire, *inputs, w=drawn(5, 3))
    plan = planned(made, *inputs)
    assert not plan.of(MultiplyActivations)
    assert any(reason in why for why in reasons(plan).values()), plan.skipped


def test_products_that_could_overflow_stay_in_float_with_signed_activations():
    a, b = drawn(2, 4, 5), drawn(2, 5, 3)
    made = wired(lambda m, a, b: torch.matmul(a, b), a, b)
    for target, kept in (("openvino", False), ("onnxruntime", True)):
        plan = planned(made, a, b, target=target, overflow_fix="on")
        assert bool(plan.of(MultiplyActivations)) == kept
        assert kept or "may overflow 16 bits" in reasons(plan)["matmul"]


def test_training_leaves_what_it_does_not_learn():
    x = drawn(2, 4, 6, 6)
    made = wired(
        lambda m, x: m.up(torch.matmul(m.conv(x), x)), x, conv=nn.Conv2d(4, 4, 1), up=nn.ConvTranspose2d(4, 2, 2)
    )
    plan = planned(made, x, training=QAT(epochs=1))
    assert [a.parameter for a in plan.of(StoreWeight)] == ["conv.weight"]
    assert set(reasons(plan).values()) == {"training with rounding does not learn it"}


# Transposed convolutions


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.ConvTranspose2d(6, 4, 3, stride=2), (2, 6, 5, 5), 1),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), (2, 6, 5, 5), 1),
        (nn.ConvTranspose2d(6, 12, 3, groups=6, output_padding=1, stride=2), (2, 6, 5, 5), 0),
        (nn.ConvTranspose1d(6, 4, 3, padding=1, bias=False), (2, 6, 9), 1),
    ],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_transposed_convolution_has_a_scale_for_each_output(layer, shape, axis, bits):
    x = drawn(*shape)
    made = trace(layer.eval(), Batch((x,)))
    plan = planned(made, x, weight_bits=bits, corrections=())
    (stored,) = plan.of(StoreWeight)
    (rounded,) = plan.of(RoundActivation)
    assert (stored.axis, stored.fit) == (axis, "nearest")
    module = applied(made, plan)
    steps = dict(module.named_buffers())["weight_int8"].movedim(axis, 0).flatten(1).abs().amax(1)
    assert int(steps.max()) == 2 ** (bits - 1) - 1
    scale = dict(module.named_buffers())["weight_scale"]
    assert scale.shape == (layer.weight.shape[axis],)
    if bits == 8:
        largest = layer.weight.detach().movedim(axis, 0).flatten(1).abs().amax(1)
        torch.testing.assert_close(scale, largest / 127)
    weight = dict(module.named_buffers())["weight_int8"].float().movedim(axis, -1) * scale
    wanted = torch.clone(layer.weight.detach())
    layer.weight.data.copy_(weight.movedim(-1, axis))
    torch.testing.assert_close(module(x), layer(fake_quantize(x, rounded.numbers)))
    assert float((layer.weight.detach() - wanted).abs().max()) > 0


def test_its_bias_is_on_the_accumulators_grid():
    x = drawn(2, 6, 5, 5)
    layer = nn.ConvTranspose2d(6, 4, 3).eval()
    made = trace(layer, Batch((x,)))
    plan = planned(made, x, target="executorch")
    (bias,) = plan.of(RoundBias)
    module = applied(made, plan)
    step = dict(module.named_buffers())["weight_scale"] * bias.scale
    held = dict(module.named_parameters())["bias"]
    torch.testing.assert_close(held / step, (held / step).round(), rtol=0, atol=1e-3)
    assert "weight" in {action.parameter for action in plan.of(StoreWeight)}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.ConvTranspose2d(6, 6, 3, groups=6), (2, 6, 5, 5)), (nn.ConvTranspose1d(6, 4, 3), (2, 6, 9))],
)
def test_transposed_convolutions_without_a_kernel_stay_in_float(layer, shape):
    x = drawn(*shape)
    made = trace(layer.eval(), Batch((x,)))
    plan = planned(made, x, target="executorch")
    assert not plan.actions
    assert "of images without groups only" in next(iter(reasons(plan).values()))
    assert planned(made, x).of(StoreWeight)


# Concatenations


def conv(inputs: int = 3, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize("target", ["executorch", "torch"])
def test_joined_values_are_on_one_grid_that_holds_them_all(target):
    x = drawn(2, 3, 6, 6)
    made = wired(lambda m, x: m.last(torch.cat([m.a(x).relu(), 3 * m.b(x), x], 1)), x, a=conv(), b=conv(), last=conv(9))
    plan = planned(made, x, target=target)
    joined = [a for a in plan.of(RoundActivation) if ("cat", 0) in a.readers]
    assert len(joined) == 3
    assert len({(a.numbers.scale, a.numbers.zero_point, a.numbers.dtype) for a in joined}) == 1
    seen = observe(made, [Batch((x,))], ["relu", "mul", "inputs_0"]).ranges.values()
    assert (joined[0].range.low, joined[0].range.high) == (min(r.low for r in seen), max(r.high for r in seen))
    output = [a for a in plan.of(RoundActivation) if a.value == "cat"]
    assert {a.numbers for a in output} <= {joined[0].numbers}


@pytest.mark.parametrize("target", ["executorch", "torch", "openvino"])
@pytest.mark.parametrize("apart", ["cat", "conv2d_2"])
def test_what_is_undecided_is_seen_so_that_a_concatenation_can_go_back_to_float(target, apart):
    x = drawn(2, 3, 6, 6)
    made = wired(
        lambda m, x: m.last(torch.cat([(y := m.a(x).relu()), m.b(y).relu()], 1)) + m.b(y).repeat(1, 3, 1, 1)[:, :3],
        x, a=conv(), b=conv(), last=conv(6),
    )  # fmt: skip
    quantize, table = Quantize(calibration="minmax", overflow_fix="off", max_drop=0.01), load_target(target)
    seen = observe(made, [Batch((x,))], quantize.watch(made.graph, table))
    found = Findings.of(seen, Corrected()).model_copy(update={"precisions": {apart: FLOAT}})
    plan = quantize.plan(made.graph, found, table)
    (alone,) = (a for a in plan.of(RoundActivation) if a.value == "relu")
    assert (alone.range.low, alone.range.high) == (seen.ranges["relu"].low, seen.ranges["relu"].high)
    assert plan.of(StoreWeight)


def test_negative_values_are_joined_in_float_where_their_zero_point_is_lost():
    x = drawn(2, 3, 6, 6)

    def wire(m, x):
        return m.c(torch.cat([m.a(x).relu(), m.b(x).relu()], 1)) + m.d(torch.cat([m.a(x), m.b(x)], 1))

    made = wired(wire, x, a=conv(), b=conv(), c=conv(6), d=conv(6))
    plan = planned(made, x, target="openvino")
    assert reasons(plan) == {"cat_1": NEGATIVE}
    assert {a.value: a.clip for a in plan.of(RoundActivation) if a.value.startswith("cat")} == {
        "cat": False,
        "cat_1": True,
    }
    joined = [a for a in plan.of(RoundActivation) if ("cat", 0) in a.readers]
    assert {a.numbers.dtype for a in joined} == {"uint8"}
    plain = plan.model_copy(
        update={
            "actions": tuple(
                a.model_copy(update={"clip": False}) if a.kind == "round-activation" else a for a in plan.actions
            )
        }
    )
    torch.testing.assert_close(applied(made, plan)(x), applied(made, plain)(x), rtol=0, atol=0)
    assert len([n for n in applied(made, plan).graph.nodes if "clamp" in str(n.target)]) == 1


def test_any_grids_are_joined_where_the_runtime_can():
    x = drawn(2, 3, 6, 6)
    made = wired(lambda m, x: m.last(torch.cat([m.a(x).relu(), m.b(x)], 1)), x, a=conv(), b=conv(), last=conv(6))
    plan = planned(made, x, target="onnxruntime")
    grids = {a.value: a.numbers for a in plan.of(RoundActivation)}
    # Its zero point at the end of the range is what lets the convolution absorb the ReLU.
    assert grids["relu"].zero_point == 0
    assert len({grids[name].scale for name in ("relu", "conv2d_1", "cat")}) > 1
    assert grids["cat"].zero_point > 0


def test_a_concatenation_that_only_float_operators_read_stays_in_float():
    x = drawn(2, 3, 6, 6)
    made = wired(lambda m, x: torch.cat([m.a(x), x], 1).softmax(1), x, a=conv())
    assert reasons(planned(made, x))["cat"] == "nothing that reads it computes in integers"
    made = wired(lambda m, x: m.b(F.max_pool2d(torch.cat([m.a(x), x], 1), 2)), x, a=conv(), b=conv(6))
    assert not reasons(planned(made, x))
    assert reasons(planned(made, x, exclude=("b",)))["cat"] == "nothing that reads it computes in integers"


def test_dense_blocks_are_one_family():
    x = drawn(2, 3, 6, 6)

    def wire(m, x):
        a = m.a(x)
        b = m.b(torch.cat([x, a], 1))
        return m.c(torch.cat([x, a, b], 1)) + m.c(torch.cat([a, b, 2 * a], 1))

    made = wired(wire, x, a=conv(), b=conv(6), c=conv(9))
    chosen = [n for n in made.graph.nodes if n.op in ("cat", "conv2d")]
    (family,) = families(made.graph, chosen, root_of)
    assert family == Family(
        frozenset({"inputs_0", "conv2d", "conv2d_1", "mul", "cat", "cat_1", "cat_2"}), ("cat_1", "cat_2")
    )
    plan = planned(made, x)
    grids = {a.numbers for a in plan.of(RoundActivation) if a.value in family.members}
    assert len(grids) == 1
    ranges = observe(made, [Batch((x,))], family.tops).ranges
    (grid,) = grids
    assert grid.high >= max(r.high for r in ranges.values()) - grid.scale
    assert grid.low <= min(r.low for r in ranges.values()) + grid.scale


def test_calibration_chooses_one_method_for_a_family():
    x = drawn(64, 3, 6, 6)
    made = wired(lambda m, x: m.last(torch.cat([m.a(x).relu(), m.b(x)], 1)), x, a=conv(), b=conv(), last=conv(6))
    quantize = Quantize(corrections=())
    task = Task(example_inputs=(x[:1],), calibration=[x])
    plan = quantize.plan(made.graph, quantize.study(made.module, made, task, TORCH), TORCH)
    joined = {(a.method, a.numbers) for a in plan.of(RoundActivation) if ("cat", 0) in a.readers}
    assert len(joined) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=4), st.integers(0, 2**16))
def test_no_joined_value_is_further_than_half_a_step(spreads, seed):
    inputs = [drawn(2, 2, 3, 3, seed=seed + i) * spread for i, spread in enumerate(spreads)]
    last = nn.Conv2d(2 * len(inputs), 1, 1).eval()
    made = wired(lambda m, *xs: (y := torch.cat(xs, 1), m.last(y)), *inputs, last=last)
    plan = planned(made, *inputs, target="executorch")
    (joined, _), (wanted, _) = applied(made, plan)(*inputs), made.module(*inputs)
    (step,) = {a.numbers.scale for a in plan.of(RoundActivation) if ("cat", 0) in a.readers}
    assert float((joined - wanted).abs().max()) <= step * 0.5001


# Sums


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8)])
def test_sums_that_a_normalization_over_features_reads_stay_in_float(norm: nn.Module):
    x, parts = drawn(2, 4, 8), {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 8)}

    def wire(m, x: Tensor) -> Tensor:
        first = m.a(x) + x.relu()  # read by the next sum, and so by the normalization
        second = first + m.b(first)
        return m.c(m.norm(second.transpose(0, 1))) + m.c(x).transpose(0, 1)

    plan = planned(wired(wire, x, norm=norm, **parts), x)
    told = {layer: why for layer, why in reasons(plan).items() if layer.startswith("add")}
    assert told == {"add": placement.NORMALIZED, "add_1": placement.NORMALIZED}
    assert "add_2" in {node for action in plan.of(RoundActivation) for node, _ in action.readers}


def test_one_large_feature_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch):
    """A residual stream with one feature a hundred times the rest, as those of transformers have."""
    large = torch.ones(8)
    large[3] = 100.0
    x = drawn(64, 4, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {"a": nn.Linear(8, 8), "norm": nn.LayerNorm(8), "head": nn.Linear(8, 4), "large": large}
    made = wired(lambda m, x: m.head(m.norm((m.a(x) + x) * m.large + x)), x, **parts)

    def lost() -> float:
        with torch.no_grad():
            wanted = made.module(x)
            return float((applied(made, planned(made, x))(x) - wanted).norm() / wanted.norm())

    spared = lost()
    monkeypatch.setattr(placement, "OVER_FEATURES", frozenset())
    assert spared < 0.05
    assert lost() > 1.5 * spared
