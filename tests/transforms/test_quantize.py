"""Quantization: what is planned for each target, and that the simulation is what the plan says."""

from __future__ import annotations

import functools
import json

import pytest
import torch
import torch.nn.functional as F
from error_bound import error_bound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.errors import DataError, FailureError, RecipeError
from lissom.functional.affine import quantize_weight, weight_scales
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace, trace
from lissom.target import Target, known_targets, load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize, planned_precision
from lissom.transforms.quantization.placement import KINDS, candidates, label, root_of
from lissom.transforms.quantization.quantize import RoundActivation, RoundDynamically, StoreWeight
from small_models import MODELS, build, call, settled, traced

TARGETS = known_targets()


def planned(made: Trace, example: Batch, target: Target, quantize: Quantize | None = None) -> Plan:
    """Ranges of min-max unless said otherwise: error bounds hold where nothing is clipped."""
    quantize = quantize or Quantize(calibration="minmax")
    seen = observe(made, [example], quantize.watch(made.graph, target)) if quantize.mode == "static" else None
    return quantize.plan(made.graph, seen, target)


def applied(made: Trace, plan: Plan) -> nn.Module:
    return Quantize().apply(made.module, plan, made, Task(example_inputs=(torch.zeros(1),)))


def network(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts).eval()


class Wired(nn.Module):
    def __init__(self, wire, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.wire = wire
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor):
        return self.wire(self, *inputs)


def conv(inputs: int = 3, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def image() -> Batch:
    return Batch((torch.randn(3, 3, 6, 6),))


def wired(wire, example: Batch | None = None, **parts) -> tuple[Trace, Batch]:
    example = example or image()
    return trace(settled(Wired(wire, **parts)), example), example


# What a target's table asks for


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_plan_obeys_the_table(name, target):
    _, example, made = traced(name)
    table = load_target(target).integers
    plan = planned(made, example, load_target(target))
    for action in plan.of(RoundActivation):
        never_negative = action.range.low >= 0
        largest, whole = max(-action.range.low, action.range.high), action.range.high - action.range.low
        kinds = {
            KINDS.get(made.graph.by_name[node].op) if node in made.graph.by_name else "" for node, _ in action.readers
        }
        shifted = not never_negative and kinds <= set(table.shifts) and largest >= 0.75 * whole
        assert action.numbers.dtype == (table.nonnegative if never_negative or shifted else table.signed)
        low, high = action.numbers.limits
        assert low <= action.numbers.zero_point <= high
        if table.symmetric and not never_negative and not shifted:
            assert action.numbers.zero_point == (0 if table.signed == "int8" else 128)
        if never_negative and table.nonnegative == "uint8":
            assert action.numbers.zero_point == 0
        step = action.numbers.scale
        assert action.numbers.low - step / 2 <= min(action.range.low, 0.0)
        assert action.numbers.high + step / 2 >= action.range.high * (1 - 1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_integer_layers_have_integer_inputs_and_outputs(name, target):
    """Read back from the rewritten graph, not from the plan."""
    _, example, made = traced(name)
    table = load_target(target).integers
    plan = planned(made, example, load_target(target))
    nodes = {n.name: n for n in applied(made, plan).graph.nodes}
    skipped = {skip.layer for skip in plan.skipped}
    stored = {action.parameter for action in plan.of(StoreWeight)}
    products = 0
    for node in made.graph.nodes:
        kind = KINDS.get(node.op)
        if kind is None or kind not in table.ops or label(node) in skipped or node.dtype != "float32":
            continue
        written = nodes[node.name]
        if kind in ("conv", "linear"):
            products += 1
            assert "dequantize_per_channel" in str(written.args[1].target)
            assert node.parameter(1) in stored
            assert written.args[1].args[1].op == "get_attr"
        if not (kind == "add" and table.absorbs_add):
            for source in [a for a in written.args[: 2 if kind == "add" else 1] if hasattr(a, "op")]:
                if not table.at_source:
                    assert "dequantize_per_tensor" in str(source.target), (node.name, source)
        if kind in table.needs_output:
            end = written
            while len(end.users) == 1 and _is_fused(next(iter(end.users)), table.fused):
                end = next(iter(end.users))
            assert all("quantize_per_tensor" in str(user.target) for user in end.users), node.name
    assert products == len([a for a in plan.actions if isinstance(a, StoreWeight)]) or name == "shared"


def _is_fused(node, fused) -> bool:
    op = str(node.target).split(".")[1] if "aten." in str(node.target) else ""
    return op in fused or (op == "hardtanh" and "relu6" in fused)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_in_the_plan_or_skipped(name, target, mode):
    _, example, made = traced(name)
    plan = planned(made, example, load_target(target), Quantize(mode=mode, calibration="minmax"))
    done = {action.node for action in plan.of(RoundDynamically)}
    done |= {reader for action in plan.of(RoundActivation) for reader, _ in action.readers}
    skipped = {skip.layer for skip in plan.skipped}
    assert all(skip.reason for skip in plan.skipped)
    stored = {action.parameter for action in plan.of(StoreWeight)}
    layers = {layer.node for layer in made.graph.layers}
    ops = load_target(target).integers.ops if mode == "static" else load_target(target).dynamic.ops
    for node in candidates(made.graph):
        kind = KINDS.get(node.op)
        if label(node) in skipped:
            assert node.parameter(1) not in stored, node.name
        elif kind in ("conv", "linear"):
            assert node.parameter(1) in stored, node.name
        else:
            moved = any(root_of(made.graph, value) != value for value in node.values)
            assert node.name in done or moved or (node.name not in layers and kind not in ops), node.name


def test_dynamic_quantizes_linear_layers_only():
    made, example = wired(lambda m, x: m.fc(m.conv(x).flatten(1)), conv=conv(), fc=nn.Linear(3 * 36, 4))
    for target in TARGETS:
        table = load_target(target)
        plan = planned(made, example, table, Quantize(mode="dynamic"))
        wanted = ["fc"] if "linear" in table.dynamic.ops else []
        assert [a.layer for a in plan.of(RoundDynamically)] == wanted
        assert [a.parameter for a in plan.of(StoreWeight)] == [f"{name}.weight" for name in wanted]
        assert f"{table.title} has no integer kernel for conv2d in this mode" in [s.reason for s in plan.skipped]
        assert Quantize(mode="dynamic").needs() == frozenset()
        assert Quantize(mode="dynamic").watch(made.graph, table) == ()


def test_dynamic_rounding_is_what_the_table_says():
    torch.manual_seed(0)
    model, x = nn.Linear(70, 5, bias=False), torch.randn(4, 70)
    made = trace(model, Batch((x,)))
    weight = model.weight.detach()
    scales = weight_scales(weight, 0)
    restored = quantize_weight(weight, scales, 0).float() * scales[:, None]

    plain = Quantize(mode="dynamic", overflow_fix="off")  # scales are widened where the processor needs it
    grouped = applied(made, planned(made, Batch((x,)), load_target("openvino"), plain))
    pieces = [x[:, i : i + 32] for i in range(0, 70, 32)]
    steps = [piece.abs().amax(1, keepdim=True) / 127 for piece in pieces]
    wanted = torch.cat([(p / s).round() * s for p, s in zip(pieces, steps, strict=True)], 1) @ restored.T
    torch.testing.assert_close(grouped(x), wanted)

    whole = applied(made, planned(made, Batch((x,)), load_target("onnxruntime"), plain))
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255
    error = (whole(x) - x @ restored.T).abs()
    allowed = step / 2 * (1 + 1e-4) * restored.abs().sum(1)
    assert bool((error <= allowed).all())
    assert float(error.max()) > 0


# Where quantizers go


def test_a_residual_addition_shares_the_scale_of_its_root():
    made, example = wired(
        lambda m, x: m.last((y := torch.relu(m.first(x))) + m.inner(y)), first=conv(), inner=conv(), last=conv()
    )
    for target in TARGETS:
        grids = {}
        for action in planned(made, example, load_target(target)).of(RoundActivation):
            grids.setdefault(root_of(made.graph, action.value), set()).add(
                (action.numbers.scale, action.numbers.zero_point)
            )
        assert "relu" in grids
        assert all(len(found) == 1 for found in grids.values())


@pytest.mark.parametrize("target", TARGETS)
def test_moved_values_keep_the_grid_of_their_root(target):
    made, example = wired(
        lambda m, x: m.fc(F.max_pool2d(torch.relu(m.first(x)), 2).flatten(1)), first=conv(), fc=nn.Linear(27, 4)
    )
    actions = planned(made, example, load_target(target)).of(RoundActivation)
    grids = {a.numbers.scale for a in actions if root_of(made.graph, a.value) == "relu"}
    assert len(grids) == 1


def test_padding_with_a_value_has_its_own_range():
    made, example = wired(lambda m, x: m.conv(F.pad(torch.sigmoid(x) * 0.1, (1, 1, 1, 1), value=1.0)), conv=conv())
    for target in TARGETS:
        (action,) = [a for a in planned(made, example, load_target(target)).of(RoundActivation) if a.value != "conv2d"]
        assert action.numbers.high >= 1.0 - action.numbers.scale


def test_padding_with_zero_or_infinity_is_a_move():
    for value in (0.0, float("-inf")):
        made, example = wired(
            lambda m, x, value=value: m.last(F.max_pool2d(F.pad(torch.relu(m.first(x)), (0, 1, 0, 1), value=value), 2)),
            first=conv(),
            last=conv(),
        )
        for target in TARGETS:
            plan = planned(made, example, load_target(target))
            rounded = applied(made, plan)
            for wanted, got, bound in zip(
                call(made.module, example),
                call(rounded, example),
                error_bound_or_none(made, plan, example),
                strict=True,
            ):
                assert bool(got.isfinite().all())
                assert bound is None or bool(((wanted - got).abs() <= bound).all())


def error_bound_or_none(made: Trace, plan: Plan, example: Batch) -> list[Tensor | None]:
    pads = [n for n in made.module.graph.nodes if "aten.pad" in str(n.target)]
    if any(n.args[-1] == float("-inf") for n in pads):
        return [None] * len(made.graph.outputs)
    return list(error_bound(made, plan, example))


def test_results_picked_from_several_have_their_own_range():
    for wire, parts in (
        (lambda m, x: m.fc(m.cell(x)[0]), {"cell": nn.LSTM(6, 4, batch_first=True), "fc": nn.Linear(4, 2)}),
        (lambda m, x: m.fc(torch.topk(x, 3)[0]), {"fc": nn.Linear(3, 2)}),
    ):
        made, example = wired(wire, Batch((torch.randn(3, 5, 6),)), **parts)
        for target in TARGETS:
            actions = planned(made, example, load_target(target)).of(RoundActivation)
            assert "getitem" in {action.value for action in actions}


def test_a_value_added_to_itself():
    made, example = wired(lambda m, x: m.last((y := torch.relu(m.first(x))) + y), first=conv(), last=conv())
    for target in TARGETS:
        plan = planned(made, example, load_target(target))
        assert not plan.skipped
        (both,) = [a for a in plan.of(RoundActivation) if a.value == "relu"]
        assert {("add", 0), ("add", 1)} <= set(both.readers)


def test_a_sum_of_one_product_with_itself_absorbs_nothing():
    made, example = wired(lambda m, x: m.last((y := m.first(x)) + y), first=conv(), last=conv())
    plan = planned(made, example, load_target("openvino"))
    (both,) = [a for a in plan.of(RoundActivation) if a.value == "conv2d"]
    assert {("add", 0), ("add", 1)} <= set(both.readers)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (lambda m, x: m.last(m.first(x) + 1.5), "one operand is a number"),
        (lambda m, x: m.last(m.first(x) + m.shift), "one operand is stored (shift)"),
        (lambda m, x: m.last(x + x), "both operands are inputs of the model"),
        (lambda m, x: m.last(m.first(x) + m.first(x).mean((2, 3), keepdim=True)), "different shapes (broadcast)"),
        (lambda m, x: m.last(m.first(x) + x[:, :1]), "different shapes (broadcast)"),
        (lambda m, x: m.last(torch.add(m.first(x), x, alpha=2)), "it multiplies an operand by 2"),
        (lambda m, x: m.last(m.first(x) + x.argmax(1, keepdim=True).expand(-1, 3, -1, -1)), "different types"),
    ],
)
def test_additions_without_an_integer_form_are_skipped(wire, reason):
    made, example = wired(wire, first=conv(), last=conv(), shift=nn.Parameter(torch.ones(3, 1, 1)))
    plan = planned(made, example, load_target("torch"))
    assert any(reason in skip.reason for skip in plan.skipped), plan.skipped
    call(applied(made, plan), example)


def test_a_broadcast_model_input_is_noticed():
    made, example = wired(
        lambda m, x, y: m.last(m.first(x) + y),
        Batch((torch.randn(3, 3, 6, 6), torch.randn(3, 1, 1, 6))),
        first=conv(),
        last=conv(),
    )
    plan = planned(made, example, load_target("torch"))
    assert [s.reason for s in plan.skipped] == ["its two inputs have different shapes (broadcast)"]


def test_in_place_addition_is_an_addition():
    def wire(m, x):
        y = m.first(x)
        y += m.other(x)
        return m.last(y.relu_())

    made, example = wired(wire, first=conv(), other=conv(), last=conv())
    plan = planned(made, example, load_target("torch"))
    assert not plan.skipped
    assert {reader for a in plan.of(RoundActivation) for reader, _ in a.readers} >= {"add_"}


def test_a_quantized_value_that_is_an_output_too():
    made, example = wired(lambda m, x: {"a": (y := m.first(x)), "b": [m.last(y)]}, first=conv(), last=conv())
    for target in TARGETS:
        table = load_target(target)
        plan = planned(made, example, table)
        outputs = call(applied(made, plan), example)
        grid = next(a.numbers for a in plan.of(RoundActivation) if a.value == "conv2d")
        steps = outputs[0] / grid.scale
        on_grid = float((steps - steps.round()).abs().max()) < 1e-3
        assert on_grid == ("conv" in table.integers.needs_output)


# Weights


def test_weights_on_the_root_without_bias_and_called_twice():
    def wire(m, x):
        return F.linear(m.conv(m.conv(x)).mean((2, 3)), m.weight)

    made, example = wired(wire, conv=conv(), weight=nn.Parameter(torch.randn(5, 3)))
    plan = planned(made, example, load_target("torch"))
    assert [a.parameter for a in plan.of(StoreWeight)] == ["conv.weight", "weight"]
    rounded = applied(made, plan)
    names = dict(rounded.named_parameters())
    assert set(names) == {"conv.bias"}
    assert {"conv.weight_int8", "weight_int8"} <= set(dict(rounded.named_buffers()))


@pytest.mark.parametrize("target", TARGETS)
def test_a_weight_that_a_float_layer_reads_stays_float(target):
    _, example, made = traced("tied")
    plan = planned(made, example, load_target(target))
    assert "inner.weight" in [a.parameter for a in plan.of(StoreWeight)]
    reasons = {s.layer: s.reason for s in plan.skipped}
    assert reasons["head"] == "its weight is shared with embedding/embedding, which stays in float"


def test_an_excluded_reader_keeps_its_shared_weight():
    left, right = nn.Linear(4, 4), nn.Linear(4, 4)
    right.weight = left.weight
    made, example = wired(
        lambda m, x: m.right(torch.relu(m.left(x))), Batch((torch.randn(3, 4),)), left=left, right=right
    )
    both = planned(made, example, load_target("torch"))
    assert len(both.of(StoreWeight)) == 1
    assert not dict(applied(made, both).named_parameters()).keys() & {"left.weight", "right.weight"}
    one = planned(made, example, load_target("torch"), Quantize(calibration="minmax", exclude=("right",)))
    assert not one.of(StoreWeight)
    assert {s.layer: s.reason for s in one.skipped} == {
        "left": "its weight is shared with right, which stays in float",
        "right": "excluded by the recipe",
    }


def test_planned_precision_names_the_products():
    _, example, made = traced("residual")
    plan = planned(made, example, load_target("onnxruntime"), Quantize(calibration="minmax", exclude=("body.0",)))
    # The excluded convolution reads a rounded value and stays in float all the same.
    assert planned_precision(plan) == {"conv2d": "int8", "linear": "int8"}
    dynamic = planned(made, example, load_target("onnxruntime"), Quantize(mode="dynamic"))
    assert planned_precision(dynamic) == {"linear": "int8 dynamic"}


def test_predicted_size_counts_one_byte_a_weight():
    _, example, made = traced("residual")
    plan = planned(made, example, load_target("torch"))
    stored = [made.graph.tensor_by_name[a.parameter] for a in plan.of(StoreWeight)]
    rounded = applied(made, plan)
    state = {**dict(rounded.named_parameters()), **dict(rounded.named_buffers())}
    size = sum(t.numel() * t.element_size() for n, t in state.items() if not n.endswith("_zero_point"))
    assert plan.predicted.bytes == size
    assert plan.predicted.bytes == made.graph.bytes - sum(t.bytes * 3 // 4 - 4 * t.shape[0] for t in stored)
    assert (plan.predicted.macs, plan.predicted.parameters) == (made.graph.macs, made.graph.parameters)


def test_broken_weights_are_explained():
    model = nn.Linear(3, 2)
    made = trace(model, Batch((torch.ones(2, 3),)))
    plan = planned(made, Batch((torch.ones(2, 3),)), load_target("torch"))
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(FailureError, match=r"The weight weight cannot be quantized: the weight holds NaN or infinite"):
        applied(made, plan)


# Asking for it


def test_exclude_takes_layers_nodes_and_labels():
    _, example, made = traced("residual")
    target = load_target("torch")
    everything = planned(made, example, target)
    assert [s.layer for s in everything.skipped] == ["stem.1/batch_norm", "body.1/batch_norm_1"]
    for pattern, gone in (
        ("stem.0", "stem.0"),
        ("body.*", "body.0"),
        ("add", "add"),
        ("pool/*", "pool/adaptive_avg_pool2d"),
    ):
        plan = planned(made, example, target, Quantize(calibration="minmax", exclude=(pattern,)))
        reasons = {s.layer: s.reason for s in plan.skipped}
        assert reasons[gone] == "excluded by the recipe"
        assert gone not in [a.layer for a in plan.of(StoreWeight)]


def test_exclude_that_matches_nothing_raises():
    _, example, made = traced("residual")
    with pytest.raises(RecipeError) as wrong:
        planned(made, example, load_target("torch"), Quantize(calibration="minmax", exclude=("steam.0",)))
    assert str(wrong.value).startswith(
        "Quantize(exclude=...): the pattern 'steam.0' matches no layer. Did you mean 'stem.0'"
    )


def test_static_without_data_is_explained():
    made = traced("mlp")[2]
    with pytest.raises(DataError) as wrong:
        Quantize().plan(made.graph, None, load_target("torch"))
    assert str(wrong.value) == (
        "Quantize(mode='static') needs calibration data: give Task(calibration=...) or Task(train=...), or use "
        "Quantize(mode='dynamic'), which needs none."
    )
    with pytest.raises(DataError, match="The calibration data gave no values at 'x'"):
        Quantize().plan(made.graph, Statistics(ranges={}, examples=0), load_target("torch"))


def test_wrong_settings_are_refused():
    for wrong in ({"mode": "weight"}, {"samples": 0}, {"bits": 4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Quantize(**wrong)


def test_plan_is_json_and_is_read_back():
    for mode in ("static", "dynamic"):
        _, example, made = traced("residual")
        plan = planned(made, example, load_target("openvino"), Quantize(mode=mode, calibration="minmax"))
        again = Quantize().read_plan(json.loads(plan.model_dump_json()))
        assert again == plan
        assert [type(a) for a in again.actions] == [type(a) for a in plan.actions]
    with pytest.raises(KeyError):
        Quantize().read_plan({**plan.model_dump(mode="json"), "actions": [{"kind": "fold-norm", "layer": "x"}]})


# Accuracy of the simulation


@functools.cache
def folded(name: str) -> tuple[Trace, Batch]:
    model, example, made = traced(name)
    plan = Fold().plan(made.graph, None, load_target("torch"))
    return trace(Fold().apply(model, plan, made, Task(example_inputs=example.args)), example), example


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["residual", "mobile", "mlp"])
def test_error_stays_below_the_bound_that_the_plan_implies(name, target):
    made, example = folded(name)
    plan = planned(made, example, load_target(target))
    bounds = error_bound(made, plan, example)
    for wanted, got, bound in zip(call(made.module, example), call(applied(made, plan), example), bounds, strict=True):
        gap = (wanted - got).abs()
        assert bool((gap <= bound).all())
        assert float(gap.max()) > 0
        # Not vacuous: the worst case over all signs is within an order of magnitude or two of what happens.
        assert float(bound.max()) < 200 * float(gap.max())


def test_the_bound_notices_a_wrong_scale():
    _model, example = build("mlp")
    made = trace(settled(network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), example)
    plan = planned(made, example, load_target("torch"))
    bound = error_bound(made, plan, example)[0]
    data = json.loads(plan.model_dump_json())
    first = next(a for a in data["actions"] if a["kind"] == "round-activation")
    first["numbers"]["scale"] *= 0.25
    wrong = Quantize().read_plan(data)
    gap = (call(made.module, example)[0] - call(applied(made, wrong), example)[0]).abs()
    assert bool((gap > bound).any())


steps = st.lists(
    st.sampled_from(["conv", "relu", "residual", "concat", "pool", "double", "norm"]), min_size=1, max_size=5
)


class Drawn(nn.Module):
    """A network of the drawn steps over images of four channels, with a linear classifier."""

    def __init__(self, drawn: list[str]) -> None:
        super().__init__()
        self.drawn = drawn
        self.parts = nn.ModuleList()
        for step in drawn:
            if step == "concat":
                self.parts.append(nn.Conv2d(8, 4, 1))
            elif step == "norm":
                self.parts.append(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)))
            else:
                self.parts.append(nn.Conv2d(4, 4, 3, padding=1))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for step, part in zip(self.drawn, self.parts, strict=True):
            if step in ("conv", "norm"):
                x = part(x)
            elif step == "relu":
                x = torch.relu(part(x))
            elif step == "residual":
                x = torch.relu(x + part(x))
            elif step == "concat":
                x = part(torch.cat([x, x.relu()], 1))
            elif step == "pool":
                x = F.max_pool2d(x, 3, stride=1, padding=1)
            else:
                x = x + x
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.integers(0, 2**16), st.sampled_from(TARGETS))
def test_random_networks_stay_within_their_bound(drawn, seed, target):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, example = settled(Drawn(drawn)), Batch((torch.randn(2, 4, 5, 5),))
    table = load_target(target)
    made = trace(model, example)
    after = Fold().apply(model, Fold().plan(made.graph, None, table), made, Task(example_inputs=example.args))
    (wanted,) = call(model, example)
    (kept,) = call(after, example)
    assert kept.shape == wanted.shape
    torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    made = trace(after, example)
    plan = planned(made, example, table)
    (got,) = call(applied(made, plan), example)
    assert got.shape == wanted.shape
    assert bool(((got - kept).abs() <= error_bound(made, plan, example)[0]).all())
