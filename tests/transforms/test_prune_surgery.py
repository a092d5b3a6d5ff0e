"""Surgery: pruned equals masked on random networks, own classes come back, wrong couplings are caught."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from random_nets import ACTIVATIONS, IMAGE_BLOCKS, MIXING_TOKEN_BLOCKS, TOKEN_BLOCKS, ImageNet, TokenNet
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.errors import VerificationError
from lissom.graph.agreement import ALLOWED_GAP
from lissom.graph.axes import Atom
from lissom.graph.channels import Channels, Group, find_channels
from lissom.graph.coupling_table import RULES
from lissom.graph.narrowed import narrowed
from lissom.graph.resize import REWRITES, Sizes
from lissom.graph.trace import trace
from lissom.task import Batch
from lissom.transforms.base import clone
from lissom.transforms.pruning.surgery import Pruned, difference, prune
from small_models import MODELS, build, call, fingerprint, same, settled, traced


def free(channels: Channels) -> list[Group]:
    return [group for group in channels.groups if group.reason is None and group.size > 1]


def half(channels: Channels) -> dict[Atom, np.ndarray]:
    return {group.atom: np.arange(0, group.size, 2, dtype=np.int64) for group in free(channels)}


def cut(model: nn.Module, example: Batch, kept: Mapping[str, tuple[int, ...]] | None = None) -> tuple[Pruned, Sizes]:
    """`model` with half of every group, or with what is `kept` by group."""
    made = trace(model, example)
    channels = find_channels(made)
    by_name = {group.name: group.atom for group in channels.groups}
    atoms = half(channels) if kept is None else {by_name[n]: np.array(own, dtype=np.int64) for n, own in kept.items()}
    return prune(model, made, atoms, example, channels), Sizes(channels, atoms)


def zeroed(model: nn.Module, sizes: Sizes) -> nn.Module:
    """The original with every cut slice of its parameters and buffers literally zero."""
    found = clone(model)
    state = {**dict(found.named_parameters()), **dict(found.named_buffers())}
    with torch.no_grad():
        for name in sizes.channels.parameters:
            for axis, kept in sizes.of_parameter(name).items():
                gone = np.setdiff1d(np.arange(state[name].shape[axis]), kept)
                state[name].index_fill_(axis, torch.from_numpy(gone), 0.0)
    return found


HARD_CODED = {"split", "padded", "shuffle"}
"""Blocks whose forward() holds a number of channels, or halves what may be cut unevenly."""
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Every example is a network to trace: a failure is shown as it was found."""


# ---- random networks -------------------------------------------------------------------------------------------------


@st.composite
def recipes(draw, tokens: bool, mixing: bool) -> tuple[list[str], list[int], list[str], bool]:
    count = draw(st.integers(1, 3))

    def some(values):
        return draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))

    plain, mixed = (["none"], ["layer", "rms"]) if tokens else (["batch", "instance", "none"], ["group"])
    kinds = some(TOKEN_BLOCKS + MIXING_TOKEN_BLOCKS * mixing if tokens else IMAGE_BLOCKS)
    return kinds, some(range(len(ACTIVATIONS))), some(plain + mixed * mixing), draw(st.booleans())


def network(recipe: tuple[list[str], list[int], list[str], bool], tokens: bool) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    model = settled((TokenNet if tokens else ImageNet)(*recipe))
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model, Batch((torch.randn(2, 4, 5) if tokens else torch.randn(2, 3, 6, 6),))


kinds = pytest.mark.parametrize(("tokens", "mixing"), [(False, False), (False, True), (True, False), (True, True)])


@kinds
@given(data=st.data())
@settings(max_examples=4, phases=NO_SHRINKING)
def test_pruned_equals_masked_on_random_networks(tokens, mixing, data):
    check_random_network(tokens, mixing, data)


@pytest.mark.slow
@kinds
@given(data=st.data())
@settings(max_examples=50, phases=NO_SHRINKING)
def test_pruned_equals_masked_on_many_random_networks(tokens, mixing, data):
    check_random_network(tokens, mixing, data)


def check_random_network(tokens: bool, mixing: bool, data: st.DataObject) -> None:
    recipe = data.draw(recipes(tokens, mixing))
    model, example = network(recipe, tokens)
    before = fingerprint(model)
    made = trace(model, example)
    channels = find_channels(made)
    assert channels.unknown == {}
    kept: dict[Atom, np.ndarray] = {}
    for group in free(channels):
        if data.draw(st.booleans(), label=group.name):
            stay = data.draw(st.lists(st.booleans(), min_size=group.size, max_size=group.size))
            kept[group.atom] = np.flatnonzero(stay) if any(stay) else np.array([0])
    pruned = prune(model, made, kept, example, channels)
    sizes = Sizes(channels, kept)
    assert pruned.gap <= ALLOWED_GAP / 5
    assert pruned.own or set(recipe[0]) & HARD_CODED, pruned.reason
    assert isinstance(pruned.module, type(model) if pruned.own else GraphModule)
    assert same(before, fingerprint(model))
    assert sorted(pruned.module.state_dict()) == sorted(model.state_dict())
    if not mixing:
        got, wanted = call(pruned.module, example)[0], call(zeroed(model, sizes), example)[0]
        assert (got - wanted).abs().max() <= ALLOWED_GAP / 5 * wanted.abs().max()
    costs, counts = narrowed(made, channels), {atom: len(own) for atom, own in kept.items()}
    assert costs.parameters(counts) == sum(p.numel() for p in pruned.module.parameters())


# ---- which class comes back ------------------------------------------------------------------------------------------

NOT_OWN = {"transformer": "Provided sizes [3, 2, 4] don't multiply up"}
"""The head count is written into its forward()."""


@pytest.mark.parametrize("name", MODELS)
def test_small_models_come_back_as_their_own_class(name):
    model, example = build(name)
    model.train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    before = fingerprint(model)
    pruned, sizes = cut(model, example)
    assert same(before, fingerprint(model))
    assert pruned.own == (name not in NOT_OWN)
    assert NOT_OWN.get(name, "") in pruned.reason
    assert isinstance(pruned.module, type(model) if pruned.own else GraphModule)
    assert sorted(pruned.module.state_dict()) == sorted(model.state_dict())
    after = dict(pruned.module.named_parameters(remove_duplicate=False))
    for parameter, tensor in model.named_parameters(remove_duplicate=False):
        assert after[parameter].requires_grad == tensor.requires_grad
        assert after[parameter].is_leaf
    if pruned.own:
        assert [m.training for m in pruned.module.modules()] == [m.training for m in model.modules()]
    state = pruned.module.state_dict()
    for listed in sizes.channels.parameters:
        whole = model.state_dict().get(listed)
        if whole is not None:
            kept = sizes.of_parameter(listed)
            index = np.ix_(*(kept.get(axis, np.arange(size)) for axis, size in enumerate(whole.shape)))
            np.testing.assert_array_equal(state[listed].numpy(), whole.numpy()[index])


class Attributes(nn.Module):
    """Sizes kept in Python attributes, alone, in a tuple and in torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.split = (6, 10)
        self.q, self.k, self.v, self.o = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 16)
        self.left, self.right = nn.Linear(6, 3), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        a, b = self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).split(self.split, -1)
        return self.left(a) + self.right(b)


def test_frozen_integers_are_rewritten():
    model, example = Attributes().eval(), Batch((torch.randn(2, 3, 5),))
    channels = find_channels(trace(model, example))
    heads = next(g.name for g in free(channels) if g.size == 4)
    kept = {heads: (0, 3), "o.weight": (0, 2, 5), "o.weight#2": (1, 2, 3, 4, 9)}
    pruned, _ = cut(model, example, kept)
    assert pruned.own, pruned.reason
    small = pruned.module
    assert isinstance(small, Attributes)
    assert (small.num_heads, small.split) == (2, (3, 5))
    assert (model.num_heads, model.split) == (4, (6, 10))
    assert (small.o.in_features, small.o.out_features) == (4, 8)
    assert (small.left.in_features, small.right.in_features) == (3, 5)
    # rows 2h and 2h + 1 belong to head h
    torch.testing.assert_close(small.q.weight, model.q.weight[[0, 1, 6, 7]], rtol=0, atol=0)
    torch.testing.assert_close(
        small.o.weight, model.o.weight[[0, 2, 5, 7, 8, 9, 10, 15]][:, [0, 1, 6, 7]], rtol=0, atol=0
    )


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, object]]] = {
    "layer norm": (nn.LayerNorm(8), (2, 4, 5), {"normalized_shape": (4,)}),
    "rms norm": (nn.RMSNorm(8), (2, 4, 5), {"normalized_shape": (4,)}),
    "batch norm": (nn.BatchNorm1d(8), (2, 5), {"num_features": 4}),
    "group norm": (nn.GroupNorm(4, 8), (2, 5), {"num_groups": 2, "num_channels": 2}),
    "prelu": (nn.PReLU(8), (2, 5), {"num_parameters": 4}),
    "lstm": (nn.LSTM(8, 8, batch_first=True), (2, 4, 5), {"input_size": 4, "hidden_size": 4}),
    "gru": (nn.GRU(8, 4, batch_first=True, bidirectional=True), (2, 4, 5), {"input_size": 4, "hidden_size": 2}),
    "linear": (nn.Linear(8, 8), (2, 5), {"in_features": 4, "out_features": 4}),
}


class Around(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(5, 8), layer, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.first(x))
        return self.last(y[0] if isinstance(y, tuple) else y)


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_own_layers_know_their_new_size(name):
    layer, shape, wanted = LAYERS[name]
    example = Batch((torch.randn(shape),))
    pruned, _ = cut(Around(layer).eval(), example)
    assert pruned.own, pruned.reason
    assert {key: getattr(pruned.module.layer, key) for key in wanted} == wanted
    assert repr(pruned.module.layer) != repr(layer)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.grouped = nn.Conv2d(16, 12, 1, groups=4)
        self.transposed = nn.ConvTranspose2d(12, 6, 2, groups=2)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.sigmoid(layer(x))
        return x


def test_convolutions_know_their_new_groups_and_channels():
    pruned, sizes = cut(Convolutions().eval(), Batch((torch.randn(2, 3, 8, 8),)))
    assert pruned.own, pruned.reason
    for layer in pruned.module.children():
        transposed = isinstance(layer, nn.ConvTranspose2d)
        first, second = layer.weight.shape[:2]
        wanted = (first, second * layer.groups) if transposed else (second * layer.groups, first)
        assert (layer.in_channels, layer.out_channels) == wanted
    assert pruned.module.depthwise.groups < 8
    assert pruned.module.grouped.groups < 4
    assert len(sizes.kept) > 3


class HardCoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).view(-1, 8))


class Silent(HardCoded):
    """Runs at any size, but a number in its forward() follows from the old one."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        return self.b(F.layer_norm(y, (y.shape[-1],)) / 8.0**0.5 + torch.ones(y.shape[-1]))


@pytest.mark.parametrize("branch", ["wrong size", "another operator"])
def test_the_rewritten_graph_comes_back_where_the_own_class_cannot(branch):
    class Branching(HardCoded):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(torch.relu(y) if y.shape[-1] == 8 else torch.sigmoid(y))

    model = HardCoded() if branch == "wrong size" else Branching()
    example = Batch((torch.randn(4, 5),))
    pruned, sizes = cut(model.eval(), example)
    assert not pruned.own
    assert isinstance(pruned.module, GraphModule)
    wanted = (
        "its own forward() does not run at the new sizes"
        if branch == "wrong size"
        else "its own forward() computes aten.sigmoid"
    )
    assert pruned.reason.startswith(wanted)
    torch.testing.assert_close(call(pruned.module, example)[0], call(zeroed(model, sizes), example)[0])
    assert dict(pruned.module.named_parameters())["a.weight"].shape == (4, 5)


def test_an_exported_graph_is_pruned_as_it_is():
    _, example, made = traced("residual")
    pruned, _ = cut(made.module, example)
    assert (pruned.own, pruned.reason) == (False, "the model is an exported graph")
    assert pruned.module is not made.module


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_tied_weights_stay_tied():
    model, example = build("tied")
    pruned, _ = cut(model, example)
    assert pruned.module.head.weight is pruned.module.embedding.weight
    assert pruned.module.head.weight.shape == (11, 3)
    graph, _ = cut(trace(model, example).module, example)
    assert graph.module.get_parameter("head.weight") is graph.module.get_parameter("embedding.weight")


def test_buffers_are_cut_with_their_channels():
    model, example = build("residual")
    pruned, sizes = cut(model, example)
    at = sizes.of_parameter("stem.1.running_mean")[0]
    assert len(at) == 4
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(pruned.module.stem[1], name), getattr(model.stem[1], name)[at], rtol=0, atol=0
        )
    assert pruned.module.stem[1].num_batches_tracked == model.stem[1].num_batches_tracked


def test_other_batches_run_through_the_smaller_network():
    model, example = build("residual")
    pruned, sizes = cut(model, example)
    other = Batch((torch.randn(7, 3, 8, 8),))
    torch.testing.assert_close(
        call(pruned.module, other)[0], call(zeroed(model, sizes), other)[0], rtol=1e-4, atol=1e-5
    )


def test_the_smaller_network_trains():
    model, example = build("residual")
    pruned, _ = cut(model, example)
    pruned.module.train()(example.args[0]).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in pruned.module.parameters())


# ---- wrong couplings -------------------------------------------------------------------------------------------------


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.other, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.channel_shuffle(self.a(torch.relu(self.other(x))), 2))


def _forget_shuffle(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(RULES, "channel_shuffle", RULES["relu"])
    patch.setitem(REWRITES, "channel_shuffle", lambda _: [])


def _forget_the_sum(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(RULES, "add", lambda made: made.every()[0])


def _forget_the_half(patch: pytest.MonkeyPatch) -> None:
    """The second half is taken for the first."""
    right = RULES["chunk"]
    patch.setitem(RULES, "chunk", lambda made: list(reversed(right(made))))


WRONG = {
    # network, input, what is planted, how many of the channels go, what is said, the group
    "shuffle": (Shuffled, (2, 3, 4, 4), _forget_shuffle, 2, "differs from the masked original", "a.weight"),
    "shuffle that cannot run": (Shuffled, (2, 3, 4, 4), _forget_shuffle, 3, "does not run", "a.weight"),
    "residual": (
        lambda: build("residual")[0],
        (2, 3, 8, 8),
        _forget_the_sum,
        4,
        "differs from the masked original",
        "stem.0.weight",
    ),
    "halves": (
        lambda: build("branches")[0],
        (2, 3, 8, 8),
        _forget_the_half,
        2,
        "differs from the masked original",
        "first.weight",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_wrong_coupling_is_caught_and_named(name, monkeypatch):
    make, shape, plant, count, said, culprit = WRONG[name]
    model, example = make().eval(), Batch((torch.randn(shape),))
    made = trace(model, example)

    def kept(channels: Channels) -> dict[Atom, np.ndarray]:
        """Other channels of every group."""
        random = np.random.default_rng(3)
        return {g.atom: np.sort(random.permutation(g.size)[: max(1, g.size - count)]) for g in free(channels)}

    right = find_channels(made)
    prune(model, made, kept(right), example, right)
    plant(monkeypatch)
    wrong = find_channels(made)
    with pytest.raises(VerificationError, match=rf"{said}.*the first group that does so alone: '{re.escape(culprit)}"):
        prune(model, made, kept(wrong), example, wrong)


def test_what_is_not_finite_is_a_difference():
    model, example = build("mlp")
    made = trace(model, example)
    sizes = Sizes(find_channels(made), {})
    assert difference(made, sizes, model, example) <= ALLOWED_GAP
    broken = clone(model)
    with torch.no_grad():
        next(broken.parameters())[0, 0] = torch.nan
    assert difference(made, sizes, broken, example) == float("inf")
