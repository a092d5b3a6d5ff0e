"""`Quantize(mode="weights")` with bits for each layer: by rules, under a bound on the metric, by search."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom import metrics
from lissom.errors import RecipeError
from lissom.functional.weightgrid import low_bit_grid
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.quantization import PrecisionTable, Quantize, stored_as
from lissom.transforms.quantization.actions import HalveWeight, StoreGroups
from lissom.transforms.quantization.searching import TABLE

WIDTH = 64
RULES = {"*": 4, "first": 8, "third": 16, "head": 2}


class Wide(nn.Module):
    """Four linear layers; what `second` does matters most."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.third, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(x + 0.02 * torch.tanh(self.third(x)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, WIDTH), nn.Linear(WIDTH, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def wide() -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    model = Wide().eval()
    with torch.no_grad():
        model.second.weight.mul_(6)
        x = torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(1))
        y = model(x).argmax(-1)
    task = Task(example_inputs=(x[:1],), calibration=[x[:64]], validation=[(x, y)], metric=metrics.accuracy)
    return model, task


def worked(
    quantize: Quantize, model: nn.Module, task: Task, target: str = "onnxruntime"
) -> tuple[Plan, nn.Module, dict[str, object]]:
    made, table, notes = trace(model, task.example), load_target(target), {}
    lent = Work(note=notes.__setitem__)
    study = quantize.study(model, made, task, table, lent)
    plan = quantize.plan(made.graph, study, table)
    if study is not None:
        again = type(study).model_validate_json(study.model_dump_json())
        assert quantize.plan(made.graph, again, table) == plan
    return plan, quantize.apply(model, plan, made, task, lent), notes


def bits_of(plan: Plan) -> dict[str, int]:
    stored = {action.layer: action.bits for action in plan.of(StoreGroups)}
    return {**stored, **{action.layer: 16 for action in plan.of(HalveWeight)}}


def test_every_layer_is_stored_in_the_bits_of_its_rule():
    model, task = wide()
    plan, made, _ = worked(Quantize(mode="weights", precision=RULES, corrections=()), model, task)
    assert bits_of(plan) == {"first": 8, "second": 4, "third": 16, "head": 2}
    assert set(stored_as(plan).values()) == {"int8", "int4", "float16", "int2"}

    def rounded(layer: nn.Linear, bits: int) -> Tensor:
        weight = layer.weight.detach()
        return weight.half().float() if bits == 16 else low_bit_grid(weight, bits).rounded(weight)

    reference = Wide().eval()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, bits in bits_of(plan).items():
            getattr(reference, name).weight.copy_(rounded(getattr(model, name), bits))
        x = task.example.args[0]
        torch.testing.assert_close(made(x), reference(x), rtol=1e-5, atol=1e-6)
    rows, runs = WIDTH * WIDTH, WIDTH
    expected = (rows + 4 * runs) + (rows // 2 + 4 * runs) + 2 * rows + (8 * WIDTH // 4 + 4 * 8) + 4 * (3 * WIDTH + 8)
    assert plan.predicted.bytes == expected


def test_only_layers_of_few_bits_are_fitted_to_data():
    model, task = wide()
    plan, _, notes = worked(Quantize(mode="weights", precision=RULES), model, task)
    fits = {action.layer: action.fit for action in plan.of(StoreGroups)}
    assert fits == {"first": "nearest", "second": "gptq", "head": "gptq"}
    assert [one["name"] for one in notes["rounding"]] == ["gptq"]


def test_bits_that_a_target_lacks_leave_that_layer_alone():
    model, task = wide()
    rules = {"*": 4, "first": 3, "head": 2}
    plan, _, _ = worked(Quantize(mode="weights", precision=rules, corrections=()), model, task, "openvino")
    assert bits_of(plan) == {"second": 4, "third": 4}
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert "8 or 4 bits, not 3" in reasons["first"]
    assert "8 or 4 bits, not 2" in reasons["head"]


def test_a_shared_weight_has_the_most_bits_that_a_reader_asks_for():
    tokens = torch.randint(0, 40, (2, 5))
    setting = Quantize(mode="weights", precision={"*embed*": 8, "*head*": 4})
    plan, _, _ = worked(setting, Tied().eval(), Task(example_inputs=(tokens,)))
    (action,) = plan.of(StoreGroups)
    assert (action.bits, len(action.nodes)) == (8, 2)


@pytest.mark.parametrize(("target", "offered"), [("onnxruntime", {32, 16, 8, 4, 2}), ("openvino", {32, 16, 8, 4})])
def test_the_search_takes_the_least_error_of_all_choices(target, offered):
    model, task = wide()
    wish = 5.0
    plan, _, notes = worked(Quantize(mode="weights", precision="auto", size_ratio=wish), model, task, target)
    table = PrecisionTable.model_validate(notes[TABLE])
    assert {option.bits for line in table.layers for option in line.options} == offered
    best = min(
        (sum(option.error for option in choice), tuple(option.bits for option in choice))
        for choice in itertools.product(*(line.options for line in table.layers))
        if table.bytes_fixed + sum(option.bytes for option in choice) <= table.bytes / wish
    )
    found = bits_of(plan)
    assert tuple(found.get(line.layer, 32) for line in table.layers) == best[1]
    assert table.bytes / plan.predicted.bytes >= wish


def test_the_search_keeps_to_a_bound_on_the_metric():
    model, task = wide()
    setting = Quantize(mode="weights", precision="auto", max_drop=0.04)
    plan, made, notes = worked(setting, model, task)
    judged = PrecisionTable.model_validate(notes[TABLE]).judged
    (own,) = {one.drop for one in judged if one.bytes == plan.predicted.bytes}
    assert own == pytest.approx(drop(model, made, task), abs=0.01)
    assert min(one.bytes for one in judged if one.limit <= 0.04) == plan.predicted.bytes
    assert plan.predicted.bytes < worked(Quantize(mode="weights"), model, task)[0].predicted.bytes


def drop(model: nn.Module, made: nn.Module, task: Task) -> float:
    (batch,) = task.batches("validation")
    with torch.no_grad():
        return float((model(batch.args[0]).argmax(-1) != made(batch.args[0]).argmax(-1)).float().mean())


def test_under_a_bound_layers_are_raised_by_what_they_lose():
    model, task = wide()
    setting = Quantize(mode="weights", weight_bits=2, max_drop=0.1, corrections=())
    plan, made, notes = worked(setting, model, task)
    assert notes["guard"]["tried"][0]["limit"] > 0.1
    raised = [(one["layer"], one["bits"]) for one in notes["guard"]["raised"]]
    assert raised[0][1] == 4
    assert bits_of(plan) == {**dict.fromkeys(("first", "second", "third", "head"), 2), **dict(raised)}
    assert drop(model, made, task) <= 0.1
    assert bits_of(plan)["third"] == 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"precision": "auto", "latency_ratio": 2.0}, "use size_ratio or max_drop"),
        ({"activation_bits": 4}, "leave activation_bits and training out"),
        ({"precision": {"*": 4}, "weight_bits": 2}, "is for all layers, and precision says it layer by layer"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        Quantize(mode="weights", **wrong)


def test_a_rule_that_matches_nothing_is_refused():
    model, task = wide()
    with pytest.raises(RecipeError, match="seventh"):
        worked(Quantize(mode="weights", precision={"seventh": 4}), model, task)


def test_few_bits_by_rule_in_static_mode_are_steps_of_the_weight():
    model, task = wide()
    setting = Quantize(precision={"second": 3, "third": 2}, calibration="minmax", corrections=())
    plan, made, _ = worked(setting, model, task)
    assert set(stored_as(plan).values()) == {"int8", "int4, 3-bit steps", "int4, 2-bit steps"}
    steps = dict(made.named_buffers())
    assert int(steps["second.weight_int8"].unique().numel()) <= 7
    assert int(steps["third.weight_int8"].unique().numel()) <= 3
    assert F.mse_loss(made(task.example.args[0]), model(task.example.args[0])) > 0
