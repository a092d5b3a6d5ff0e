"""Penalties on coupled channels in the loop: what they pull at, that it works, that they survive a kill."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import PLAIN, batches, equal, net, settings, shuffled, task
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.graph.channels import find_channels
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.training import finetune as loop
from lissom.training.finetune import finetune
from lissom.training.regularization import EVERY, Regularizer, regularizer_of
from lissom.training.settings import STRENGTHS, Training
from lissom.transforms.finetuning import Finetune
from lissom.transforms.pruning import Prune
from lissom.transforms.pruning.prune import kept_by
from small_models import MODELS, build, traced

KINDS: dict[str, dict[str, Any]] = {
    "slimming": {"regularizer": "slimming", "strength": 0.02},
    "group_lasso": {"regularizer": "group_lasso", "strength": 0.002},
    "growing": {"regularizer": "growing", "ratio": 0.5, "strength": 2.0},
}
EXAMPLE = Batch((torch.zeros(1, 3, 8, 8),))
each = pytest.mark.parametrize("kind", KINDS)


def of(model: nn.Module, kind: str, steps: int = 100, example: Batch = EXAMPLE) -> Regularizer:
    found = regularizer_of(model, trace(model, example), Training(**KINDS[kind]), steps)
    assert found is not None
    return found


class Plain(nn.Module):
    """Two convolutions without a normalization between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x))).mean((2, 3))


# ---- what is pulled at ------------------------------------------------------------------------------------------


def test_group_lasso_is_the_formula_over_all_that_is_cut_with_a_channel() -> None:
    """`Net`: a channel is a filter, a scale, a shift and a column of the classifier."""
    model = net().eval()
    found = of(model, "group_lasso")
    assert found.read == {
        "conv.weight": (0,),
        "conv.bias": (0,),
        "norm.weight": (0,),
        "norm.bias": (0,),
        "fc.weight": (1,),
    }
    pieces = [model.conv.weight.flatten(1), model.conv.bias[:, None], model.norm.weight[:, None]]
    rows = torch.cat([*pieces, model.norm.bias[:, None], model.fc.weight.T], 1).detach().double()
    norms = rows.norm(dim=1)
    gamma = 2 ** (4 * (norms.max() - norms) / (norms.max() - norms.min()))
    value = found(model, 0)
    wanted = 0.002 * math.sqrt(rows.shape[1]) * gamma * norms
    assert float(value.detach()) == pytest.approx(float(wanted.sum()), rel=1e-5)
    gradient, shift = torch.autograd.grad(value, [model.conv.weight, model.norm.bias])
    closed = (wanted / norms**2).float()
    torch.testing.assert_close(gradient, closed[:, None, None, None] * model.conv.weight.detach())
    torch.testing.assert_close(shift, closed * model.norm.bias.detach())


def test_slimming_is_l1_on_the_scales_and_nothing_else() -> None:
    model = net().eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -0.1]))
    found = of(model, "slimming")
    assert found.read == {"norm.weight": (0,)}
    value = found(model, 7)
    assert float(value.detach()) == pytest.approx(0.02 * 6.6)
    (gradient,) = torch.autograd.grad(value, [model.norm.weight])
    torch.testing.assert_close(gradient, 0.02 * torch.tensor([1.0, -1.0, 1.0, 0.0, 1.0, -1.0]))


def test_slimming_takes_what_makes_the_channels_where_nothing_scales_them() -> None:
    model = Plain().eval()
    found = of(model, "slimming")
    assert found.read == {"one.weight": (0,)}
    norms = model.one.weight.detach().flatten(1).norm(dim=1)
    assert float(found(model, 0).detach()) == pytest.approx(float(0.02 * math.sqrt(27) * norms.sum()), rel=1e-5)


def test_growing_pulls_at_the_channels_that_prune_would_cut() -> None:
    model, example = build("residual")
    found = of(model, "growing", steps=35, example=example)
    made = trace(model, example)
    channels = find_channels(made)
    prune = Prune(ratio=0.5, recovery="none")
    plan = prune.plan(
        made.graph,
        prune.study(model, made, Task(example_inputs=example.args), load_target("torch")),
        load_target("torch"),
    )
    kept = kept_by(plan, channels)
    wanted: list[float] = []
    for group in channels.groups:
        if group.reason is None and group.size > 1:
            stays = set(kept.get(group.atom, range(group.size)))
            wanted += [float(c not in stays) for c in range(group.size)]
    assert found.doomed is not None
    assert found.doomed.tolist() == wanted
    assert 0 < sum(wanted) < len(wanted)
    energies = found.energies(model).detach()
    for step, periods in ((0, 1), (EVERY - 1, 1), (EVERY, 2), (34, 4)):
        assert float(found(model, step).detach()) == pytest.approx(
            0.5 * 2.0 * periods / 4 * float(energies @ found.doomed), rel=1e-5
        )


@each
@pytest.mark.parametrize("name", MODELS)
def test_only_channels_that_can_be_cut_are_pulled(kind: str, name: str) -> None:
    """Gradients are zero outside the places of cuttable groups, and not zero somewhere inside every group."""
    model, example = build(name)
    made = trace(model, example)
    groups = [g for g in find_channels(made).groups if g.reason is None and g.size > 1]
    if not groups:
        with pytest.raises(RecipeError, match="this model has none"):
            of(model, kind, example=example)
        return
    found = of(model, kind, example=example)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in parameters.values()}
    allowed = {name: masks[id(p)] for name, p in parameters.items()}  # tied parameters have one
    for group in groups:
        for member in group.members:
            if member.parameter in allowed:
                allowed[member.parameter].movedim(member.axis, 0)[torch.from_numpy(member.places.ravel())] = True
    model.zero_grad()
    found(model, 0).backward()
    pulled = {name for name, p in parameters.items() if p.grad is not None and bool((p.grad != 0).any())}
    for parameter, mask in allowed.items():
        gradient = parameters[parameter].grad
        assert gradient is None or not bool((gradient[~mask] != 0).any()), parameter
    if kind == "group_lasso":
        assert all(pulled & {m.parameter for m in group.members} for group in groups)
    assert pulled


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model.fc.weight.requires_grad_(False)
    assert "fc.weight" not in of(model, "group_lasso").read
    model.requires_grad_(False)
    with pytest.raises(RecipeError, match="none that are trained"):
        of(model, "group_lasso")


# ---- in the loop ------------------------------------------------------------------------------------------------


@each
def test_norms_shrink_where_they_should(kind: str) -> None:
    more: dict[str, Any] = {"epochs": 12, "learning_rate": 0.05, "weight_decay": 0.0}
    strong = {"slimming": 0.1, "group_lasso": 0.01, "growing": 3.0}[kind]
    data = task(batches(*[32] * 8))
    start = net()
    plain = finetune(start, data, settings(**more)).model
    made = finetune(start, data, settings(**more, **{**KINDS[kind], "strength": strong})).model
    found = of(start, kind)
    before, after = (found.energies(one).detach().sqrt() for one in (plain, made))
    if kind == "growing":
        assert found.doomed is not None
        gone = found.doomed.bool()
        assert float((after / before)[gone].max()) < 0.05
        assert float((after / before)[~gone].min()) > 0.5
    else:
        assert float(after.min()) < 0.25 * float(before.min())
        assert float(after.sum()) < 0.8 * float(before.sum())


@each
def test_killed_in_the_middle_it_is_the_same_training(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr("lissom.training.regularization.EVERY", 2)
    chosen = settings(epochs=3, **KINDS[kind])
    unbroken = finetune(net(), task(shuffled()), chosen, seed=3)

    for stop in (1, 4, 8):
        count = 0

        def tick(_: float, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise KeyboardInterrupt

        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(net(), task(shuffled()), chosen, folder=folder, tick=tick, seed=3)
        again = finetune(net(), task(shuffled()), chosen, folder=folder, seed=3)
        assert equal(again.model, unbroken.model)


def test_another_strength_is_another_training(tmp_path: Path) -> None:
    one, other = (settings(regularizer="group_lasso", strength=s) for s in (0.001, 0.01))
    first = finetune(net(), task(), one, folder=tmp_path).model
    second = finetune(net(), task(), other, folder=tmp_path).model
    assert not equal(first, second)
    assert equal(second, finetune(net(), task(), other).model)


def test_it_is_added_to_a_penalty_of_ones_own() -> None:
    weights = [
        finetune(net(), task(), settings(epochs=1, **more), penalty=penalty).model.norm.weight
        for more in ({}, KINDS["slimming"])
        for penalty in (None, lambda model: model.norm.weight.abs().sum() * 0.05)
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[i + 1 :])


@each
def test_a_step_is_told_before_anything_is_trained(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    one = Finetune(**PLAIN, **KINDS[kind])
    with pytest.raises(RecipeError, match=f"regularizer='{kind}' makes channels small .* Leave the regularizer out"):
        one.study(model, trace(model, task().example), task(), load_target("torch"))


@each
@pytest.mark.parametrize("pace", [{"channels_last": True}, {"precision": "bfloat16"}])
def test_memory_order_and_precision_do_not_matter(kind: str, pace: dict[str, Any]) -> None:
    chosen = settings(epochs=1, **KINDS[kind])
    plain, other = (finetune(net(), task(), chosen.model_copy(update=more)) for more in ({}, pace))
    assert other.history.epochs[0].loss == pytest.approx(plain.history.epochs[0].loss, rel=0.05)


@each
def test_an_exported_graph_has_the_same_penalty(kind: str) -> None:
    """What a pruning that could not keep the user's class hands on."""
    model, example, made = traced("residual")
    own, graph = (of(one, kind, example=example) for one in (model, made.module))
    assert float(graph(made.module, 3).detach()) == pytest.approx(float(own(model, 3).detach()), rel=1e-6)
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(9, 3, 8, 8, generator=generator), torch.arange(9) % 5) for _ in range(3)]
    aim = Task(example_inputs=example.args, train=data, loss=F.cross_entropy)
    after = finetune(made.module, aim, settings(epochs=1, **KINDS[kind])).model
    assert not torch.equal(after.get_parameter("fc.weight"), made.module.get_parameter("fc.weight"))


# ---- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": 0.1}, "strength=0.1 is of a regularizer, and there is none"),
        ({"ratio": 0.5}, "ratio=0.5 is for regularizer='growing', got None"),
        ({"regularizer": "slimming", "ratio": 0.5}, "got 'slimming'"),
        ({"regularizer": "growing"}, "give ratio"),
        ({"regularizer": "growing", "ratio": 1.0}, "less than 1"),
        ({"regularizer": "lasso"}, "'slimming', 'group_lasso' or 'growing'"),
        ({"regularizer": "slimming", "strength": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], said: str) -> None:
    for kind in (Training, Finetune):
        with pytest.raises(RecipeError, match=said):
            kind.parse(given, "here", RecipeError)


def test_what_is_not_set_is_not_written() -> None:
    """Recipes of before keep their ids."""
    assert not {"regularizer", "strength", "ratio"} & set(Finetune().model_dump(mode="json"))
    one = Finetune(regularizer="growing", ratio=0.4)
    assert Finetune.model_validate_json(one.model_dump_json()) == one
    assert one.pull == STRENGTHS["growing"]
    assert Finetune().pull == 0.0
    assert Finetune(regularizer="slimming", strength=0.3).pull == 0.3


# ---- what it is for ---------------------------------------------------------------------------------------------


class Digits(nn.Module):
    """`(b, 1, 8, 8)` to `(b, 10)`: three convolutions with normalizations."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean((2, 3)))


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Task]:
    scans = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.as_tensor(scans.images, dtype=torch.float32)[:, None] / 16
    y = torch.as_tensor(scans.target)
    data = list(zip(x[:1280].split(64), y[:1280].split(64), strict=True))
    rest = [(x[1280:], y[1280:])]
    made = Task(example_inputs=(x[:1],), train=data, validation=rest, loss=F.cross_entropy)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Digits()
    return finetune(model, made, Training(epochs=6, learning_rate=0.1, **PLAIN)).model.eval(), made


@each
def test_cutting_costs_less_after_it_than_after_plain_training(kind: str, digits: tuple[nn.Module, Task]) -> None:
    """The loss right after surgery, without recovery; both have been trained as long."""
    model, whole = digits
    strong = {"slimming": 0.05, "group_lasso": 0.001, "growing": 1.0}[kind]
    criterion: Any = "bn_scale" if kind == "slimming" else "magnitude"
    prune = Prune(ratio=0.4, criterion=criterion, recovery="none")
    bare = dataclasses.replace(whole, train=None)
    losses: list[float] = []
    for more in ({}, {**KINDS[kind], "strength": strong} | ({"ratio": 0.4} if kind == "growing" else {})):
        trained = finetune(model, whole, Training(epochs=6, learning_rate=0.05, **PLAIN, **more)).model.eval()
        made = trace(trained, whole.example)
        target = load_target("torch")
        plan = prune.plan(made.graph, prune.study(trained, made, bare, target), target)
        pruned = prune.apply(trained, plan, made, bare)
        with torch.no_grad():
            losses += [float(torch.stack([F.cross_entropy(pruned(x), y) for x, y in whole.validation or ()]).mean())]
    print(kind, losses)
    assert losses[1] < 0.7 * losses[0]
