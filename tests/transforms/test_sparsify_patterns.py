"""Sparsify(pattern=...): at most N of every M inputs, channels in an order that keeps more, outputs unchanged by it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import RecipeError, VerificationError
from lissom.functional.nm import Pattern
from lissom.functional.sparsity import sparse_gpt_pattern
from lissom.graph.channels import find_channels
from lissom.graph.trace import trace
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.sparsity import PermuteChannels, Sparsify, ZeroWeights, permuting
from lissom.transforms.sparsity.permuting import find_orders, permuted
from small_models import MODELS, build, call

TARGET = load_target("torch")
HALF = Pattern(2, 4)
CRITERIA = ("magnitude", "gradient", "wanda", "sparsegpt")


class Net(nn.Module):
    """A residual stream, a grouped convolution, a concatenation, features for every place of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.left = nn.Conv2d(16, 8, 1)
        self.right = nn.Conv2d(16, 6, 1)
        self.both = nn.Conv2d(14 + 2, 8, 1)
        self.places = nn.Linear(8 * 4, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.two(torch.relu(self.one(x)))
        x = torch.relu(self.grouped(x))
        extra = x.mean(1, keepdim=True).expand(-1, 2, -1, -1)
        x = torch.relu(self.both(torch.cat([self.left(x), self.right(x), extra], 1)))
        x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(torch.relu(self.places(x)))


def prepared(seed: int = 0) -> tuple[Net, Task]:
    torch.manual_seed(seed)
    images = [F.interpolate(torch.randn(4, 3, 4, 4), (6, 6), mode="bilinear") for _ in range(3)]
    batches = [(image, torch.randint(0, 5, (4,))) for image in images]
    model = Net()
    nn.init.uniform_(model.norm.weight, 0.5, 2.0)
    nn.init.normal_(model.norm.running_mean)
    return model.eval(), Task(example_inputs=(batches[0][0],), calibration=batches, loss=F.cross_entropy)


def sparsified(one: Sparsify, model: nn.Module, task: Task) -> tuple[nn.Module, Plan]:
    made = trace(model, task.example)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    return one.apply(model, plan, made, task), plan


def groups_of(weight: Tensor, m: int) -> Tensor:
    """Weights of every group, (…, M), by plain slicing."""
    return weight.movedim(1, -1).unfold(-1, m, m)


def share_kept(after: nn.Module, before: nn.Module, names: tuple[str, ...]) -> float:
    """Of the sum of magnitudes of each weight, the mean over these."""
    sums = [[float(m.get_parameter(name).detach().abs().sum()) for m in (after, before)] for name in names]
    return sum(now / all_ for now, all_ in sums) / len(sums)


# ---- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("text", ["2:4", "1:4", "1:2"])
def test_every_group_has_exactly_n(criterion, text):
    model, task = prepared()
    pattern = Pattern.parse(text)
    after, plan = sparsified(Sparsify(pattern=text, criterion=criterion), model, task)
    assert type(after) is Net
    planned = {a.parameter: a for a in plan.of(ZeroWeights)}
    assert set(planned) == {f"{n}.weight" for n, _ in model.named_children()} - {"norm.weight", "stem.weight"}
    for name, action in planned.items():
        weight = after.get_parameter(name)
        assert bool((groups_of(weight, pattern.m).count_nonzero(-1) == pattern.n).all())
        assert (action.zeros, action.size, action.pattern) == (int((weight == 0).sum()), weight.numel(), text)
        assert action.skips_zeros is False
    assert [(s.layer, s.reason) for s in plan.skipped if s.layer == "stem"] == [
        ("stem", f"its 3 inputs per group are no multiple of {pattern.m}")
    ]


def test_without_an_order_the_largest_stay_where_they_are():
    model, task = prepared()
    after, plan = sparsified(Sparsify(pattern="2:4", permute=False), model, task)
    assert not plan.of(PermuteChannels)
    for action in plan.of(ZeroWeights):
        before, now = (groups_of(m.get_parameter(action.parameter).detach(), 4) for m in (model, after))
        assert torch.equal(now.abs().sum(-1), before.abs().topk(2, dim=-1).values.sum(-1))


def test_sparse_gpt_sees_a_convolution_by_position_and_makes_up():
    model, task = prepared()
    after, _ = sparsified(Sparsify(pattern="2:4", criterion="sparsegpt", permute=False), model, task)
    seen: list[Tensor] = []
    model.one.register_forward_pre_hook(lambda _, args: seen.append(F.unfold(args[0].detach(), 3, padding=1)))
    with torch.no_grad():
        for batch in task.batches("calibration"):
            model(*batch.args)
    rows = torch.cat([s.transpose(1, 2).flatten(0, 1) for s in seen]).double()
    # unfold orders (in, kernel); the pattern wants the inputs of one position next to each other.
    rows = rows.reshape(len(rows), 16, 9).transpose(1, 2).flatten(1)
    weight = model.one.weight.detach().flatten(2).transpose(1, 2).flatten(1)
    wanted = sparse_gpt_pattern(weight, rows.T @ rows, HALF).reshape(16, 9, 16).transpose(1, 2).reshape(16, 16, 3, 3)
    torch.testing.assert_close(after.one.weight.detach().double(), wanted, rtol=1e-3, atol=1e-4)
    errors = []
    for criterion in ("sparsegpt", "magnitude"):
        made, _ = sparsified(Sparsify(pattern="2:4", criterion=criterion, permute=False), model, task)
        change = (made.one.weight - model.one.weight).detach().flatten(2).transpose(1, 2).flatten(1).double()
        errors.append(float((rows @ change.T).square().sum()))
    assert errors[0] < 0.7 * errors[1]


# ---- order ---------------------------------------------------------------------------------------------------------


def test_an_order_keeps_more_and_every_other_layer_says_why_not():
    model, task = prepared()
    after, plan = sparsified(Sparsify(pattern="2:4"), model, task)
    plain, _ = sparsified(Sparsify(pattern="2:4", permute=False), model, task)
    orders = plan.of(PermuteChannels)
    assert {a.group: a.readers for a in orders} == {
        # The grouped convolution splits the stream in two halves, which are put in the same order.
        "stem.weight#2": ("one.weight", "grouped.weight"),
        "one.weight": ("two.weight",),
        "grouped.weight": ("left.weight", "right.weight"),
        "left.weight": ("both.weight",),
        "places.weight": ("head.weight",),
    }
    for action in orders:
        assert sorted(action.order) == list(range(len(action.order)))
        if action.readers == ("both.weight",):
            continue  # the share is that of its first eight inputs
        kept, given = (share_kept(made, model, action.readers) for made in (after, plain))
        assert kept == pytest.approx(action.after, rel=1e-5)
        assert given == pytest.approx(action.before, rel=1e-5)
        assert kept > given
    moved = {name for action in orders for name in action.readers}
    reasons = {a.layer: a.order_kept for a in plan.of(ZeroWeights)}
    assert {name for name in reasons if reasons[name] is None} == {name.rpartition(".")[0] for name in moved}
    assert reasons["places"] == "each of its channels fills whole groups of 4 inputs, whatever their order"
    assert reasons["one"] is None


def test_outputs_stay_what_they_were_before_weights_go():
    model, task = prepared()
    made = trace(model, task.example)
    names = [n for n, p in model.named_parameters() if p.ndim > 1 and n != "stem.weight"]
    scores = {n: model.get_parameter(n).detach().abs() for n in names}
    orders, _ = find_orders(model, made, scores, HALF)
    assert orders
    assert not any(torch.equal(torch.tensor(a.order), torch.arange(len(a.order))) for a in orders)
    again = permuted(model, made, orders, task.example)
    x = torch.randn(7, 3, 6, 6)
    torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)
    changed = {n for n, p in again.named_parameters() if not torch.equal(p, model.get_parameter(n))}
    assert {f"{a.group.rpartition('.')[0]}.weight" for a in orders} <= changed
    assert all(sorted(p.flatten().tolist()) == sorted(again.get_parameter(n).flatten().tolist())
               for n, p in model.named_parameters())  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_random_orders_of_all_channels_change_no_output_of_any_model(name):
    """Not only the order that a search likes: any, of every group that can be cut."""
    model, example = build(name)
    made = trace(model, example)
    orders = [
        PermuteChannels(
            layer="",
            group=group.name,
            order=tuple(torch.randperm(group.size, generator=torch.Generator().manual_seed(i)).tolist()),
            readers=(),
            before=0,
            after=0,
        )
        for i, group in enumerate(find_channels(made).groups)
        if group.reason is None and all(m.parameter in model.state_dict() for m in group.members)
    ]
    again = permuted(model, made, orders, example)
    for a, b in zip(call(model, example), call(again, example), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_wrong_order_is_found_and_named(monkeypatch):
    model, task = prepared()
    made = trace(model, task.example)
    one = Sparsify(pattern="2:4")
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    real = permuting._places
    monkeypatch.setattr(
        permuting,
        "_places",
        lambda m, order, size: real(m, order if m.parameter != "two.weight" else order[::-1], size),
    )
    with pytest.raises(VerificationError, match=r"alone: '.*'.*Sparsify\(permute=False\)"):
        one.apply(model, plan, made, task)


def test_weights_that_only_training_reads_keep_the_order():
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.aux = nn.Linear(4, 16), nn.Linear(16, 4), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return torch.cat([self.second(x), self.aux(x)], 1) if self.training else self.second(x)

    torch.manual_seed(0)
    task = Task(example_inputs=(torch.randn(3, 4),))
    _, plan = sparsified(Sparsify(pattern="2:4"), Aux().eval(), task)
    assert not plan.of(PermuteChannels)
    reasons = {a.layer: a.order_kept for a in plan.of(ZeroWeights)}
    assert "'aux.weight', which the model does not read when it is evaluated" in (reasons["second"] or "")
    assert reasons["first"] == "linear in first ties it to an axis that cannot be cut"


def test_the_plan_replays():
    model, task = prepared()
    one = Sparsify(pattern="2:4", criterion="wanda")
    first, plan = sparsified(one, model, task)
    made = trace(model, task.example)
    again = one.apply(model, one.read_plan(json.loads(plan.model_dump_json())), made, task)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


# ---- go or no go ---------------------------------------------------------------------------------------------------


def test_a_layer_that_is_not_faster_stays_dense():
    model, task = prepared()
    made = trace(model, task.example)
    asked: list[tuple[int, ...]] = []

    def race(modules, example):
        asked.append(tuple(example.args[0].shape))
        assert HALF.held_by(modules["sparse"].weight)
        assert not HALF.held_by(modules["dense"].weight)
        sparse = 2.0 if isinstance(modules["dense"], nn.Linear) else 0.5
        return {"dense": (1.0,) * 15, "sparse": (sparse,) * 15}

    target = load_target("tensorrt")
    one = Sparsify(pattern="2:4")
    plan = one.plan(made.graph, one.study(model, made, task, target, Work(race=race)), target)
    skipped = {s.layer: s.reason for s in plan.skipped}
    assert skipped["head"] == (
        "it is not faster in this pattern here: 2 ms instead of 1 ms, 0.50 times as fast, interval 0.50 to 0.50"
    )
    assert {a.layer for a in plan.of(ZeroWeights)} == {"one", "two", "grouped", "left", "right", "both"}
    assert all(a.skips_zeros for a in plan.of(ZeroWeights))
    assert not any("head.weight" in a.readers for a in plan.of(PermuteChannels))
    assert (1, 16, 6, 6) in asked
    assert len(asked) == 7, "left and both are equal, and timed once"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "executorch", "torch"])
def test_where_no_kernel_skips_zeros_nothing_is_timed(name):
    model, task = prepared()
    made = trace(model, task.example)

    def race(modules, example):
        raise AssertionError("timed")

    target = load_target(name)
    one = Sparsify(pattern="2:4", permute=False)
    plan = one.plan(made.graph, one.study(model, made, task, target, Work(race=race)), target)
    assert len(plan.of(ZeroWeights)) == 8
    assert not any(a.skips_zeros for a in plan.of(ZeroWeights))


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "4:2"}, r"Sparsify: pattern: '4:2' is no pattern: write 'N:M'"),
        ({"pattern": "2:4", "ratio": 0.5}, r"Sparsify: .*says twice how many weights go\. Leave ratio out"),
        ({"pattern": "2:4", "scope": "global"}, r"Sparsify: .*every group loses as many\. Leave scope out"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_data([{"Sparsify": settings}])


def test_transposed_convolutions_stay_dense():
    task = Task(example_inputs=(torch.randn(2, 4, 3, 3),))
    _, plan = sparsified(Sparsify(pattern="2:4"), nn.Sequential(nn.ConvTranspose2d(4, 8, 2)).eval(), task)
    assert [s.reason for s in plan.skipped] == ["no kernel takes a pattern of zeros in a transposed convolution"]
