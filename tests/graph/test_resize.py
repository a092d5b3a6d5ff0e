"""A traced graph after a cut: constants by hand for every rewrite, and against the masked original on every case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from channel_cases import CASES, IMAGE, ROWS, TOKENS, Case, Net, between, conv, convs, lin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.graph.axes import Atom
from lissom.graph.channels import Channels, Group, find_channels, listed_names
from lissom.graph.coupling_table import RULES
from lissom.graph.graph import LOOKS
from lissom.graph.masked import Masked
from lissom.graph.narrowed import narrowed
from lissom.graph.resize import REWRITES, Change, Sizes, resize_, slice_parameters_, sliced_tensor
from lissom.graph.trace import Trace, trace
from lissom.task import Batch
from lissom.transforms.base import clone
from small_models import call, traced

GAP = 1e-5
"""Of the largest output. Sums of at most 512 float32 terms in another order: 512 times 6e-8 is far above what random
rounding gives, its root 1.4e-6 is what it gives."""


def free(channels: Channels) -> list[Group]:
    return [group for group in channels.groups if group.reason is None and group.size > 1]


def smaller(made: Trace, channels: Channels, kept: dict[Atom, np.ndarray]) -> tuple[torch.fx.GraphModule, list[Change]]:
    sizes = Sizes(channels, kept)
    module = clone(made.module)
    slice_parameters_(module, sizes, listed_names(made))
    return module, resize_(module, sizes)


def gap(made: Trace, channels: Channels, kept: dict[Atom, np.ndarray], inputs: Batch) -> float:
    """Largest difference to the masked original, as a share of its largest output."""
    module, _ = smaller(made, channels, kept)
    masked = Masked(made, Sizes(channels, kept), listed_names(made))
    with torch.no_grad():
        wanted = masked.run(*inputs.tensors(), enable_io_processing=False)
    wanted = [t for t in torch.utils._pytree.tree_leaves(wanted) if isinstance(t, torch.Tensor)]
    got = call(module, inputs)
    assert [t.shape for t in got] == [t.shape for t in wanted]
    gaps = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(got, wanted, strict=True)]
    return max(gaps)


def inputs_of(case: Case, batch: int = 2) -> Batch:
    made = torch.Generator().manual_seed(1)
    return Batch(
        tuple(
            torch.randint(0, 5, (batch, *s[1:-1]), generator=made)
            if s[-1] == 0
            else torch.randn((batch, *s[1:]), generator=made)
            for s in case.shapes
        )
    )


def some(group: Group, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    count = int(random.integers(group.floor, group.size))
    return np.sort(random.permutation(group.size)[:count]).astype(np.int64)


# ---- every case of coupling, cut -------------------------------------------------------------------------------------

CUTTABLE = [name for name, case in CASES.items() if case.free]


@pytest.mark.parametrize("name", CUTTABLE)
def test_cut_graphs_equal_the_masked_original(name):
    """Every group alone, then all of them."""
    case = CASES[name]
    groups = free(case.channels)
    example = inputs_of(case, 3 if case.trace.graph.dynamic_batch else 2)
    for seed, chosen in enumerate([*([group] for group in groups), groups]):
        kept = {group.atom: some(group, seed) for group in chosen}
        assert gap(case.trace, case.channels, kept, example) < GAP


WITH_PRODUCTS = [
    "linear", "depthwise with two filters a channel", "transposed and grouped", "addmm", "baddbmm",
    "einsum of two values", "product of two values", "attention with grouped queries", "multi-head attention",
    "gru, two layers, both ways", "concatenation", "experts", "experts whose weights are looked up",
    "modules side by side",
]  # fmt: skip
"""Cases that between them hold every operator that multiplies."""


@pytest.mark.parametrize("name", CUTTABLE)
def test_predicted_cost_is_the_cost_of_the_cut_graph(name):
    case = CASES[name]
    kept = {group.atom: some(group, 5) for group in free(case.channels)}
    module, _ = smaller(case.trace, case.channels, kept)
    costs, counts = narrowed(case.trace, case.channels), {atom: len(own) for atom, own in kept.items()}
    state = {id(t): t for t in (*module.parameters(), *module.buffers())}.values()
    assert costs.parameters(counts, kept) == sum(p.numel() for p in module.parameters())
    assert costs.bytes(counts, kept) >= sum(t.numel() * t.element_size() for t in state)
    whole = case.trace.graph
    assert (costs.macs({}), costs.parameters({}), costs.bytes({})) == (whole.macs, whole.parameters, whole.bytes)
    if name in WITH_PRODUCTS:
        real = trace(module, inputs_of(case)).graph
        assert costs.macs(counts, kept) == real.macs < whole.macs
        assert costs.bytes(counts, kept) == real.bytes


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer", "recurrent", "tied", "branches"])
@given(data=st.data())
@settings(max_examples=2)
def test_predicted_cost_on_small_models(name, data):
    _, example, made = traced(name)
    channels = find_channels(made)
    costs = narrowed(made, channels)
    counts = {group.atom: data.draw(st.integers(1, group.size)) for group in free(channels)}
    kept = {atom: np.arange(count, dtype=np.int64) for atom, count in counts.items()}
    module, _ = smaller(made, channels, kept)
    real = trace(module, example).graph
    assert (costs.macs(counts), costs.parameters(counts), costs.bytes(counts)) == (
        real.macs,
        real.parameters,
        real.bytes,
    )


def test_nothing_cut_changes_nothing():
    for name in ("attention", "grouped", "channel shuffle", "padding shortcut"):
        case = CASES[name]
        module, changes = smaller(case.trace, case.channels, {g.atom: np.arange(g.size) for g in case.channels.groups})
        assert changes == []
        for got, wanted in zip(call(module, inputs_of(case)), call(case.trace.module, inputs_of(case)), strict=True):
            assert torch.equal(got, wanted)


def test_a_wrong_coupling_shows_as_a_gap(monkeypatch):
    """The reference is worth something: a rule that forgets the shuffle gives another network."""
    case = CASES["channel shuffle"]
    monkeypatch.setitem(RULES, "channel_shuffle", RULES["relu"])  # type: ignore[index]
    monkeypatch.setitem(REWRITES, "channel_shuffle", lambda _: [])  # type: ignore[index]
    wrong = find_channels(case.trace)
    (group,) = free(wrong)
    assert group.size == 6
    assert gap(case.trace, wrong, {group.atom: np.array([0, 1, 2, 4])}, inputs_of(case)) > 100 * GAP


# ---- every rewrite, by hand ------------------------------------------------------------------------------------------


Changes = list[tuple[str, object, object]]


@dataclass
class Rewrite:
    """What becomes of an operator's constants when `kept` channels of the group of that size stay."""

    function: Callable[..., torch.Tensor]
    parts: dict[str, nn.Module]
    shape: tuple[int, ...]
    kept: dict[int, tuple[int, ...]]
    changes: Changes
    """(argument, before, after)"""


HALF = (0, 2, 3, 5)


def created(make: Callable[[torch.Tensor], torch.Tensor], argument: str = "size") -> Rewrite:
    """A tensor made from nothing but its size is added to eight channels."""
    return Rewrite(between(lambda y: y + make(y)), lin(), ROWS, {8: HALF}, [(argument, [8], [4])])


def spread(make: Callable[[torch.Tensor], torch.Tensor], argument: str, ahead: int) -> Rewrite:
    """The mean over the channels in all their places."""
    function = between(lambda y: y - make(y.mean(1, keepdim=True)))
    return Rewrite(function, lin(), ROWS, {8: HALF}, [(argument, [ahead, 8], [ahead, 4])])


def depthwise(n: int, transposed: bool = False) -> Rewrite:
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{n}d")
    plain = getattr(nn, f"Conv{n}d")
    parts = {"a": plain(3, 6, 1), "d": kind(6, 6, 2, groups=6), "b": plain(6, 2, 1)}
    shape = (2, 3, *[4] * n)
    return Rewrite(lambda m, x: m.b(m.d(m.a(x))), parts, shape, {6: (0, 2, 3)}, [("groups", 6, 3)])


def normed(layer: nn.Module) -> Rewrite:
    shown = [("normalized_shape", [8], [4])]
    return Rewrite(lambda m, x: m.b(m.n(m.a(x))), {**lin(), "n": layer}, TOKENS, {8: HALF}, shown)


def pieces(cut: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> Callable[..., torch.Tensor]:
    """Two pieces, each read by a layer of its own."""
    return lambda m, x: (lambda p, q, *_: m.b(p) + m.c(q))(*cut(m.a(x)))


def three(a: int, b: int, c: int) -> dict[str, nn.Module]:
    return {"a": nn.Linear(5, a), "b": nn.Linear(b, 3), "c": nn.Linear(c, 3)}


def modules_by(op: str) -> Rewrite:
    """Modules of which two of four are left out."""

    def side_by_side(m: Net, x: Tensor) -> Tensor:
        made = [e(x) for e in m.e]
        return torch.stack(made, 1) if op == "stack" else getattr(torch, op)([one.unsqueeze(1) for one in made], 1)

    return Rewrite(
        lambda m, x: m.b((m.a(x).unsqueeze(-1) * side_by_side(m, x)).sum(1)),
        {**lin(4, 6), "e": nn.ModuleList(nn.Linear(5, 6) for _ in range(4))},
        ROWS,
        {4: (1, 3)},
        [("tensors", 4, 2)],
    )


FOLDED = {4: (0, 1, 3)}
REWRITTEN: dict[str, Rewrite] = {
    "view": Rewrite(
        between(lambda y: y.view(-1, 4, 2).sum(1)), lin(8, 2), ROWS, FOLDED, [("size", [-1, 4, 2], [-1, 3, 2])]
    ),
    "_unsafe_view": Rewrite(
        between(lambda y: torch.ops.aten._unsafe_view(y, [-1, 4, 2]).sum(1)),
        lin(8, 2),
        ROWS,
        FOLDED,
        [("size", [-1, 4, 2], [-1, 3, 2])],
    ),
    "reshape": Rewrite(between(lambda y: y.reshape(-1, 8)), lin(), TOKENS, {8: HALF}, [("shape", [-1, 8], [-1, 4])]),
    "reshape, a product": Rewrite(
        between(lambda y: y.mT.reshape(-1, 32)), lin(8, 32), TOKENS, {8: HALF}, [("shape", [-1, 32], [-1, 16])]
    ),
    "unflatten": Rewrite(
        between(lambda y: y.unflatten(-1, (4, 2)).sum(1)), lin(8, 2), ROWS, FOLDED, [("sizes", [4, 2], [3, 2])]
    ),
    "expand": spread(lambda z: z.expand(-1, 8), "size", -1),
    "broadcast_to": spread(lambda z: torch.ops.aten.broadcast_to(z, [-1, 8]), "size", -1),
    "repeat": spread(lambda z: z.repeat(1, 8), "repeats", 1),
    "tile": spread(lambda z: torch.tile(z, (1, 8)), "dims", 1),
    "repeat, whole": Rewrite(between(lambda y: y.repeat(1, 2)), lin(8, 16), ROWS, {8: HALF}, []),
    "zeros": created(lambda _: torch.zeros(8)),
    "ones": created(lambda _: torch.ones(8)),
    "full": created(lambda _: torch.full((8,), 2.5)),
    "empty": created(lambda _: torch.empty(8)),
    "new_zeros": created(lambda y: y.new_zeros(8)),
    "new_ones": created(lambda y: y.new_ones(8)),
    "new_full": created(lambda y: y.new_full((8,), 2.5)),
    "new_empty": created(lambda y: y.new_empty(8)),
    "split": Rewrite(pieces(lambda y: y.split(4, 1)), three(8, 4, 4), ROWS, {4: (1, 2)}, [("split_size", 4, [2, 4])]),
    "split, equal pieces": Rewrite(
        between(lambda y: sum(y.split(4, 1))), lin(8, 4), ROWS, {4: (1, 2)}, [("split_size", 4, 2)]
    ),
    "split_with_sizes": Rewrite(
        pieces(lambda y: y.split([2, 6], 1)), three(8, 2, 6), ROWS, {6: (1, 2, 4)}, [("split_sizes", [2, 6], [2, 3])]
    ),
    "chunk": Rewrite(pieces(lambda y: y.chunk(2, 1)), three(7, 4, 3), ROWS, {4: (1, 2)}, [("chunks", 2, [2, 3])]),
    "chunk, equal pieces": Rewrite(between(lambda y: sum(y.chunk(2, 1))), lin(8, 4), ROWS, {4: (1, 2)}, []),
    "tensor_split": Rewrite(
        pieces(lambda y: y.tensor_split(2, 1)), three(7, 4, 3), ROWS, {4: (1, 2)}, [("sections", 2, [2, 3])]
    ),
    "tensor_split, borders": Rewrite(
        pieces(lambda y: y.tensor_split((3,), 1)), three(8, 3, 5), ROWS, {5: (1, 2)}, [("indices", [3], [3, 2])]
    ),
    "slice": Rewrite(between(lambda y: y[:, 1:5]), lin(8, 4), ROWS, {4: (0, 2)}, [("end", 5, 3)]),
    "slice, open": Rewrite(between(lambda y: y[:, 3:]), lin(8, 5), ROWS, {3: (1,), 5: (0, 4)}, [("start", 3, 1)]),
    "slice, from behind": Rewrite(between(lambda y: y[:, -5:-1]), lin(8, 4), ROWS, {3: (1,)}, []),
    "slice, from behind, cut": Rewrite(
        between(lambda y: y[:, -5:-1]), lin(8, 4), ROWS, {4: (0, 2)}, [("start", -5, -3)]
    ),
    "narrow": Rewrite(
        between(lambda y: torch.ops.aten.narrow(y, 1, 3, 5)),
        lin(8, 5),
        ROWS,
        {3: (1,), 5: (0, 4)},
        [("start", 3, 1), ("length", 5, 2)],
    ),
    "pad": Rewrite(
        between(lambda y: F.pad(y, (2, 3))), lin(8, 13), ROWS, {8: HALF, 3: (2,)}, [("pad", [2, 3], [2, 1])]
    ),
    "constant_pad_nd": Rewrite(
        between(lambda y: torch.constant_pad_nd(y, (2, 0), 1.5)), lin(8, 10), ROWS, {2: (0,)}, [("pad", [2, 0], [1, 0])]
    ),
    **{f"conv{n}d": depthwise(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": depthwise(n, transposed=True) for n in (1, 2, 3)},
    "convolution": Rewrite(
        lambda m, x: m.b(torch.convolution(m.a(x), m.d.weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 6)),
        {**convs(6), "d": conv(6, 6, 2, groups=6, bias=False)},
        IMAGE,
        {6: (0, 2, 3)},
        [("groups", 6, 3)],
    ),
    "conv2d, whole groups": Rewrite(
        lambda m, x: m.b(m.d(m.a(x))), {**convs(6, 9), "d": conv(6, 9, 3, groups=3)}, IMAGE, {2: (1,)}, []
    ),
    "group_norm": Rewrite(
        lambda m, x: m.b(m.n(m.a(x))), {**convs(6), "n": nn.GroupNorm(2, 6)}, IMAGE, {2: (1,)}, [("num_groups", 2, 1)]
    ),
    "channel_shuffle": Rewrite(
        between(lambda y: F.channel_shuffle(y, 3)), convs(6), IMAGE, {3: (0, 2)}, [("groups", 3, 2)]
    ),
    "native_channel_shuffle": Rewrite(
        between(lambda y: torch.native_channel_shuffle(y, 3)), convs(6), IMAGE, {3: (0, 2)}, [("groups", 3, 2)]
    ),
    "one_hot": Rewrite(
        lambda m, x: m.b(F.one_hot(m.a(x).topk(2, 1)[1], 8).sum(1) * m.a(x)),
        lin(),
        ROWS,
        {8: HALF},
        [("num_classes", 8, 4)],
    ),
    **{op: modules_by(op) for op in ("stack", "cat", "concat")},
    "layer_norm": normed(nn.LayerNorm(8)),
    "rms_norm": normed(nn.RMSNorm(8)),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_constants_that_follow_from_a_size(name):
    one = REWRITTEN[name]
    example = Batch((torch.randn(one.shape),))
    made = trace(Net(one.function, one.parts), example)
    channels = find_channels(made)
    kept: dict[Atom, np.ndarray] = {}
    for size, own in one.kept.items():
        group = next(group for group in free(channels) if group.size == size)
        kept[group.atom] = np.array(own, dtype=np.int64)
    module, changes = smaller(made, channels, kept)
    assert [(c.argument, c.before, c.after) for c in changes] == one.changes
    op = name.split(",")[0]
    assert any(
        node.target.__name__.split(".")[0] == op for node in made.module.graph.nodes if node.op == "call_function"
    )
    if "empty" not in op:  # no values to compare
        assert gap(made, channels, kept, example) < GAP
    else:
        call(module, example)


def test_every_rewrite_has_a_case():
    assert {name.split(",")[0] for name in REWRITTEN} == set(REWRITES)


# ---- operators -------------------------------------------------------------------------------------------------------

OPERATORS = """
_assert_tensor_metadata _upsample_bicubic2d_aa adaptive_avg_pool2d add addcmul alias amax arange avg_pool1d avg_pool2d
batch_norm bitwise_not cat chunk clamp clamp_min clone col2im contiguous conv1d conv2d conv_transpose2d copy cos cumsum
div dropout einsum eq exp expand expand_as fill flatten gelu group_norm hardsigmoid hardswish hardtanh im2col index
layer_norm leaky_relu lift_fresh_copy linalg_vector_norm linear lstm masked_fill matmul max max_pool2d mean meshgrid
mul ne neg new_zeros pad permute pow relu repeat repeat_interleave reshape reshape_as roll rsub
scaled_dot_product_attention select sigmoid silu sin slice softmax split split_with_sizes square squeeze stack sub sum
swapaxes tanh tile to transpose type_as unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d
upsample_nearest2d view zero zeros
"""
"""What the smallest models of timm's families and torchvision's classifiers are made of, counted on 116 of them."""
NO_RULE = {"meshgrid": "grids of coordinates: nothing to cut"}


def test_operators_of_real_models_have_a_rule_or_are_known_to_have_none():
    missing = {op for op in OPERATORS.split() if op not in RULES and op not in LOOKS}
    assert missing == set(NO_RULE)


def test_rewritten_operators_have_a_rule():
    assert set(REWRITES) <= set(RULES)


# ---- slicing ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_sliced_tensors_are_numpys(shape, seed):
    random = np.random.default_rng(seed)
    tensor = torch.randn(shape).mT if len(shape) == 2 else torch.randn(shape)
    places = {
        axis: np.sort(random.permutation(size)[: random.integers(1, size + 1)])
        for axis, size in enumerate(tensor.shape)
        if random.integers(2)
    }
    whole = [places.get(axis, np.arange(size)) for axis, size in enumerate(tensor.shape)]
    found = sliced_tensor(tensor, places)
    np.testing.assert_array_equal(found.numpy(), tensor.numpy()[np.ix_(*whole)])
    assert found.is_contiguous()


def test_slices_of_parameters_keep_what_they_are():
    case = CASES["batch norm"]
    module = clone(case.trace.module)
    module.get_parameter("a.weight").requires_grad_(False)
    sizes = Sizes(case.channels, {free(case.channels)[0].atom: np.array([1, 4])})
    slice_parameters_(module, sizes, listed_names(case.trace))
    assert not module.get_parameter("a.weight").requires_grad
    assert module.get_parameter("b.weight").requires_grad
    assert dict(module.named_buffers())["n.running_mean"].shape == (2,)
    before = dict(case.trace.module.named_parameters())
    torch.testing.assert_close(module.get_parameter("a.weight"), before["a.weight"][[1, 4]], rtol=0, atol=0)
    torch.testing.assert_close(module.get_parameter("b.weight"), before["b.weight"][:, [1, 4]], rtol=0, atol=0)
