"""`Prune`: settings, criteria, scopes, budgets, plans, recovery."""

from __future__ import annotations

import functools
import json
import re
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.errors import DataError, GoalError, RecipeError
from lissom.functional.selection import rounded
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.pruning import Cut, Prune
from lissom.transforms.pruning.scores import ACTIVATION, GRADIENT, Criterion
from small_models import MODELS, build, call, settled, traced

TARGET = load_target("torch")
"""It cuts channel by channel; multiples are for `test_prune_multiples`."""


class Net(nn.Module):
    """Two stages of one structure, a residual, an attention-free head: groups that differ in size and in kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(12)
        self.first, self.first_norm = nn.Conv2d(12, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)
        self.back, self.back_norm = nn.Conv2d(20, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.second, self.second_norm = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.hidden, self.head = nn.Linear(16, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = x + self.back_norm(self.back(torch.relu(self.first_norm(self.first(x)))))
        x = torch.relu(self.second_norm(self.second(x)))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


SIZES = {"stem.weight": 12, "first.weight": 20, "second.weight": 16, "hidden.weight": 10}


@functools.cache
def prepared() -> tuple[nn.Module, Trace, Task]:
    torch.manual_seed(0)
    model, x = settled(Net()), torch.randn(48, 3, 8, 8)
    batches = [Batch((part,), target=torch.randint(0, 4, (16,))) for part in x.split(16)]
    task = Task(example_inputs=(x[:2],), calibration=batches, loss=nn.functional.cross_entropy)
    return model, trace(model, task.example), task


def planned(one: Prune, task: Task | None = None) -> Plan:
    model, made, given = prepared()
    return one.plan(made.graph, one.study(model, made, task or given, TARGET), TARGET)


def carried_out(one: Prune) -> tuple[nn.Module, Plan]:
    model, made, task = prepared()
    plan = planned(one)
    return one.apply(model, plan, made, task), plan


def counts(plan: Plan) -> dict[str, int]:
    """Channels that stay, by group of `Net`."""
    made = {cut.parameter: len(cut.kept) for cut in plan.of(Cut) if cut.axis == 0}
    return {name: made.get(name, size) for name, size in SIZES.items()}


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"), [({}, "got none"), ({"ratio": 0.3, "macs_ratio": 2.0}, "got ratio and macs_ratio")]
)
def test_exactly_one_wish(given, said):
    with pytest.raises(
        ValueError, match=rf"Prune needs exactly one of ratio, macs_ratio.*{said}.*Write Prune\(ratio=0.3\)"
    ):
        Prune(**given)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_ratios_are_shares(ratio):
    with pytest.raises(ValueError, match="ratio"):
        Prune(ratio=ratio)
    with pytest.raises(ValueError, match="max_ratio"):
        Prune(ratio=0.5, max_ratio=ratio)


@pytest.mark.parametrize("field", ["macs_ratio", "parameters_ratio", "size_ratio"])
def test_budgets_are_times_smaller(field):
    with pytest.raises(ValueError, match=field):
        Prune(**{field: 0.5})


def test_an_unknown_criterion_names_the_known_ones():
    with pytest.raises(RecipeError, match=r"(?s)step 1.*criterion.*'taylor'"):
        lissom.Recipe.from_data([{"Prune": {"ratio": 0.3, "criterion": "tailor"}}])


def test_an_excluded_layer_that_does_not_exist():
    with pytest.raises(RecipeError, match=r"Prune\(exclude=...\): the pattern 'fist' matches no layer.*'first'"):
        planned(Prune(ratio=0.3, exclude=("fist",)))


@pytest.mark.parametrize("criterion", sorted(GRADIENT | ACTIVATION))
def test_criteria_that_need_data_say_so(criterion):
    model, made, task = prepared()
    one = Prune(ratio=0.3, criterion=criterion)
    assert one.needs() == {"calibration"}
    with pytest.raises(DataError, match=r"Prune.*Task\((calibration|loss)=\.\.\.\)"):
        one.study(model, made, Task(example_inputs=task.example_inputs), TARGET)


@pytest.mark.parametrize("criterion", sorted(GRADIENT))
def test_criteria_that_need_a_loss_and_labels_say_so(criterion):
    model, made, task = prepared()
    one, unlabelled = Prune(ratio=0.3, criterion=criterion), [Batch(b.args) for b in task.calibration]
    without_loss = Task(example_inputs=task.example_inputs, calibration=task.calibration)
    with pytest.raises(DataError, match=rf"criterion='{criterion}'\) needs Task\(loss=...\).*Choose"):
        one.study(model, made, without_loss, TARGET)
    without_labels = Task(example_inputs=task.example_inputs, calibration=unlabelled, loss=task.loss)
    with pytest.raises(DataError, match="needs labelled calibration data"):
        one.study(model, made, without_labels, TARGET)


def test_magnitude_needs_nothing():
    assert Prune(ratio=0.3).needs() == frozenset()
    _, _, task = prepared()
    assert planned(Prune(ratio=0.3), Task(example_inputs=task.example_inputs)).actions


# ---- criteria and scopes ---------------------------------------------------------------------------------------------


def chosen(criterion: str, **more: object) -> dict[str, tuple[int, ...]]:
    plan = planned(Prune(ratio=0.5, scope="local", criterion=criterion, **more))
    return {cut.parameter: cut.kept for cut in plan.of(Cut) if cut.axis == 0 and cut.parameter in SIZES}


@pytest.mark.parametrize("criterion", [c for c in get_args(Criterion) if c != "random"])
def test_every_criterion_chooses_by_itself(criterion):
    mine = chosen(criterion)
    assert {name: len(kept) for name, kept in mine.items()} == {name: size // 2 for name, size in SIZES.items()}
    assert chosen(criterion) == mine
    assert mine != chosen("random")


def test_random_is_seeded():
    assert chosen("random", seed=1) == chosen("random", seed=1) != chosen("random", seed=2)


@pytest.mark.parametrize(
    "criterion", ["l1", "l2", "magnitude", "bn_scale", "taylor", "fisher", "gradient", "reconstruction", "activation"]
)
def test_a_channel_that_does_nothing_goes_first(criterion):
    torch.manual_seed(1)
    model = settled(Net())
    with torch.no_grad():
        for layer, norm in ((model.first, model.first_norm), (model.second, model.second_norm)):
            layer.weight[3] = norm.weight[3] = norm.bias[3] = 0.0
        model.back.weight[:, 3] = model.hidden.weight[:, 3] = 0.0
    _, _, task = prepared()
    made, one = trace(model, task.example), Prune(ratio=0.1, scope="local", criterion=criterion, reduction="sum")
    study = one.study(model, made, task, TARGET)
    for name in ("first.weight", "second.weight"):
        scores = study.scores[name]
        assert scores[3] == scores.min() < scores.max()  # a channel that is never positive ties with it


def test_scopes_share_out_differently():
    found = {scope: counts(planned(Prune(ratio=0.5, scope=scope))) for scope in ("local", "global", "isomorphic")}
    assert found["local"] == {name: size // 2 for name, size in SIZES.items()}
    for one in found.values():
        assert sum(one.values()) == sum(SIZES.values()) // 2
    # conv, norm, next conv: one structure; stem has the residual's members, hidden has a bias
    pair = ("first.weight", "second.weight")
    assert sum(found["isomorphic"][name] for name in pair) in (18, 20 // 2 + 16 // 2)
    assert found["global"] != found["local"]


@pytest.mark.parametrize(("criterion", "usual", "other"), [("bn_scale", "max", "mean"), ("l1", "mean", "max")])
def test_the_usual_normalization_is_that_of_the_criterion(criterion, usual, other):
    def chosen(normalization):
        return planned(Prune(ratio=0.4, criterion=criterion, normalization=normalization)).actions

    assert chosen("auto") == chosen(usual)
    assert chosen("auto") != chosen(other)


@pytest.mark.parametrize("multiple", [4, 8])
def test_round_to_keeps_multiples(multiple):
    plan = planned(Prune(ratio=0.4, scope="local", round_to=multiple))
    for name, count in counts(plan).items():
        assert count % multiple == 0 or count == SIZES[name]
        assert count <= rounded(SIZES[name], SIZES[name], 1, multiple)
    assert plan.actions


def test_max_ratio_bounds_what_one_group_loses():
    plan = planned(Prune(ratio=0.5, max_ratio=0.5, normalization="none", criterion="l1"))
    assert all(count >= SIZES[name] // 2 for name, count in counts(plan).items())


def test_excluded_layers_keep_their_outputs():
    plan = planned(Prune(ratio=0.5, exclude=("first", "hid*")))
    found = counts(plan)
    assert (found["first.weight"], found["hidden.weight"]) == (20, 10)
    assert found["stem.weight"] < 12
    skipped = {skip.layer: skip.reason for skip in plan.skipped if "excluded" in skip.reason}
    assert set(skipped) == {"first", "hidden"}


# ---- budgets ---------------------------------------------------------------------------------------------------------

FIELDS = {"macs_ratio": "macs", "parameters_ratio": "parameters", "size_ratio": "bytes"}


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("field", FIELDS)
def test_budgets_are_met_and_the_prediction_is_the_real_cost(field, scope):
    _, made, task = prepared()
    pruned, plan = carried_out(Prune(**{field: 2.0}, scope=scope, recovery="none"))
    real = lissom.analyze(pruned, task)
    what = FIELDS[field]
    assert getattr(real, what) <= getattr(made.graph, what) / 2
    assert getattr(real, what) >= getattr(made.graph, what) / 3, "more was cut than a coarse step explains"
    assert (plan.predicted.macs, plan.predicted.parameters, plan.predicted.bytes) == (
        real.macs,
        real.parameters,
        real.bytes,
    )


@pytest.mark.parametrize(
    ("field", "what"),
    [("macs_ratio", "number of MACs"), ("parameters_ratio", "number of parameters"), ("size_ratio", "size in bytes")],
)
def test_a_budget_out_of_reach_says_what_is_in_reach(field, what):
    with pytest.raises(GoalError, match=rf"A {what} of .* is out of reach") as wrong:
        planned(Prune(**{field: 1000.0}))
    least = float(re.search(r"at its smallest it is ([\d.e+]+),", str(wrong.value)).group(1))
    made = prepared()[1].graph
    whole = getattr(made, FIELDS[field])
    reached = planned(Prune(**{field: whole / (least * 1.0001)}))
    assert getattr(reached.predicted, FIELDS[field]) == pytest.approx(least, rel=1e-4)


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_plans_survive_json_and_replay_on_a_fresh_original():
    one = Prune(parameters_ratio=1.8, criterion="taylor", recovery="none")
    pruned, plan = carried_out(one)
    again = one.read_plan(json.loads(plan.model_dump_json()))
    assert again == plan
    torch.manual_seed(7)
    fresh = settled(Net())
    _, _, task = prepared()
    small = one.restructure(fresh, again, trace(fresh, task.example), Task(example_inputs=task.example_inputs))
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in pruned.state_dict().items()}
    small.load_state_dict(pruned.state_dict())
    assert torch.equal(call(small, task.example)[0], call(pruned, task.example)[0])


def test_zeroing_what_the_plan_names_gives_the_pruned_outputs():
    model, _, task = prepared()
    pruned, plan = carried_out(Prune(ratio=0.4, recovery="none"))
    zeroed = settled(Net())
    zeroed.load_state_dict(model.state_dict())
    state = zeroed.state_dict()
    for cut in plan.of(Cut):
        assert cut.size == state[cut.parameter].shape[cut.axis]
        gone = [place for place in range(cut.size) if place not in cut.kept]
        state[cut.parameter].index_fill_(cut.axis, torch.tensor(gone), 0.0)
    wanted = call(zeroed, task.example)[0]
    assert (call(pruned, task.example)[0] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_in_actions_or_skipped(name):
    _, example, made = traced(name)
    one = Prune(ratio=0.3)
    task = Task(example_inputs=example.args, example_kwargs=example.kwargs)
    plan = one.plan(made.graph, one.study(build(name)[0], made, task, TARGET), TARGET)
    said = {action.layer for action in plan.actions} | {skip.layer for skip in plan.skipped}
    weights = [t.name for t in made.graph.tensors if len(t.shape) > 1 and t.trainable and t.used_by]
    for weight in weights:
        assert weight.rpartition(".")[0] in said or weight in said, weight


# ---- recovery --------------------------------------------------------------------------------------------------------


def error(module: nn.Module) -> float:
    """Of the outputs on the calibration data, against the whole model."""
    model, _, task = prepared()
    pairs = [(call(model, b)[0], call(module, b)[0]) for b in task.calibration]
    return sum(float((a - b).square().sum()) for a, b in pairs)


def test_recovery_brings_the_outputs_back():
    found = {
        how: error(carried_out(Prune(ratio=0.4, criterion="magnitude", recovery=how))[0])
        for how in ("none", "bias", "reconstruct")
    }
    assert found["reconstruct"] < 0.5 * found["none"]
    assert found["reconstruct"] < found["bias"] < found["none"]


def test_automatic_recovery_follows_the_data():
    model, made, task = prepared()
    one, bare = Prune(ratio=0.4), Task(example_inputs=task.example_inputs)
    plan = planned(one)
    with_data, without = one.apply(model, plan, made, task), one.apply(model, plan, made, bare)
    plain, fitted = (carried_out(Prune(ratio=0.4, recovery=how))[0].state_dict() for how in ("none", "reconstruct"))
    assert all(torch.equal(t, plain[n]) for n, t in without.state_dict().items())
    assert all(torch.equal(t, fitted[n]) for n, t in with_data.state_dict().items())
    assert not torch.equal(plain["hidden.weight"], fitted["hidden.weight"])


@pytest.mark.parametrize("how", ["bias", "reconstruct"])
def test_recovery_leaves_layers_before_the_cut_bit_for_bit(how):
    others = ("stem", "first", "second")
    pruned, _ = carried_out(Prune(ratio=0.5, scope="local", exclude=others, recovery=how))
    model, _, _ = prepared()
    before, after = model.state_dict(), pruned.state_dict()
    assert after["hidden.weight"].shape == (5, 16)
    for name in before:
        if not name.startswith(("hidden", "head")):
            assert torch.equal(after[name], before[name]), name
    kept = [i for i in range(10) if (after["hidden.weight"] == before["hidden.weight"][i]).all(1).any()]
    assert len(kept) == 5  # the cut layer itself is sliced, not fitted
    assert not torch.equal(after["head.bias"], before["head.bias"])


def test_a_layer_is_fitted_as_numpy_fits_it():
    """The head, from what it reads now to what it made: the whole of recovery for one layer behind one cut."""
    pruned, _ = carried_out(
        Prune(ratio=0.5, scope="local", exclude=("stem", "first", "second"), recovery="reconstruct")
    )
    model, _, task = prepared()
    x = torch.cat([b.args[0] for b in task.calibration])
    inner: dict[str, Tensor] = {}
    with pruned.head.register_forward_pre_hook(lambda _, given: inner.update(x=given[0])), torch.no_grad():
        got = pruned(x)
    design = np.hstack([inner["x"].double().numpy(), np.ones((len(x), 1))])
    wanted = call(model, Batch((x,)))[0].double().numpy()
    best, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    residual = ((design @ best - wanted) ** 2).sum()
    mine = ((got.double().numpy() - wanted) ** 2).sum()
    # The ridge of 1e-3 of each variance keeps it from the optimum by no more than that share of the weights' energy.
    assert residual <= mine * (1 + 1e-6)
    assert mine <= residual * 1.05 + 1e-3 * (wanted**2).sum()
