"""Sparsify: the right weights, as many as said, the user's own class, every refusal with its reason."""

from __future__ import annotations

import json

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import DataError, RecipeError
from lissom.functional.sparsity import sparse_gpt, zeros_of
from lissom.graph.trace import trace
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.sparsity import Sparsify, Study, ZeroWeights
from small_models import MODELS, build, call

TARGET = load_target("torch")
CRITERIA = ("magnitude", "gradient", "wanda", "sparsegpt")


class Net(nn.Module):
    """Every kind of product, one shared layer, one transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.twice = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.grouped(x))))))
        return self.head(self.up(x).mean((2, 3)))


def prepared(seed: int = 0) -> tuple[Net, Task]:
    torch.manual_seed(seed)
    # Neighbours depend on each other, as in images.
    images = [F.interpolate(torch.randn(4, 3, 4, 4), (6, 6), mode="bilinear") for _ in range(3)]
    batches = [(image, torch.randint(0, 5, (4,))) for image in images]
    task = Task(example_inputs=(batches[0][0],), calibration=batches, loss=F.cross_entropy)
    return Net().eval(), task


def sparsified(one: Sparsify, model: nn.Module, task: Task) -> tuple[nn.Module, Plan]:
    made = trace(model, task.example)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    return one.apply(model, plan, made, task), plan


def inputs_of(model: nn.Module, layer: str, task: Task) -> list[Tensor]:
    """What a layer reads, by torch's own hooks."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        for batch in task.batches("calibration"):
            model(*batch.args)
    handle.remove()
    return seen


# ---- which weights go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.77])
def test_the_zeros_are_as_many_as_planned_and_said(criterion, ratio):
    model, task = prepared()
    after, plan = sparsified(Sparsify(ratio=ratio, criterion=criterion), model, task)
    assert type(after) is Net
    planned = {a.parameter: a for a in plan.of(ZeroWeights)}
    assert set(planned) >= {"stem.weight", "grouped.weight", "twice.weight", "head.weight"}
    for name, weight in after.named_parameters():
        zeros = int((weight == 0).sum())
        if name not in planned:
            assert torch.equal(weight, model.get_parameter(name))
            continue
        row = weight[0].numel()
        wanted = len(weight) * zeros_of(ratio, row) if criterion == "wanda" else zeros_of(ratio, weight.numel())
        assert (zeros, planned[name].zeros, planned[name].size) == (wanted, wanted, weight.numel())
        if criterion != "sparsegpt":
            assert bool(((weight == 0) | (weight == model.get_parameter(name))).all())
    graph = trace(model, task.example).graph
    assert plan.predicted.model_dump() == {"macs": graph.macs, "parameters": graph.parameters, "bytes": graph.bytes}


def test_magnitude_cuts_the_smallest():
    model, task = prepared()
    after, _ = sparsified(Sparsify(ratio=0.5), model, task)
    for name in ("stem.weight", "up.weight", "head.weight"):
        before, now = model.get_parameter(name).detach(), after.get_parameter(name)
        assert float(before[now == 0].abs().max()) <= float(before[now != 0].abs().min())


def test_gradient_cuts_what_the_loss_does_not_feel():
    model, task = prepared()
    after, _ = sparsified(Sparsify(ratio=0.5, criterion="gradient"), model, task)
    scores = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in task.batches("calibration"):
        model.zero_grad()
        F.cross_entropy(model(*batch.args), batch.target).backward()
        for name, p in model.named_parameters():
            scores[name] += (p * p.grad).abs().detach()
    for name in ("stem.weight", "grouped.weight", "twice.weight", "up.weight", "head.weight"):
        gone = after.get_parameter(name) == 0
        # Two ways to sum the same products differ by rounding only.
        assert float(scores[name][gone].max()) <= float(scores[name][~gone].min()) * (1 + 1e-4)


@pytest.mark.parametrize(("layer", "groups"), [("stem", 1), ("grouped", 2), ("twice", 1), ("head", 1)])
def test_wanda_weighs_by_the_inputs(layer, groups):
    model, task = prepared()
    after, _ = sparsified(Sparsify(ratio=0.4, criterion="wanda"), model, task)
    weight = model.get_submodule(layer).weight.detach()
    if weight.ndim == 2:
        rows = torch.cat([x.flatten(0, -2) for x in inputs_of(model, layer, task)])[None]
    else:
        padding = model.get_submodule(layer).padding
        unfolded = [F.unfold(x, weight.shape[2:], padding=padding) for x in inputs_of(model, layer, task)]
        flat = torch.cat([u.transpose(1, 2).flatten(0, 1) for u in unfolded])
        rows = flat.reshape(len(flat), groups, -1).transpose(0, 1)
    norms = rows.norm(dim=1).numpy()
    for i, row in enumerate(weight.flatten(1).numpy()):
        scores = np.abs(row) * norms[i * groups // len(weight)]
        gone = (after.get_submodule(layer).weight[i].flatten() == 0).numpy()
        assert gone.sum() == zeros_of(0.4, len(row))
        assert scores[gone].max() <= scores[~gone].min() * (1 + 1e-5)


def test_sparse_gpt_uses_the_hessian_of_each_group():
    model, task = prepared()
    after, _ = sparsified(Sparsify(ratio=0.5, criterion="sparsegpt"), model, task)
    weight = model.grouped.weight.detach()
    flat = torch.cat(
        [F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1) for x in inputs_of(model, "grouped", task)]
    )
    halves = flat.double().chunk(2, 1)
    zeros = weight.numel() // 4
    wanted = [sparse_gpt(w.flatten(1), x.T @ x, zeros) for w, x in zip(weight.chunk(2), halves, strict=True)]
    got = after.grouped.weight.detach()
    assert torch.equal(got.flatten(1) == 0, torch.cat(wanted) == 0)
    torch.testing.assert_close(got.flatten(1).double(), torch.cat(wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", ["stem", "grouped", "twice", "head"])
def test_sparse_gpt_keeps_what_the_layer_computes_better_than_magnitude(layer):
    model, task = prepared()
    reads = inputs_of(model, layer, task)
    errors = []
    for criterion in ("sparsegpt", "magnitude"):
        after, _ = sparsified(Sparsify(ratio=0.5, criterion=criterion), model, task)
        with torch.no_grad():
            gaps = [model.get_submodule(layer)(x) - after.get_submodule(layer)(x) for x in reads]
        errors.append(sum(float(gap.square().sum()) for gap in gaps))
    assert errors[0] < 0.85 * errors[1]


@pytest.mark.parametrize("criterion", ["magnitude", "gradient"])
def test_the_global_scope_ranks_all_layers_together(criterion):
    model, task = prepared()
    with torch.no_grad():
        model.stem.weight.mul_(1e6)
        model.head.weight.mul_(1e-3)
    after, plan = sparsified(Sparsify(ratio=0.5, criterion=criterion, scope="global"), model, task)
    zeros = {a.parameter: a.zeros for a in plan.of(ZeroWeights)}
    names = ("stem.weight", "grouped.weight", "twice.weight", "up.weight", "head.weight")
    weights = {name: after.get_parameter(name) for name in names}
    assert {name: int((w == 0).sum()) for name, w in weights.items()} == {n: zeros.get(n, 0) for n in names}
    assert sum(zeros.values()) == zeros_of(0.5, sum(w.numel() for w in weights.values()))
    if criterion == "magnitude":
        assert zeros["head.weight"] == 29, "99 % of 30: no layer dies"
        assert [(s.layer, s.reason) for s in plan.skipped if s.layer == "stem"] == [
            ("stem", "all its weights rank above those that go")
        ]


def test_a_weight_used_twice_reads_both():
    model, task = prepared()
    _, plan = sparsified(Sparsify(criterion="wanda"), model, task)
    (action,) = [a for a in plan.of(ZeroWeights) if a.layer == "twice"]
    assert len(action.nodes) == 2


def test_the_batching_of_the_data_does_not_matter():
    model, task = prepared()
    whole = torch.cat([x for x, _ in task.calibration])
    again = Task(example_inputs=task.example_inputs, calibration=[whole[:5], whole[5:]])
    for criterion in ("wanda", "sparsegpt"):
        one, other = (sparsified(Sparsify(criterion=criterion), model, t)[0] for t in (task, again))
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_only_so_many_samples_are_used():
    model, task = prepared()
    first = Task(example_inputs=task.example_inputs, calibration=task.calibration[:1])
    one, _ = sparsified(Sparsify(criterion="wanda", samples=4), model, task)
    other, _ = sparsified(Sparsify(criterion="wanda"), model, first)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# ---- frame ---------------------------------------------------------------------------------------------------------


def test_nothing_to_cut_changes_nothing():
    model, task = prepared()
    after, plan = sparsified(Sparsify(ratio=0.0, criterion="sparsegpt"), model, task)
    assert not plan.actions
    assert {"0 of it is no weight"} <= {s.reason for s in plan.skipped}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_kind_of_model(name, criterion):
    model, example = build(name)
    batch = Batch(example.args, example.kwargs, torch.zeros(3))
    task = Task(
        example_inputs=example.args,
        example_kwargs=example.kwargs,
        train=[batch],
        loss=lambda outputs, _: torch.utils._pytree.tree_leaves(outputs)[0].square().mean(),
    )
    after, plan = sparsified(Sparsify(ratio=0.3, criterion=criterion), model, task)
    assert type(after) is type(model)
    state = after.state_dict()
    for action in plan.of(ZeroWeights):
        assert int((state[action.parameter] == 0).sum()) >= action.zeros > 0
    assert all(bool(out.isfinite().all()) for out in call(after, example))


def test_the_plan_replays_and_progress_is_told():
    model, task = prepared()
    one = Sparsify(criterion="gradient", scope="global")
    made = trace(model, task.example)
    ticks: list[float] = []
    study = one.study(model, made, task, TARGET)
    plan = one.plan(made.graph, Study.model_validate_json(study.model_dump_json()), TARGET)
    first = one.apply(model, plan, made, task, Work(tick=ticks.append))
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1.0
    assert 0 < ticks[0] < 1
    again = one.apply(model, one.read_plan(json.loads(plan.model_dump_json())), made, task)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_what_stays_dense_says_why():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 6)
            self.inner = nn.Linear(6, 6)
            self.frozen = nn.Linear(6, 6)
            self.up = nn.ConvTranspose1d(6, 6, 2)
            self.scale = nn.Parameter(torch.ones(6, 6))
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.frozen(self.inner(self.embed(x)))
            x = F.linear(x, self.scale * 2)
            return self.head(self.up(x.transpose(1, 2)).transpose(1, 2))

    x = torch.randint(0, 9, (3, 4))
    task = Task(example_inputs=(x,), calibration=[x])
    _, plan = sparsified(Sparsify(criterion="wanda", exclude=("fro*",)), Odd().eval(), task)
    assert [a.layer for a in plan.actions] == ["inner"]
    reasons = {s.layer: s.reason for s in plan.skipped}
    assert reasons["embed"] == "embedding is no convolution or linear layer"
    assert reasons["head"] == "its weight is also read by 'embed' (embedding)"
    assert reasons["frozen"] == "excluded by the recipe"
    assert reasons["up"].startswith("wanda has no rows to compare in a transposed convolution")
    assert "its weight is computed, not stored" in reasons.values()


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5])
def test_a_ratio_outside_its_range(ratio):
    with pytest.raises(pydantic.ValidationError, match="ratio"):
        Sparsify(ratio=ratio)
    with pytest.raises(RecipeError, match=rf"Sparsify: ratio: .* got {ratio}"):
        Recipe.from_data([{"Sparsify": {"ratio": ratio}}])


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_units_of_layers_are_not_compared(criterion):
    with pytest.raises(RecipeError, match=rf"{criterion}.*cannot rank weights of different.*Use scope='local'"):
        Sparsify(criterion=criterion, scope="global")


def test_a_pattern_that_matches_nothing():
    model, task = prepared()
    with pytest.raises(
        RecipeError, match=r"Sparsify\(exclude=\.\.\.\): .*'sten' matches no layer\. Did you mean 'stem'"
    ):
        sparsified(Sparsify(exclude=("sten",)), model, task)


@pytest.mark.parametrize("criterion", ["gradient", "wanda", "sparsegpt"])
def test_missing_data(criterion):
    model, task = prepared()
    bare = Task(example_inputs=task.example_inputs, loss=F.cross_entropy)
    with pytest.raises(DataError, match=r"Sparsify needs calibration data.*Give Task\(calibration=\.\.\.\)"):
        sparsified(Sparsify(criterion=criterion), model, bare)


def test_missing_loss_labels_and_sense():
    model, task = prepared()
    one = Sparsify(criterion="gradient")
    images = [x for x, _ in task.calibration]
    with pytest.raises(
        DataError, match=r"the task has no loss\. Give Task\(loss=\.\.\.\), or use criterion='magnitude'"
    ):
        sparsified(one, model, Task(example_inputs=task.example_inputs, calibration=task.calibration))
    with pytest.raises(DataError, match=r"needs labels, and Task\(calibration=\.\.\.\) gives none"):
        sparsified(one, model, Task(example_inputs=task.example_inputs, calibration=images, loss=F.cross_entropy))
    bad = Task(example_inputs=task.example_inputs, train=task.calibration, loss=lambda y, _: y.sum() * torch.inf)
    with pytest.raises(DataError, match=r"infinite or NaN gradients at 'stem\.weight' on Task\(train=\.\.\.\)"):
        sparsified(one, model, bad)
    small = [(torch.randn(4, 3, 5, 6), torch.zeros(4).long())]
    with pytest.raises(DataError, match="does not fit the model"):
        sparsified(one, model, Task(example_inputs=task.example_inputs, train=small, loss=F.cross_entropy))
    with torch.no_grad():
        model.norm.weight.fill_(torch.inf)
    with pytest.raises(DataError, match="infinite or NaN before 'grouped'"):
        sparsified(Sparsify(criterion="wanda"), model, task)


def test_a_fixed_batch_takes_whole_pieces():
    model, example = build("fixed batch")
    rows = example.args[0]
    loss = lambda y, t: (y - t).square().mean()  # noqa: E731
    four = [(torch.cat([rows, rows[:1]]), torch.zeros(4, 2))]
    three = [(rows, torch.zeros(3, 2))]
    one = Sparsify(criterion="gradient")
    found = [sparsified(one, model, Task(example_inputs=(rows,), train=t, loss=loss))[0] for t in (four, three)]
    assert all(torch.equal(a, b) for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True))
    with pytest.raises(DataError, match=r"batches of exactly 3 examples, and Task\(train=\.\.\.\) has none"):
        sparsified(one, model, Task(example_inputs=(rows,), train=[(rows[:2], torch.zeros(2, 2))], loss=loss))


def test_planning_the_global_scope_needs_its_study():
    model, task = prepared()
    with pytest.raises(RecipeError, match=r"call study\(\) first"):
        Sparsify(scope="global").plan(trace(model, task.example).graph, None, TARGET)
