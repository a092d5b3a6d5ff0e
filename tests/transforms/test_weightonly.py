"""`Quantize(mode="weights")`: what is stored and refused, what data change, and that nothing harmful is kept."""

from __future__ import annotations

import pydantic
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import DataError, FailureError
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Work
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import Equalize, StoreGroups


class Mlp(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.side = nn.Linear(width, 96), nn.Linear(width, 96)
        self.down = nn.Linear(96, 10)

    def forward(self, x):
        y = self.norm(x)
        return self.down(F.gelu(self.up(y)) * self.side(y))


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.odd = nn.Embedding(40, 32), nn.Embedding(40, 33)
        self.turn = nn.ConvTranspose1d(65, 4, 3)

    def forward(self, tokens):
        return self.turn(torch.cat([self.words(tokens), self.odd(tokens)], -1).transpose(1, 2))


def loud(width: int = 64, examples: int = 96, seed: int = 0, at: int = 0) -> torch.Tensor:
    """Inputs of which three, from `at` on, are large."""
    x = torch.randn(examples, width, generator=torch.Generator().manual_seed(seed))
    x[:, at : at + 3] *= 20
    return x


def model_of(width: int = 64) -> nn.Module:
    torch.manual_seed(1)
    made = Mlp(width).eval()
    with torch.no_grad():
        made.norm.weight[:4] = 12.0
    return made


def worked(model, quantize, data, target="onnxruntime", example=None):
    example = loud()[:1] if example is None else example
    task = Task(example_inputs=(example,), calibration=data)
    found, notes = trace(model, task.example), {}
    work = Work(note=notes.__setitem__)
    place = load_target(target)
    plan = quantize.plan(found.graph, quantize.study(model, found, task, place, work), place)
    return plan, notes, lambda: quantize.apply(model, plan, found, task, work)


def error(model, made, x) -> float:
    with torch.no_grad():
        wanted = model(x)
        return float((made(x) - wanted).square().sum() / wanted.square().sum())


def test_without_data_weights_are_rounded_to_the_nearest_and_the_notes_say_so():
    plan, notes, build = worked(model_of(), Quantize(mode="weights", weight_bits=4), None)
    assert {action.fit for action in plan.of(StoreGroups)} == {"nearest"}
    assert notes == {"nearest": "weights are rounded to the nearest: there are too few calibration examples"}
    model = model_of()
    made = build()
    assert "rounding" not in notes
    steps = dict(made.named_buffers())
    down = steps["down.weight_steps"]
    assert down.dtype == torch.int8
    assert down.abs().max() == 7
    runs = F.pad(model.down.weight.detach(), (0, 32)).reshape(10, 2, 64)
    scale = steps["down.weight_scale"]
    restored = F.pad(down, (0, 32)).reshape(10, 2, 64) * scale[..., None]
    assert bool(((restored - runs).abs() <= scale[..., None] / 2)[down_inside(down)].all())


def down_inside(steps: torch.Tensor) -> torch.Tensor:
    """Weights that no end of the grid has clipped."""
    return F.pad(steps.abs() < 7, (0, 32), value=False).reshape(10, 2, 64)


def test_data_fit_the_weights_and_the_result_is_nearer_on_data_not_seen():
    model, data, fresh = model_of(), loud(examples=512), loud(seed=5)
    plain = worked(model, Quantize(mode="weights", weight_bits=4, corrections=()), [data])[2]()
    plan, notes, build = worked(model, Quantize(mode="weights", weight_bits=4), [data])
    made = build()
    tried = [*notes["corrections"], *notes["rounding"]]
    assert [trial["name"] for trial in tried] == ["awq", "gptq"]
    assert all(trial["accepted"] and trial["error_after"] < trial["error_before"] for trial in tried)
    assert [action.outputs for action in plan.of(Equalize)] == [("norm.weight", "norm.bias")]
    assert {action.fit for action in plan.of(StoreGroups)} == {"gptq"}
    assert error(model, made, fresh) < 0.6 * error(model, plain, fresh)


def test_what_does_not_hold_on_other_data_is_put_back():
    """Corrections see the first half of a batch and are judged on the second, where other inputs are large."""
    data = torch.cat([loud(examples=48), loud(examples=48, seed=1, at=20)])
    model = model_of()
    plan, notes, build = worked(model, Quantize(mode="weights", weight_bits=4), [data])
    made = build()
    plain = worked(model, Quantize(mode="weights", weight_bits=4, corrections=()), [data])[2]()
    tried = [*notes["corrections"], *notes["rounding"]]
    assert [(trial["name"], trial["accepted"]) for trial in tried] == [("awq", False), ("gptq", False)]
    assert not plan.of(Equalize)
    assert error(model, made, data) == error(model, plain, data)


def test_what_cannot_be_stored_is_skipped_with_the_reason():
    tokens = torch.randint(0, 40, (2, 5))
    plan, _, _ = worked(Tables().eval(), Quantize(mode="weights", precision={"*": 4}), None, example=tokens)
    assert [action.parameter for action in plan.of(StoreGroups)] == ["words.weight"]
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert "whole bytes" in reasons["odd/embedding_1"]
    assert "stays in float" in next(reason for layer, reason in reasons.items() if layer.startswith("turn"))


def test_tables_keep_eight_bits_unless_they_are_named():
    model, tokens = nn.Sequential(nn.Embedding(40, 32), nn.Linear(32, 64)).eval(), torch.randint(0, 40, (2, 5))
    for setting, bits in (
        (Quantize(mode="weights", weight_bits=4), {"0": 8, "1": 4}),
        (Quantize(mode="weights", precision={"*": 4}), {"0": 4, "1": 4}),
        (Quantize(mode="weights", precision={"*": 4, "0": 8}), {"0": 8, "1": 4}),
    ):
        plan, _, _ = worked(model, setting, None, example=tokens)
        assert {one.layer.partition("/")[0]: one.bits for one in plan.of(StoreGroups)} == bits


@pytest.mark.parametrize(
    ("target", "bits", "text"),
    [
        ("onnxruntime", 3, "holds weights of linear in 8 or 4 or 2 bits, not 3"),
        ("openvino", 2, "holds weights of linear in 8 or 4 bits, not 2"),
        ("torch", 4, "holds weights of linear in 8 bits, not 4"),
        ("executorch", 8, "restores no weights of linear while activations stay in float"),
    ],
)
def test_bits_that_the_file_has_no_form_for_are_refused(target, bits, text):
    plan, _, _ = worked(model_of(), Quantize(mode="weights", weight_bits=bits), None, target)
    assert not plan.actions
    assert all(text in skip.reason for skip in plan.skipped if skip.layer in ("up", "side", "down"))


def test_rows_that_are_no_whole_groups_are_left_to_targets_with_shorter_ones():
    x, model = loud(100), model_of(100)
    quantize = Quantize(mode="weights", weight_bits=4, group=32)
    here, _, _ = worked(model, quantize, None, "openvino", x[:1])
    there, _, _ = worked(model, quantize, None, "onnxruntime", x[:1])
    assert {action.layer for action in here.of(StoreGroups)} == {"down"}
    assert "no whole groups of 32" in next(skip.reason for skip in here.skipped if skip.layer == "up")
    assert {action.layer for action in there.of(StoreGroups)} == {"up", "side", "down"}


def test_a_weight_that_a_refused_layer_reads_too_stays_float():
    model = model_of()
    model.side.weight = model.up.weight
    plan, _, _ = worked(model, Quantize(mode="weights", exclude=("side",)), None)
    assert {action.layer for action in plan.of(StoreGroups)} == {"down"}
    assert "shared with side" in next(skip.reason for skip in plan.skipped if skip.layer == "up")


def test_a_broken_weight_is_named():
    model = model_of()
    with torch.no_grad():
        model.up.weight[0, 0] = float("nan")
    build = worked(model, Quantize(mode="weights"), None)[2]
    with pytest.raises(FailureError, match=r"The weight up\.weight cannot be quantized"):
        build()


def test_corrections_that_are_named_need_data():
    with pytest.raises(DataError, match="needs calibration data"):
        worked(model_of(), Quantize(mode="weights", corrections=("gptq",)), None)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"group": 32}, "group=32 is of mode='weights'"),
        ({"symmetric": False}, "symmetric=False is of mode='weights'"),
        ({"corrections": ("awq",)}, "'awq' scales inputs of stored weights"),
        ({"mode": "weights", "corrections": ("bias",)}, "'bias' is not of mode='weights'"),
        ({"mode": "weights", "activation_bits": 4}, "leaves activations in float"),
    ],
)
def test_settings_that_do_nothing_are_refused(fields, text):
    with pytest.raises(pydantic.ValidationError, match=text):
        Quantize(**fields)


def test_plans_and_recipes_come_back_from_json():
    plan, _, _ = worked(model_of(), Quantize(mode="weights", weight_bits=4, symmetric=False), None)
    assert Quantize().read_plan(plan.model_dump(mode="json")) == plan
    assert "group" not in Quantize().model_dump(mode="json")
    assert Quantize(mode="weights", group=None).model_dump(mode="json")["group"] is None
