"""Corrections of quantization: found on one half of the data, judged on the other, held by the plan or fitted."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.functional.affine import round_bias
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task, sliced
from lissom.transforms.base import Work
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import Equalize, RoundActivation, RoundBias, ShiftBias, StoreWeight
from lissom.transforms.quantization.corrections import (
    WORTHWHILE,
    Bench,
    Findings,
    Halves,
    corrected,
    equalized,
    first_outputs,
    halved,
    relative_error,
)
from lissom.transforms.quantization.equalizing import find_pairs
from small_models import settled

TARGET = load_target("openvino")


class Net(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


def network(spread: float = 0.0) -> nn.Module:
    """`spread` scales the channels of the first layer up and the weights that read them down: the same function."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = settled(Net())
        scales = torch.exp(spread * torch.randn(12))
        with torch.no_grad():
            net.first.weight.mul_(scales[:, None])
            net.first.bias.mul_(scales)
            net.second.weight.div_(scales)
        return net


def rows(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, generator=generator) @ torch.randn(2, 6, generator=generator) + 0.1 * torch.randn(
        count, 6, generator=generator
    )


def quantized(quantize: Quantize, net: nn.Module, data, target=TARGET):
    task = Task(example_inputs=(data[0][:1],), calibration=data)
    made = trace(net, task.example)
    notes: dict = {}
    work = Work(note=notes.__setitem__)
    found = quantize.study(net, made, task, target, work)
    plan = quantize.plan(made.graph, found, target)
    return made, task, plan, quantize.apply(net, plan, made, task, work), notes


def held_out(made: Trace, module: nn.Module, data) -> float:
    """Error on the second half of every batch, in numpy terms."""
    with torch.no_grad():
        wanted = torch.cat([made.module(x[len(x) // 2 :]) for x in data])
        got = torch.cat([module(x[len(x) // 2 :]) for x in data])
    return float(((wanted - got) ** 2).sum() / (wanted**2).sum())


# Halves and errors


def test_every_batch_is_cut_in_two_and_single_examples_take_turns():
    made = trace(network(), Batch((rows(2),)))
    batches = [Batch((rows(5),)), Batch((rows(1, 1),)), Batch((rows(1, 2),)), Batch((rows(4, 3),))]
    found = halved(made.module, made.graph, batches, 100)
    assert [b.size for b in found.fit] == [2, 1, 2]
    assert [b.size for b in found.judge] == [3, 1, 2]
    assert torch.equal(torch.cat([found.fit[0].args[0], found.judge[0].args[0]]), batches[0].args[0])
    assert found.examples == 11


def test_no_more_examples_than_wanted_or_than_fit_in_memory(monkeypatch):
    made = trace(network(), Batch((rows(2),)))
    assert halved(made.module, made.graph, [Batch((rows(400),))], 256).examples == 256
    monkeypatch.setattr("lissom.transforms.quantization.corrections.MEMORY", 1)
    assert halved(made.module, made.graph, [Batch((rows(400),))], 256).examples == 2


def test_relative_error_and_first_outputs():
    assert relative_error([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])]) == pytest.approx(1 / 25)

    class Two(nn.Module):
        def forward(self, x):
            return {"ids": x.argmax(1), "scores": x * 2, "more": x}

    x = rows(3)
    (found,) = first_outputs(Two(), [Batch((x,))])
    assert torch.equal(found, x * 2)


# Bias and equalization, which the plan holds


def test_accepted_corrections_lower_the_error_on_the_examples_that_they_were_not_fitted_on():
    data = [rows(64), rows(64, 1)]
    net = network(spread=2.0)
    made, _, plain, rounded, notes = quantized(Quantize(calibration="minmax", corrections=()), net, data)
    assert notes == {}
    assert {type(action) for action in plain.actions} == {RoundActivation, StoreWeight}
    again, _, plan, module, notes = quantized(Quantize(calibration="minmax"), net, data)
    tried = {trial["name"]: trial for trial in notes["corrections"]}
    assert list(tried) == ["equalize", "smooth", "bias"]
    assert any(trial["accepted"] for trial in tried.values())
    for trial in tried.values():
        share = 1.0 if trial["name"] == "bias" or trial["accepted"] else WORTHWHILE
        assert trial["accepted"] == (trial["error_after"] < share * trial["error_before"])
    errors = held_out(made, rounded, data), held_out(again, module, data)
    assert errors[1] < 0.5 * errors[0]
    assert bool(plan.of(Equalize)) == (tried["equalize"]["accepted"] or tried["smooth"]["accepted"])
    if tried["bias"]["accepted"]:
        assert errors[1] == pytest.approx(tried["bias"]["error_after"], rel=1e-4)
    json.dumps(notes)


def test_ranges_in_the_plan_are_those_of_the_rescaled_network():
    data = [rows(64)]
    made, _, plan, _, _ = quantized(Quantize(calibration="minmax", corrections=("smooth",)), network(2.0), data)
    assert plan.of(Equalize)
    scaled = equalized(made, plan.of(Equalize))
    seen = observe(scaled, [Batch((data[0],))], [action.value for action in plan.of(RoundActivation)])
    before = observe(made, [Batch((data[0],))], [action.value for action in plan.of(RoundActivation)])
    assert any(before.ranges[a.value] != a.range for a in plan.of(RoundActivation))
    for action in plan.of(RoundActivation):
        assert action.range.high == pytest.approx(seen.ranges[action.value].high, rel=1e-5)


def test_what_does_not_help_is_rolled_back(monkeypatch):
    harmful = ShiftBias(layer="last", parameter="last.bias", shift=(5.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr("lissom.transforms.quantization.quantize.fitted_shifts", lambda *_: (harmful,))
    data = [rows(64)]
    quantize = Quantize(calibration="minmax", corrections=("bias",))
    made, _, plan, module, notes = quantized(quantize, network(), data)
    (trial,) = notes["corrections"]
    assert trial["error_after"] > trial["error_before"]
    assert trial["accepted"] is False
    assert plan.of(ShiftBias) == []
    assert held_out(made, module, data) == pytest.approx(trial["error_before"], rel=1e-4)


def test_a_rescaling_that_the_final_ranges_do_not_confirm_is_rolled_back():
    """At a glance it halves the error; with the ranges that the recipe wants it does not."""
    made = trace(network(2.0), Batch((rows(2),)))
    data = Batch((rows(32),))
    products = [node.name for node in made.graph.nodes if node.op == "linear"]
    plain = first_outputs(made.module, [data])[0]

    class Off(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: Tensor) -> Tensor:
            return plain * (1 + self.by)

    def rounded(found: Findings, glanced: bool) -> nn.Module:
        return Off((0.1 if found.corrected.equalizations else 0.2) if glanced else 0.3)

    bench = Bench(
        trace=made,
        halves=Halves([data], [data]),
        pairs=find_pairs(made.graph, products),
        observe=lambda scaled: Statistics(ranges={}, examples=0),
        glance=lambda scaled: Statistics(ranges={}, examples=0),
        rounded=rounded,
        shifted=lambda found: (),
    )
    found, trials = corrected(bench, Statistics(ranges={}, examples=1), ["equalize"])
    (trial,) = trials
    assert not trial.accepted
    assert trial.before == trial.after == pytest.approx(0.09)
    assert found.corrected.equalizations == ()
    assert found.examples == 1


def test_few_examples_are_no_evidence_unless_asked_for():
    data = [rows(20)]
    assert quantized(Quantize(calibration="minmax"), network(2.0), data)[4] == {}
    assert quantized(Quantize(calibration="minmax", corrections=("bias",)), network(2.0), data)[4] != {}
    assert quantized(Quantize(calibration="minmax", corrections=("bias",)), network(2.0), [rows(1)])[4] == {}


def test_plan_is_replayed_without_data():
    data = [rows(64)]
    quantize = Quantize(calibration="minmax")
    net = network(2.0)
    made, task, plan, module, _ = quantized(quantize, net, data)
    assert plan.of(Equalize)
    again = quantize.read_plan(json.loads(plan.model_dump_json()))
    assert again == plan
    bare = Task(example_inputs=task.example_inputs)
    replayed = quantize.apply(net, again, made, bare)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), replayed.state_dict().values(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), network(2.0).parameters(), strict=True))
    found = Findings.model_validate_json(quantize.study(net, made, task, TARGET).model_dump_json())
    assert quantize.plan(made.graph, found, TARGET) == plan


# Weights of few bits


def test_few_bits_are_fitted_where_it_helps_and_stored_on_their_grid():
    data = [rows(64), rows(64, 1)]
    net = network()
    made, _, _, nearest, _ = quantized(Quantize(calibration="minmax", weight_bits=4, corrections=()), net, data)
    again, _, plan, module, notes = quantized(Quantize(calibration="minmax", weight_bits=4), net, data)
    assert {(w.bits, w.fit) for w in plan.of(StoreWeight)} == {(4, "gptq")}
    (trial,) = notes["rounding"]
    assert trial["name"] == "gptq"
    assert trial["accepted"]
    assert held_out(again, module, data) == pytest.approx(trial["error_after"], rel=1e-4)
    assert held_out(again, module, data) < 0.6 * held_out(made, nearest, data)
    for one in (nearest, module):
        stored = [buffer for name, buffer in one.named_buffers() if name.endswith("_int8")]
        assert len(stored) == 3
        assert all(int(buffer.abs().max()) <= 7 for buffer in stored)


def test_fewer_bits_lose_more():
    data = [rows(64)]
    errors = []
    for bits in (8, 4, 3, 2):
        made, _, _, module, _ = quantized(Quantize(calibration="minmax", weight_bits=bits), network(), data)
        errors.append(held_out(made, module, data))
        assert max(int(b.abs().max()) for n, b in module.named_buffers() if n.endswith("_int8")) == 2 ** (bits - 1) - 1
    assert errors == sorted(errors)


def test_a_rounding_that_does_not_help_is_rolled_back():
    generator = torch.Generator().manual_seed(3)
    one_direction = torch.randn(32, 1, generator=generator) @ torch.randn(1, 6, generator=generator)
    others = torch.randn(32, 6, generator=generator)
    data = [torch.cat([one_direction, others])]
    net = network()
    _, _, _, nearest, _ = quantized(Quantize(calibration="minmax", weight_bits=4, corrections=()), net, data)
    _, _, _, module, notes = quantized(Quantize(calibration="minmax", weight_bits=4, corrections=("gptq",)), net, data)
    (trial,) = notes["rounding"]
    assert not trial["accepted"]
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), nearest.state_dict().values(), strict=True)
    )


def test_fitted_weights_are_loaded_into_a_fresh_structure():
    data = [rows(64)]
    quantize = Quantize(calibration="minmax", weight_bits=4, corrections=("adaround", "bias"))
    net = network()
    made, task, plan, module, notes = quantized(quantize, net, data)
    assert [trial["name"] for trial in notes["rounding"]] == ["adaround", "bias"]
    again = quantize.restructure(net, plan, made, Task(example_inputs=task.example_inputs))
    again.load_state_dict(module.state_dict())
    x = rows(9, 4)
    assert torch.equal(again(x), module(x))


@pytest.mark.parametrize("fit", ["gptq", "nearest"])
def test_biases_of_integer_kernels_are_on_the_grid_of_the_fitted_weights(fit):
    target = load_target("onnxruntime")
    corrections = () if fit == "nearest" else (fit,)
    quantize = Quantize(calibration="minmax", weight_bits=4, corrections=corrections)
    _, _, plan, module, _ = quantized(quantize, network(), [rows(64)], target)
    biases = plan.of(RoundBias)
    buffers, parameters = dict(module.named_buffers()), dict(module.named_parameters())
    for action in biases:
        scales = buffers[f"{action.weight}_scale"]
        held = parameters[action.parameter].detach()
        torch.testing.assert_close(round_bias(held, scales, action.scale), held)
    assert (len(biases) > 0) == target.integers.integer_bias


def test_dynamic_mode_rounds_weights_of_few_bits_without_data():
    quantize = Quantize(mode="dynamic", weight_bits=4)
    target = load_target("onnxruntime")
    net = network()
    made = trace(net, Batch((rows(2),)))
    plan = quantize.plan(made.graph, None, target)
    assert {(w.bits, w.fit) for w in plan.of(StoreWeight)} == {(4, "nearest")}
    module = quantize.apply(net, plan, made, Task(example_inputs=(rows(2),)))
    assert all(int(b.abs().max()) <= 7 for n, b in module.named_buffers() if n.endswith("_int8"))


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="'gptq' and 'adaround' both choose the rounding; give one of them"):
        Quantize(corrections=("gptq", "adaround"))
    with pytest.raises(ValueError, match=r"corrections=\['bias'\] need calibration data; use mode='static'"):
        Quantize(mode="dynamic", corrections=("bias",))
    with pytest.raises(ValueError, match="weight_bits"):
        Quantize(weight_bits=5)
    with pytest.raises(ValueError, match="corrections"):
        Quantize(corrections=("magic",))
    assert Quantize(mode="dynamic", corrections=()).needs() == frozenset()


def test_broken_weights_are_named():
    net = network()
    with torch.no_grad():
        net.second.weight[0, 0] = float("nan")
    made = trace(net, Batch((rows(2),)))
    quantize = Quantize(mode="dynamic", weight_bits=4)
    plan = quantize.plan(made.graph, None, load_target("onnxruntime"))
    with pytest.raises(Exception, match=r"The weight second.weight cannot be quantized"):
        quantize.apply(net, plan, made, Task(example_inputs=(rows(2),)))


def test_a_graph_of_one_batch_size_is_corrected_too():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.first(x))).reshape(8, 4)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = settled(Fixed())
    data = rows(48)
    task = Task(example_inputs=(data[:8],), calibration=[data])
    made = trace(net, task.example)
    assert made.graph.fixed_batch == 8
    found = halved(made.module, made.graph, [Batch((data,))], 100)
    assert isinstance(found, Halves)
    assert {batch.size for batch in (*found.fit, *found.judge)} == {8}
    assert torch.equal(found.judge[0].args[0], sliced(Batch((data,)), 24, 32).args[0])
    notes: dict = {}
    Quantize(calibration="minmax").study(net, made, task, TARGET, Work(note=notes.__setitem__))
    assert [trial["name"] for trial in notes["corrections"]] == ["equalize", "smooth", "bias"]
