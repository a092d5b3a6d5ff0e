"""Bits found by trying: the fewest layers put back under a bound on the metric, and the search under one bound."""

from __future__ import annotations

import functools
import itertools
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lissom import metrics
from lissom.errors import DataError, GoalError, RecipeError, RunFolderError, UsageError
from lissom.functional.paired import paired_drop
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Work
from lissom.transforms.quantization import PrecisionTable, Quantize, planned_precision, stored_as
from lissom.transforms.quantization.guarding import Judge, fewest, ladder
from lissom.transforms.quantization.searching import TABLE

WIDTH = 32
PLAIN = {"calibration": "minmax", "corrections": ()}


class Spiky(nn.Module):
    """What `second` reads holds one number a thousand times larger than the others, which it ignores."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.third = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 6)
        with torch.no_grad():
            self.first.bias[0] = 2000.0
            self.second.weight[:, 0] = 0.0

    def forward(self, x):
        return self.head(F.relu(self.third(F.relu(self.second(self.first(x))))))


class Residual(nn.Module):
    """A sum whose operand comes from a product that absorbs it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.fc(F.relu(self.b(x) + x).mean((2, 3)))


def labelled(model: nn.Module, *shape: int, count: int = 600, metric: object = metrics.accuracy) -> Task:
    """Data that the float model gets right, all of it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *shape, generator=generator)
    with torch.no_grad():
        answers = model(x)
    y = answers if metric is metrics.negative_mse else answers.argmax(-1)
    return Task(
        example_inputs=(x[:1],),
        calibration=[x[:64]],
        validation=[(x[i : i + 200], y[i : i + 200]) for i in range(0, count, 200)],
        metric=metric,
    )


@functools.cache
def spiky() -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    model = Spiky().eval()
    return model, labelled(model, WIDTH)


def carried_out(quantize: Quantize, model: nn.Module, task: Task, target: str = "openvino", **work):
    made, table, notes = trace(model, task.example), load_target(target), {}
    lent = Work(note=notes.__setitem__, **work)
    study = quantize.study(model, made, task, table, lent)
    plan = quantize.plan(made.graph, study, table)
    again = type(study).model_validate_json(study.model_dump_json())
    assert quantize.plan(made.graph, again, table) == plan
    return made, plan, quantize.apply(model, plan, made, task, lent), notes


def integers(made, plan) -> set[str]:
    return {made.graph.by_name[node].layer for node in planned_precision(plan)}


def scores(model: nn.Module, task: Task) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([task.metric.per_example(model(b.args[0]), b.target) for b in task.batches("validation")])


# The guard


@given(st.integers(0, 70), st.integers(0, 70))
def test_the_fewest_are_found_with_few_questions(count, wanted):
    wanted, asked = min(wanted, count), []

    def meets(k):
        asked.append(k)
        return k >= wanted

    assert fewest(count, meets) == wanted
    assert len(asked) <= 2 * (wanted + 1).bit_length() + 1
    assert count not in asked or count == 0 or wanted < count or count & (count - 1) == 0


def test_what_saves_most_is_raised_first_and_four_bits_before_float():
    table = {("a", 4): 9.0, ("a", 8): 5.0, ("b", 8): 6.0, ("c", 4): 7.0, ("c", 8): 0.5}
    order = ladder({"a": 4, "b": 8, "c": 4}, lambda name, bits: table.get((name, bits), 0.0))
    assert order == [("c", 8), ("b", 32), ("a", 8), ("a", 32), ("c", 32)]


def test_the_layer_that_hurts_is_put_back_and_no_other():
    model, task = spiky()
    quantize = Quantize(max_drop=0.05, **PLAIN)
    made, plan, guarded, notes = carried_out(quantize, model, task)
    assert integers(made, plan) == {"first", "third", "head"}
    (reason,) = [skip.reason for skip in plan.skipped if skip.layer == "second"]
    assert reason.startswith("put back in float: alone in 8 bits it changes the output by")
    tried = notes["guard"]["tried"]
    assert [one["raised"] for one in tried] == [0, 1]
    assert tried[0]["limit"] > 0.05 >= tried[1]["limit"]
    before, after = scores(model, task), scores(guarded, task)
    assert paired_drop(before, after, 0.95).limit == pytest.approx(tried[1]["limit"])
    assert notes["guard"]["raised"] == [{"layer": "second", "bits": 32}]


def test_a_model_that_keeps_its_metric_is_judged_once_and_stays_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)).eval()
    task = labelled(model, WIDTH)
    made, plan, _, notes = carried_out(Quantize(max_drop=0.2, **PLAIN), model, task)
    assert len(notes["guard"]["tried"]) == 1
    plain, table = Quantize(**PLAIN), load_target("openvino")
    assert plan.actions == plain.plan(made.graph, plain.study(model, made, task, table), table).actions


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_everything_is_float_where_nothing_else_will_do(target):
    """Also where a sum that a product absorbs stays longer in integers than the product."""
    torch.manual_seed(0)
    model = Residual().eval()
    task = labelled(model, 3, 6, 6, count=40, metric=metrics.negative_mse)
    _, plan, after, notes = carried_out(Quantize(max_drop=0.0, **PLAIN), model, task, target)
    assert plan.actions == ()
    assert all(skip.reason.startswith("put back in float") for skip in plan.skipped if skip.layer in "ab fc")
    x = task.example.args[0]
    torch.testing.assert_close(after(x), model(x))
    assert {len(notes["guard"]["raised"])} == {len({s.layer for s in plan.skipped})}


def test_four_bits_become_eight_before_float():
    model, task = spiky()
    made, plan, _, notes = carried_out(Quantize(max_drop=0.03, precision={"*": 4, "second": 32}, **PLAIN), model, task)
    raised = [(one["layer"], one["bits"]) for one in notes["guard"]["raised"]]
    assert raised
    assert raised[0][1] == 8
    stored = {made.graph.by_name[node].layer: how for node, how in stored_as(plan).items()}
    assert stored.get(raised[0][0], "float32") in ("int8", "float32")
    assert notes["guard"]["tried"][-1]["limit"] is not None


def test_a_metric_over_a_whole_split_is_compared_as_a_number():
    model, task = spiky()
    share = Task(
        example_inputs=task.example_inputs,
        calibration=task.calibration,
        validation=task.validation,
        metric=lambda outputs, targets: float((outputs.argmax(-1) == targets).float().mean()),
    )
    _, _, after, notes = carried_out(Quantize(max_drop=0.1, **PLAIN), model, share)
    drop = 1.0 - float(scores(after, task).mean())
    assert notes["guard"]["tried"][-1]["mean"] == pytest.approx(drop, abs=1e-6)
    assert notes["guard"]["tried"][-1]["limit"] == pytest.approx(drop, abs=1e-6)


def test_a_loader_that_shuffles_gives_pairs_too():
    model, task = spiky()
    x, y = (torch.cat(parts) for parts in zip(*task.validation, strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    shuffled = Task(
        example_inputs=task.example_inputs, calibration=task.calibration, validation=loader, metric=task.metric
    )
    rounded = carried_out(Quantize(**PLAIN), model, task)[2]
    drops = [Judge(model, one, 0.1, 0.95)(rounded) for one in (task, shuffled, shuffled)]
    assert drops[0] == drops[1] == drops[2]
    assert drops[0].worse > 0


@pytest.mark.parametrize("missing", ["metric", "validation"])
def test_without_something_to_judge_by_it_is_refused(missing):
    model, task = spiky()
    given = {"calibration": task.calibration, "metric": task.metric, "validation": task.validation, missing: None}
    bare = Task(example_inputs=task.example_inputs, **given)
    with pytest.raises(DataError, match=rf"Quantize\(max_drop=0\.1\) .* has no {missing}\. Give Task\({missing}="):
        carried_out(Quantize(max_drop=0.1), model, bare)
    assert Quantize(max_drop=0.1).needs() == {"calibration", "validation"}


# The search


@functools.cache
def found(**bound):
    model, task = spiky()
    rules = {"*": "auto", "head": 16}
    return carried_out(Quantize(precision=rules, **bound, **PLAIN), model, task, "onnxruntime")


def test_the_search_keeps_to_a_size_with_the_least_error():
    made, plan, _, notes = found(size_ratio=2.2)
    table = PrecisionTable.model_validate(notes[TABLE])
    assert plan.predicted.bytes <= made.graph.bytes / 2.2
    assert [line.layer for line in table.layers] == ["first", "second", "third"]
    assert all(option.error > 0 for line in table.layers for option in line.options if option.bits != 32)
    chosen = table.solve(size_ratio=2.2)
    spent = table.bytes_fixed + sum(line.at(chosen[line.layer]).bytes for line in table.layers)
    assert spent == plan.predicted.bytes
    errors = [
        sum(option.error for option in options)
        for options in itertools.product(*(line.options for line in table.layers))
        if table.bytes_fixed + sum(option.bytes for option in options) <= table.bytes / 2.2
    ]
    assert table.error(chosen) == pytest.approx(min(errors))
    assert chosen["second"] >= 16  # integers hurt it
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert all("float by the search" in reasons[name] for name, bits in chosen.items() if bits == 32)


def test_a_saved_table_answers_for_other_bounds_without_the_model(tmp_path):
    _, plan, _, notes = found(size_ratio=2.2)
    path = tmp_path / "precision.json"
    path.write_text(PrecisionTable.model_validate(notes[TABLE]).model_dump_json())
    table = PrecisionTable.read(path)
    started = time.perf_counter()
    other = {ratio: table.solve(size_ratio=ratio) for ratio in (1.2, 1.8, 2.2, 2.8)}
    assert time.perf_counter() - started < 4.0  # well below 0.1 s on an idle core
    assert [table.ratio("size_ratio", chosen) >= ratio for ratio, chosen in other.items()] == [True] * 4
    assert [table.error(chosen) for chosen in other.values()] == sorted(map(table.error, other.values()))
    model, task = spiky()
    by_hand = Quantize(precision={**other[2.2], "head": 16}, **PLAIN)
    again = carried_out(by_hand, model, task, "onnxruntime")[1]
    assert again.actions == plan.actions
    with pytest.raises(GoalError, match=r"size_ratio=50\) is out of reach: the most that these layers give is 4\."):
        table.solve(size_ratio=50)
    with pytest.raises(UsageError, match="holds no latencies"):
        table.solve(latency_ratio=2)
    with pytest.raises(UsageError, match="exactly one of"):
        table.solve(size_ratio=2, max_drop=0.1)
    with pytest.raises(GoalError, match=r"No choice .* drop by 0\.1 at most"):
        table.solve(max_drop=0.1)
    with pytest.raises(RunFolderError, match="cannot be read"):
        PrecisionTable.read(tmp_path / "nothing.json")


def test_the_search_is_as_small_as_the_metric_allows():
    model, task = spiky()
    _, plan, after, notes = found(max_drop=0.05)
    table = PrecisionTable.model_validate(notes[TABLE])
    judged = {tuple(one.bits.items()): one for one in table.judged}
    assert table.judged[0].limit > 0.05  # the smallest of all was tried first, and drops too much
    best = min((one for one in table.judged if one.limit <= 0.05), key=lambda one: one.bytes)
    assert plan.predicted.bytes == best.bytes
    assert table.solve(max_drop=0.05) == best.bits
    assert all(one.limit > 0.05 for one in judged.values() if one.bytes < best.bytes)
    assert paired_drop(scores(model, task), scores(after, task), 0.95).limit == pytest.approx(best.limit)
    assert planned_precision(plan)
    assert best.bits["second"] >= 16


def test_the_search_meets_a_latency_that_is_measured_on_the_whole_model():
    model, task = spiky()
    asked: list[int] = []
    made = trace(model, task.example)

    def race(modules, example):
        names = list(modules)
        assert all(module(*example.args) is not None for module in modules.values())
        return {name: ({"whole": 8.0, "float": 2.0, "integer": 1.0}[name],) * 3 for name in names}

    def faster(candidate):
        """Half of what the single layers promise."""
        count = sum("dequantize_per_channel" in str(node.target) for node in candidate.graph.nodes)
        asked.append(count)
        return 8.0 / (8.0 - 0.5 * count)

    quantize = Quantize(precision="auto", latency_ratio=1.2, **PLAIN)
    made, plan, _, notes = carried_out(quantize, model, task, race=race, faster=faster, original=model)
    table = PrecisionTable.model_validate(notes[TABLE])
    assert {o.milliseconds for line in table.layers for o in line.options} == {1.0, 2.0}
    chosen = integers(made, plan)
    assert len(chosen) == 3  # 8 / 6.5 is the first above 1.2
    assert "second" not in chosen
    assert 3 in asked
    out_of_reach = quantize.model_copy(update={"latency_ratio": 1.9})
    with pytest.raises(GoalError, match=r"latency_ratio=1\.9\) is out of reach .* 1\.33 times"):
        carried_out(out_of_reach, model, task, race=race, faster=faster, original=model)
    with pytest.raises(UsageError, match="measures on the target, which a dry run does not"):
        carried_out(quantize, model, task)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "auto"}, "exactly one of max_drop, size_ratio, latency_ratio, got none"),
        ({"precision": {"*": "auto"}, "size_ratio": 2, "max_drop": 0.1}, "got max_drop and size_ratio"),
        ({"size_ratio": 3}, "write precision='auto'"),
        ({"precision": 16, "max_drop": 0.1}, "precision=16 makes none"),
        ({"precision": "auto", "size_ratio": 1}, "size_ratio"),
        ({"max_drop": 0.1, "confidence": 1}, "confidence"),
    ],
)
def test_wrong_bounds_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        Quantize.parse(given, "step", RecipeError)


def test_dynamic_mode_is_guarded_too():
    model, task = spiky()
    made, plan, after, _ = carried_out(Quantize(mode="dynamic", max_drop=0.05), model, task, "onnxruntime")
    assert "second" not in integers(made, plan)
    assert integers(made, plan)
    assert paired_drop(scores(model, task), scores(after, task), 0.95).limit <= 0.05
