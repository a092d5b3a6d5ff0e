"""Experts of a feed-forward: cut networks against smaller ones that are put together by hand, and through `Prune`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.errors import VerificationError
from lissom.export.onnx import write_onnx
from lissom.graph.axes import Atom
from lissom.graph.channels import Channels, find_channels
from lissom.graph.coupling import fresh
from lissom.graph.coupling_table import RULES
from lissom.graph.narrowed import narrowed
from lissom.graph.resize import REWRITES, Change
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.pruning import Cut, Prune
from lissom.transforms.pruning.surgery import Pruned, prune

EXPERTS, WIDTH, HIDDEN, TAKEN = 6, 5, 8, 2
STAY = (1, 3, 4)
TARGET = load_target("onnxruntime")


class Stacked(nn.Module):
    """A residual layer of experts whose weights are parameters with an axis of experts, and a head."""

    def __init__(self, experts: int = EXPERTS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.num_experts = experts
        self.router = nn.Linear(WIDTH, experts)
        self.up = nn.Parameter(torch.randn(experts, WIDTH, hidden))
        self.bias = nn.Parameter(torch.randn(experts, hidden))
        self.down = nn.Parameter(torch.randn(experts, hidden, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def gate(self, x: Tensor) -> Tensor:
        return self.router(x).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("nd,edh->neh", x, self.up) + self.bias)
        made = torch.einsum("neh,ehd->ned", hidden, self.down)
        return self.head(x + torch.einsum("ne,ned->nd", self.gate(x), made))


class Multiplied(Stacked):
    """By `bmm`, the experts first; the input is repeated for each of them."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.baddbmm(self.bias.unsqueeze(1), x.expand(self.num_experts, -1, -1), self.up))
        made = torch.bmm(hidden, self.down)
        return self.head(x + (made * self.gate(x).t().unsqueeze(-1)).sum(0))


class Scattered(Stacked):
    """All are computed; the gates of all but the best are zero."""

    def gate(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).topk(TAKEN, -1)
        return torch.zeros(x.shape[0], self.num_experts).scatter(-1, chosen, weights.softmax(-1))


class Selected(Stacked):
    """The same, written with a mask."""

    def gate(self, x: Tensor) -> Tensor:
        weights, chosen = super().gate(x).topk(TAKEN, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        return (F.one_hot(chosen, self.num_experts) * weights.unsqueeze(-1)).sum(-2)


class LookedUp(Stacked):
    """Only the experts that are chosen are computed, with weights that are looked up (Mixtral)."""

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).topk(TAKEN, -1)
        weights = (weights / weights.sum(-1, keepdim=True)).reshape(-1, 1)
        chosen = chosen.reshape(-1)
        rows = x.repeat_interleave(TAKEN, 0)
        hidden = torch.relu(torch.bmm(rows.unsqueeze(1), self.up[chosen]).squeeze(1) + self.bias[chosen])
        made = torch.bmm(hidden.unsqueeze(1), self.down[chosen]).squeeze(1)
        return self.head(x + (made * weights).view(-1, TAKEN, WIDTH).sum(1))


class Listed(nn.Module):
    """Modules, one for each expert."""

    def __init__(self, experts: int = EXPERTS) -> None:
        super().__init__()
        self.num_experts = experts
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(experts)
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.stack([self.experts[i](x) for i in range(self.num_experts)], 1)
        return self.head(x + (made * self.router(x).softmax(-1).unsqueeze(-1)).sum(1))


class Joined(Listed):
    """Concatenated, and summed by a product."""

    def forward(self, x: Tensor) -> Tensor:
        made = torch.cat([expert(x).unsqueeze(1) for expert in self.experts], dim=1)
        return self.head(x + torch.matmul(self.router(x).softmax(-1).unsqueeze(1), made).squeeze(1))


KINDS = [Stacked, Multiplied, Scattered, Selected, LookedUp, Listed, Joined]


def by_hand(model: nn.Module) -> nn.Module:
    """A new module of the same class with three experts, and the weights of those that stay."""
    small = type(model)(len(STAY))
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, rest = name.partition(".")
        if owner == "experts":
            index, _, rest = rest.partition(".")
            if int(index) in STAY:
                state[f"experts.{STAY.index(int(index))}.{rest}"] = tensor
        else:
            state[name] = tensor[list(STAY)] if owner in ("router", "up", "bias", "down") else tensor
    small.load_state_dict(state)
    return small


def three(model: nn.Module, example: Batch) -> tuple[Pruned, Trace, Channels, dict[Atom, np.ndarray]]:
    made = trace(model, example)
    channels = find_channels(made)
    (group,) = (group for group in channels.groups if group.size == EXPERTS)
    assert group.reason is None
    kept = {group.atom: np.array(STAY)}
    return prune(model, made, kept, example, channels), made, channels, kept


def rows(count: int = 7) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_cut_as_by_hand(kind: Callable[[], nn.Module]):
    torch.manual_seed(1)
    model, example = kind(), Batch((rows(),))
    pruned, made, channels, kept = three(model, example)
    wanted = by_hand(model)
    assert pruned.own, pruned.reason
    assert type(pruned.module) is kind
    assert (pruned.module.num_experts, model.num_experts) == (3, 6)
    state = pruned.module.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in wanted.state_dict().items()
    }
    for size in (7, 1, 12):
        got, whole = pruned.module(rows(size)), model(rows(size))
        torch.testing.assert_close(got, wanted(rows(size)), rtol=1e-5, atol=1e-5)
        assert (got - whole).abs().max() > 0.01  # the experts that went did something
    pruned.module(rows()).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in pruned.module.parameters())
    costs, counts = narrowed(made, channels), {atom: len(own) for atom, own in kept.items()}
    real = trace(wanted, example).graph
    assert costs.macs(counts, kept) == real.macs
    assert costs.parameters(counts, kept) == real.parameters
    assert costs.bytes(counts, kept) == real.bytes


def test_a_graph_whose_experts_are_modules_loses_them():
    model, example = Listed(), Batch((rows(),))
    wanted = by_hand(model)
    found, *_ = three(trace(model, example).module, example)
    assert isinstance(found.module, GraphModule)
    names = {name.split(".")[1] for name in found.module.state_dict() if name.startswith("experts.")}
    assert names == {"1", "3", "4"}
    torch.testing.assert_close(found.module(rows(4)), wanted(rows(4)))


def _other_modules(patch: pytest.MonkeyPatch) -> None:
    """The first modules stay, whichever should."""

    def first(site: Any) -> list[Change]:
        operands = site.node.args[0]
        site.node.args = (operands[: len(STAY)], *site.node.args[1:])
        return [Change(site.node.name, "tensors", len(operands), len(STAY))]

    patch.setitem(REWRITES, "stack", first)


def _slots_of_their_own(patch: pytest.MonkeyPatch) -> None:
    """The router's slots are not known to be the experts."""
    right = RULES["softmax"]
    patch.setitem(RULES, "softmax", lambda call: (*right(call)[:-1], fresh(EXPERTS)))


@pytest.mark.parametrize(("kind", "plant"), [(Listed, _other_modules), (Stacked, _slots_of_their_own)])
def test_a_planted_wrong_expert_is_caught(kind: Callable[[], nn.Module], plant: Callable[..., None], monkeypatch):
    model, example = kind(), Batch((rows(),))
    plant(monkeypatch)
    made = trace(model, example)
    channels = find_channels(made)
    groups = [group for group in channels.groups if group.size == EXPERTS and group.reason is None]
    kept = {group.atom: np.array(own) for group, own in zip(groups, (STAY, (0, 2, 5)), strict=False)}
    with pytest.raises(VerificationError, match="differs from the masked original"):
        prune(model, made, kept, example, channels)


def test_experts_that_differ_cost_what_they_are():
    """The wider experts go, or the narrower ones: what is predicted is what is left."""
    model = Listed()
    for index in (1, 3):
        model.experts[index] = nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU(), nn.Linear(3, WIDTH))
    made = trace(model, Batch((rows(),)))
    channels = find_channels(made)
    (group,) = (group for group in channels.groups if group.size == EXPERTS)
    costs = narrowed(made, channels)
    wide, narrow = WIDTH * HIDDEN * 2, WIDTH * 3 * 2
    rest = made.graph.macs - 4 * wide - 2 * narrow
    for stay in ((0, 2), (1, 3), (0, 1)):
        kept = {group.atom: np.array(stay)}
        experts = sum(narrow if index in (1, 3) else wide for index in stay)
        # The router's rows and the weighted sum that is no product are the rest.
        assert costs.macs({group.atom: 2}, kept) == rest - 4 * WIDTH + experts
    assert costs.macs({group.atom: 3}) == rest - 3 * WIDTH + (4 * wide + 2 * narrow) // 2


# ---- through the transform -------------------------------------------------------------------------------------------


def task_for(model: nn.Module) -> Task:
    return Task(example_inputs=(rows(2),), calibration=[Batch((rows(64),))])


def planned(model: nn.Module, one: Prune) -> tuple[Trace, Task, Plan]:
    task = task_for(model)
    made = trace(model, task.example)
    return made, task, one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)


@pytest.mark.parametrize("kind", [Scattered, Listed])
def test_prune_cuts_experts_and_fits_what_reads_them(kind: Callable[[], nn.Module]):
    torch.manual_seed(3)
    model = kind()
    one = Prune(parameters_ratio=1.6, scope="local")
    made, task, plan = planned(model, one)
    (router,) = (cut for cut in plan.of(Cut) if (cut.parameter, cut.axis) == ("router.weight", 0))
    assert TAKEN <= len(router.kept) < EXPERTS
    small = one.apply(model, plan, made, task)
    assert type(small) is kind
    assert small.num_experts == len(router.kept)
    assert sum(p.numel() for p in small.parameters()) == plan.predicted.parameters
    assert trace(small, task.example).graph.macs == plan.predicted.macs
    plain = one.model_copy(update={"recovery": "none"}).apply(model, plan, made, task)
    x = rows(64)
    fitted, not_fitted = ((net(x) - model(x)).square().mean() for net in (small, plain))
    assert fitted < 0.9 * not_fitted
    again = one.restructure(model, one.read_plan(json.loads(plan.model_dump_json())), made, task)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in small.state_dict().items()}


def test_a_plan_says_which_modules_are_left_out():
    model = Listed()
    with torch.no_grad():
        model.router.weight[[0, 5]] *= 1e-3  # the least important
    _, _, plan = planned(model, Prune(ratio=1 / 3, scope="local", exclude=("experts.*.0",)))
    gone = {cut.layer for cut in plan.of(Cut) if not cut.kept}
    assert gone == {"experts.0.0", "experts.0.2", "experts.5.0", "experts.5.2"}
    assert not gone & {skip.layer for skip in plan.skipped}
    kept = {cut.parameter: cut.kept for cut in plan.of(Cut)}
    assert kept["router.weight"] == kept["router.bias"] == (1, 2, 3, 4)


@pytest.mark.parametrize(("kind", "least"), [(Scattered, TAKEN), (Stacked, 2)])
def test_no_fewer_experts_stay_than_are_taken(kind: Callable[[], nn.Module], least: int):
    _, _, plan = planned(kind(), Prune(ratio=0.9, scope="local", max_ratio=0.95))
    assert {len(cut.kept) for cut in plan.of(Cut) if cut.size == EXPERTS} == {least}


class Attending(nn.Module):
    """Learned places that attend to each other: a softmax, and no gate."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(6, WIDTH))
        self.query, self.key, self.value = (nn.Linear(WIDTH, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = self.key(self.places), self.value(self.places)
        return self.head((self.query(x) @ keys.t()).softmax(-1) @ values)


class Numbered(Scattered):
    def gate(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).topk(TAKEN, -1)
        shared = chosen.clamp_max(4)
        return torch.zeros(x.shape[0], self.num_experts).scatter(-1, shared, weights.softmax(-1))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Attending, "softmax runs over it"),
        (Numbered, "clamp_max computes with the numbers of its places"),
    ],
)
def test_what_is_no_gate_stays_whole_with_a_reason(kind: Callable[[], nn.Module], said: str):
    channels = find_channels(trace(kind(), Batch((rows(),))))
    reasons = {g.reason for g in channels.groups if g.size == EXPERTS}
    assert said in reasons
    assert None not in reasons


def test_experts_leave_through_onnx(tmp_path: Path):
    torch.manual_seed(5)
    pruned, *_ = three(Scattered(), Batch((rows(2),)))
    artifact = write_onnx(pruned.module, Batch((rows(2),)), "onnxruntime", tmp_path, "small")
    session = onnxruntime.InferenceSession(tmp_path / artifact.files[0])
    (got,) = session.run(None, {session.get_inputs()[0].name: rows(9).numpy()})
    np.testing.assert_allclose(got, pruned.module(rows(9)).detach().numpy(), rtol=1e-4, atol=1e-5)
