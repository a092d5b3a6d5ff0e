"""Small modules, one for every way in which channels meet, with the groups that follow, written down by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lissom.graph.channels import Channels, find_channels
from lissom.graph.trace import Trace, trace
from lissom.task import Batch


class Net(nn.Module):
    """A function of parts, with a linear layer or a convolution behind it that reads what comes out."""

    def __init__(self, function: Callable[..., Tensor], parts: Mapping[str, nn.Module | Tensor]) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if type(part) is Tensor else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


@dataclass
class Case:
    """`free`: members of every group that may be cut, to its size; `frozen`: a member to a part of its reason.

    A member is the parameter and the axis, with short names: `a.w0` is axis 0 of `a.weight`; b is the bias, m and v
    are running mean and variance.
    """

    function: Callable[..., Tensor]
    parts: Mapping[str, nn.Module | Tensor]
    shapes: tuple[tuple[int, ...], ...]
    free: Mapping[str, object]
    frozen: Mapping[str, str] = field(default_factory=dict[str, str])

    @functools.cached_property
    def trace(self) -> Trace:
        module = Net(self.function, self.parts)
        inputs = [torch.randint(0, 5, s[:-1]) if s[-1] == 0 else torch.randn(s) for s in self.shapes]
        return trace(module, Batch(tuple(inputs)))

    @functools.cached_property
    def channels(self) -> Channels:
        return find_channels(self.trace)


@torch.library.custom_op("lissom_tests::riddle", mutates_args=())
def riddle(x: Tensor) -> Tensor:
    return x.flip(-1)


@riddle.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def conv(into: int, out: int, kernel: int = 1, **more: object) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, **more)  # type: ignore[arg-type]


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(m: Net, x: Tensor, **how: object) -> Tensor:
    q, k, v = (heads(layer(x), count) for layer, count in ((m.q, m.nq), (m.k, m.nk), (m.v, m.nk)))
    return m.o(F.scaled_dot_product_attention(q, k, v, **how).transpose(1, 2).flatten(2))


def attention(q: int, k: int, width: int) -> dict[str, nn.Module | Tensor]:
    return {
        "q": nn.Linear(5, q * width),
        "k": nn.Linear(5, k * width),
        "v": nn.Linear(5, k * width),
        "o": nn.Linear(q * width, 3),
        "nq": q,  # type: ignore[dict-item]
        "nk": k,  # type: ignore[dict-item]
    }


def joint(m: Net, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1)
    return m.o((weights @ v).transpose(1, 2).reshape(-1, 4, 8))


def option_a(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.c(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.b(x))


def with_token(m: Net, x: Tensor) -> Tensor:
    x = torch.cat([m.t.expand(x.shape[0], -1, -1), m.a(x)], 1) + m.p
    return m.b(x[:, 0])


IMAGE = (2, 3, 8, 8)
ROWS = (2, 5)
TOKENS = (2, 4, 5)
AB = "a.b0 a.w0 b.w1"


def lin(a: int = 8, b: int | None = None) -> dict[str, nn.Module | Tensor]:
    return {"a": nn.Linear(5, a), "b": nn.Linear(b or a, 3)}


def convs(a: int = 8, b: int | None = None) -> dict[str, nn.Module | Tensor]:
    return {"a": conv(3, a), "b": conv(b or a, 4)}


def between(middle: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """a, then something, then b."""
    return lambda m, x: m.b(middle(m.a(x)))


def chosen(p: Tensor, place: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    weights, at = p.topk(2, -1)
    return place(weights / weights.sum(-1, keepdim=True), at)


def gated(gate: Callable[[Net, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A mixture of six experts: a is the router, e and f their weights, b reads what comes out."""

    def forward(m: Net, x: Tensor) -> Tensor:
        made = torch.einsum("neh,ehd->ned", torch.relu(torch.einsum("nd,edh->neh", x, m.e)), m.f)
        return m.b(torch.einsum("ne,ned->nd", gate(m, m.a(x).softmax(-1)), made))

    return forward


def looked_up(m: Net, x: Tensor) -> Tensor:
    weights, at = m.a(x).softmax(-1).topk(2, -1)
    hidden = torch.relu(torch.einsum("nd,nkdh->nkh", x, m.e[at]))
    return m.b(torch.einsum("nk,nkd->nd", weights, torch.einsum("nkh,nkhd->nkd", hidden, m.f[at])))


EXPERTS = {**lin(6, 7), "e": torch.randn(6, 5, 4), "f": torch.randn(6, 4, 7)}
MIXED, HIDDEN, READ = "a.b0 a.w0 e/0 f/0", "e/2 f/1", "b.w1 f/2"

CASES: dict[str, Case] = {
    # products
    "linear": Case(between(torch.relu), lin(), (ROWS,), {AB: 8}, {"a.w1": "linear in a", "b.w0": "an output"}),
    "linear without bias": Case(
        between(torch.tanh), {"a": nn.Linear(5, 8, bias=False), "b": nn.Linear(8, 3)}, (ROWS,), {"a.w0 b.w1": 8}
    ),
    "conv1d": Case(between(F.gelu), {"a": nn.Conv1d(3, 6, 3), "b": nn.Conv1d(6, 4, 1)}, ((2, 3, 9),), {AB: 6}),
    "conv2d": Case(between(F.gelu), convs(6), (IMAGE,), {AB: 6}, {"a.w1": "conv2d in a", "b.w0": "an output"}),
    "conv3d": Case(between(F.gelu), {"a": nn.Conv3d(3, 6, 3), "b": nn.Conv3d(6, 4, 1)}, ((2, 3, 5, 5, 5),), {AB: 6}),
    "depthwise": Case(
        lambda m, x: m.b(m.d(m.a(x))),
        {**convs(6), "d": conv(6, 6, 3, groups=6)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 d.b0 d.w0": 6},
    ),
    "depthwise with two filters a channel": Case(
        lambda m, x: m.b(m.d(m.a(x))),
        {**convs(6, 12), "d": conv(6, 12, 3, groups=6)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 d.b0 d.w0": 6, "b.w1 d.b0 d.w0": 2},
    ),
    "grouped": Case(
        lambda m, x: m.b(m.d(m.a(x))),
        {**convs(6, 8), "d": conv(6, 8, 3, groups=2)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 d.b0 d.w0": 2, "a.b0 a.w0 d.w1": 3, "b.w1 d.b0 d.w0": 4},
    ),
    "transposed": Case(
        lambda m, x: m.b(m.t(m.a(x))),
        {**convs(6, 4), "t": nn.ConvTranspose2d(6, 4, 2, stride=2)},
        (IMAGE,),
        {"a.b0 a.w0 t.w0": 6, "b.w1 t.b0 t.w1": 4},
    ),
    "transposed and grouped": Case(
        lambda m, x: m.b(m.t(m.a(x))),
        {**convs(6, 8), "t": nn.ConvTranspose2d(6, 8, 2, groups=2)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 t.b0 t.w0": 2, "a.b0 a.w0 t.w0": 3, "b.w1 t.b0 t.w1": 4},
    ),
    "transposed and depthwise": Case(
        lambda m, x: m.b(m.t(m.a(x))),
        {**convs(6), "t": nn.ConvTranspose2d(6, 6, 2, groups=6)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 t.b0 t.w0": 6},
    ),
    "matmul with a parameter": Case(
        lambda m, x: m.b(m.a(x) @ m.p),
        {**lin(8, 6), "p": torch.randn(8, 6)},
        (ROWS,),
        {"a.b0 a.w0 p/0": 8, "b.w1 p/1": 6},
    ),
    "addmm": Case(
        lambda m, x: m.b(torch.addmm(m.c, m.a(x), m.p)),
        {**lin(8, 6), "p": torch.randn(8, 6), "c": torch.randn(6)},
        (ROWS,),
        {"a.b0 a.w0 p/0": 8, "b.w1 c/0 p/1": 6},
    ),
    "baddbmm": Case(
        lambda m, x: m.b(torch.baddbmm(m.c, m.a(x), m.p.expand(x.shape[0], -1, -1))),
        {**lin(8, 6), "p": torch.randn(1, 8, 6), "c": torch.randn(1, 1, 6)},
        (TOKENS,),
        {"a.b0 a.w0 p/1": 8, "b.w1 c/2 p/2": 6},
    ),
    "einsum": Case(
        lambda m, x: m.b(torch.einsum("ntc,dc->ntd", m.a(x), m.p)),
        {**lin(8, 6), "p": torch.randn(6, 8)},
        (TOKENS,),
        {"a.b0 a.w0 p/1": 8, "b.w1 p/0": 6},
    ),
    "einsum of two values": Case(
        lambda m, x: m.c(torch.einsum("ntc,nsc->nts", m.a(x), m.b(x))),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "c": nn.Linear(4, 3)},
        (TOKENS,),
        {"a.b0 a.w0 b.b0 b.w0": 8},
    ),
    "product of two values": Case(
        lambda m, x: m.c(m.a(x) @ m.b(x).mT),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "c": nn.Linear(4, 3)},
        (TOKENS,),
        {"a.b0 a.w0 b.b0 b.w0": 8},
    ),
    # attention
    "attention": Case(
        attend,
        attention(2, 2, 4),
        (TOKENS,),
        {"k.b0 k.w0 o.w1 q.b0 q.w0 v.b0 v.w0": 2, "o.w1 v.b0 v.w0": 4},
        {"q.w0": "the scale of the attention follows from its size", "k.w0": "the scale of the attention"},
    ),
    "attention with its own scale": Case(
        functools.partial(attend, scale=0.5),
        attention(2, 2, 4),
        (TOKENS,),
        {"k.b0 k.w0 o.w1 q.b0 q.w0 v.b0 v.w0": 2, "k.b0 k.w0 q.b0 q.w0": 4, "o.w1 v.b0 v.w0": 4},
    ),
    "attention with grouped queries": Case(
        functools.partial(attend, scale=0.5, enable_gqa=True),
        attention(6, 2, 4),
        (TOKENS,),
        {"k.b0 k.w0 o.w1 q.b0 q.w0 v.b0 v.w0": 2, "k.b0 k.w0 q.b0 q.w0": 4, "o.w1 v.b0 v.w0": 4},
        {"q.w0": "queries of one group share their keys"},
    ),
    "attention of one joint layer, written by hand": Case(
        joint,
        {"qkv": nn.Linear(5, 24), "o": nn.Linear(8, 3)},
        (TOKENS,),
        {"o.w1 qkv.b0 qkv.w0": [4, 2]},
        {"qkv.w0": "unbind"},
    ),
    "multi-head attention": Case(
        lambda m, x: m.b(m.h(m.a(x), m.a(x), m.a(x), need_weights=False)[0]),
        {"a": nn.Linear(5, 8), "h": nn.MultiheadAttention(8, 2, batch_first=True), "b": nn.Linear(8, 3)},
        (TOKENS,),
        {
            "a.b0 a.w0 h.in_proj_weight/1": 8,
            "h.in_proj_bias/0 h.in_proj_weight/0 h.out_proj.w1": [4, 2],  # width of the values, heads
            "b.w1 h.out_proj.b0 h.out_proj.w0": 8,
        },
    ),
    # several branches
    "concatenation": Case(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)),
        {"a": conv(3, 4), "b": conv(3, 6), "c": conv(10, 2)},
        (IMAGE,),
        {"a.b0 a.w0 c.w1": 4, "b.b0 b.w0 c.w1": 6},
    ),
    "concatenation along the tokens": Case(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "c": nn.Linear(8, 3)},
        (TOKENS,),
        {"a.b0 a.w0 b.b0 b.w0 c.w1": 8},
    ),
    "stack": Case(
        lambda m, x: m.c(torch.stack([m.a(x), m.b(x)], 1).sum(1)),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "c": nn.Linear(8, 3)},
        (ROWS,),
        {"a.b0 a.w0 b.b0 b.w0 c.w1": 8},
    ),
    "chunk": Case(
        lambda m, x: (lambda p, q: m.b(p) + m.c(q))(*m.a(x).chunk(2, 1)),
        {"a": nn.Linear(5, 8), "b": nn.Linear(4, 3), "c": nn.Linear(4, 3)},
        (ROWS,),
        {"a.b0 a.w0 b.w1": 4, "a.b0 a.w0 c.w1": 4},
    ),
    "split": Case(
        lambda m, x: (lambda p, q, r: m.b(p) + m.c(q))(*m.a(x).split([2, 3, 4], 1)),
        {"a": nn.Linear(5, 9), "b": nn.Linear(2, 3), "c": nn.Linear(3, 3)},
        (ROWS,),
        {"a.b0 a.w0 b.w1": 2, "a.b0 a.w0 c.w1": 3, "a.b0 a.w0": 4},
    ),
    "slice": Case(
        lambda m, x: m.b(m.a(x)[:, 2:5]),
        {"a": nn.Linear(5, 8), "b": nn.Linear(3, 3)},
        (ROWS,),
        {"a.b0 a.w0": [3, 2], AB: 3},
    ),
    "slice with a step": Case(
        lambda m, x: m.b(m.a(x)[:, ::2]), lin(8, 4), (ROWS,), {}, {"a.w0": "slice in the model ties it"}
    ),
    "residual": Case(
        lambda m, x: m.c((lambda y: y + torch.relu(m.b(y)))(m.a(x))),
        {"a": conv(3, 8), "b": conv(8, 8, 3, padding=1), "c": conv(8, 2)},
        (IMAGE,),
        {"a.b0 a.w0 b.b0 b.w0 b.w1 c.w1": 8},
    ),
    "gate of squeezed channels": Case(
        lambda m, x: m.c((lambda y: y * torch.sigmoid(m.e(torch.relu(m.s(y.mean((2, 3), keepdim=True))))))(m.a(x))),
        {"a": conv(3, 8), "s": conv(8, 2), "e": conv(2, 8), "c": conv(8, 2)},
        (IMAGE,),
        {"a.b0 a.w0 c.w1 e.b0 e.w0 s.w1": 8, "e.w1 s.b0 s.w0": 2},
    ),
    "padding shortcut": Case(
        option_a,
        {"a": conv(3, 4), "b": conv(4, 8, 3, stride=2, padding=1), "c": conv(8, 2)},
        (IMAGE,),
        {"a.b0 a.w0 b.b0 b.w0 b.w1 c.w1": 4, "b.b0 b.w0 c.w1": [2, 2]},
    ),
    "padding with the mirror": Case(
        between(lambda y: F.pad(y, (1, 1), mode="reflect")), lin(6, 8), (TOKENS,), {}, {"a.w0": "pad in the model"}
    ),
    "layer scale": Case(
        lambda m, x: m.c((lambda y: y + m.g * m.b(y))(m.a(x))),
        {"a": nn.Linear(5, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 3), "g": torch.randn(8)},
        (ROWS,),
        {"a.b0 a.w0 b.b0 b.w0 b.w1 c.w1 g/0": 8},
    ),
    "class token and position table": Case(
        with_token,
        {**lin(), "t": torch.randn(1, 1, 8), "p": torch.randn(1, 5, 8)},
        (TOKENS,),
        {"a.b0 a.w0 b.w1 p/2 t/2": 8},
        {"p/1": "ties it to an axis that cannot be cut"},
    ),
    "glu": Case(between(F.glu), lin(8, 4), (ROWS,), {AB: 4}),
    "larger of two": Case(
        lambda m, x: m.c(torch.max(m.a(x), m.b(x))),
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "c": nn.Linear(8, 3)},
        (ROWS,),
        {"a.b0 a.w0 b.b0 b.w0 c.w1": 8},
    ),
    "one layer twice": Case(
        lambda m, x: m.b(m.c(torch.relu(m.c(m.a(x))))),
        {**lin(), "c": nn.Linear(8, 8)},
        (ROWS,),
        {"a.b0 a.w0 b.w1 c.b0 c.w0 c.w1": 8},
    ),
    # normalizations
    "batch norm": Case(
        lambda m, x: m.b(m.n(m.a(x))),
        {**convs(6), "n": nn.BatchNorm2d(6)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 n.b0 n.m0 n.v0 n.w0": 6},
    ),
    "instance norm": Case(
        lambda m, x: m.b(m.n(m.a(x))),
        {**convs(6), "n": nn.InstanceNorm2d(6, affine=True)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 n.b0 n.w0": 6},
    ),
    "group norm": Case(
        lambda m, x: m.b(m.n(m.a(x))),
        {**convs(6), "n": nn.GroupNorm(2, 6)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 n.b0 n.w0": [3, 2]},
    ),
    "group norm of one group": Case(
        lambda m, x: m.b(m.n(m.a(x))),
        {**convs(6), "n": nn.GroupNorm(1, 6)},
        (IMAGE,),
        {"a.b0 a.w0 b.w1 n.b0 n.w0": 6},
    ),
    "layer norm": Case(
        lambda m, x: m.b(m.n(m.a(x))), {**lin(), "n": nn.LayerNorm(8)}, (TOKENS,), {"a.b0 a.w0 b.w1 n.b0 n.w0": 8}
    ),
    "layer norm over two axes": Case(
        lambda m, x: m.b(m.n(m.a(x))),
        {**lin(), "n": nn.LayerNorm((4, 8))},
        (TOKENS,),
        {"a.b0 a.w0 b.w1 n.b1 n.w1": 8},
        {"n.w0": "layer_norm in n"},
    ),
    "rms norm": Case(
        lambda m, x: m.b(m.n(m.a(x))), {**lin(), "n": nn.RMSNorm(8)}, (TOKENS,), {"a.b0 a.w0 b.w1 n.w0": 8}
    ),
    "norm by hand": Case(
        between(lambda y: (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True) + 1).sqrt()),
        lin(),
        (TOKENS,),
        {AB: 8},
    ),
    "division that is zero by zero where a channel is masked": Case(
        between(lambda y: y / y.norm(dim=1, keepdim=True)), lin(), (TOKENS,), {AB: 8}
    ),
    "weight norm": Case(
        lambda m, x: m.b(m.n(m.a(x))),
        {**lin(), "n": weight_norm(nn.Linear(8, 8))},
        (ROWS,),
        {
            "b.w1 n.b0 n.parametrizations.weight.original0/0 n.parametrizations.weight.original1/0": 8,
        },
        {"a.w0": "its norm is taken over it"},
    ),
    "prelu": Case(lambda m, x: m.b(m.p(m.a(x))), {**convs(6), "p": nn.PReLU(6)}, (IMAGE,), {"a.b0 a.w0 b.w1 p.w0": 6}),
    "prelu with one slope": Case(lambda m, x: m.b(m.p(m.a(x))), {**convs(6), "p": nn.PReLU()}, (IMAGE,), {AB: 6}),
    # tables and recurrence
    "embedding": Case(
        lambda m, x: m.b(m.e(x)),
        {"e": nn.Embedding(5, 8), "b": nn.Linear(8, 3)},
        ((2, 7, 0),),
        {"b.w1 e.w1": 8},
        {"e.w0": "its rows are looked up by index"},
    ),
    "lstm": Case(
        lambda m, x: m.b(m.l(m.a(x))[0]),
        {"a": nn.Linear(5, 8), "l": nn.LSTM(8, 6, batch_first=True), "b": nn.Linear(6, 3)},
        (TOKENS,),
        {
            "a.b0 a.w0 l.weight_ih_l0/1": 8,
            "b.w1 l.bias_hh_l0/0 l.bias_ih_l0/0 l.weight_hh_l0/0 l.weight_hh_l0/1 l.weight_ih_l0/0": 6,
        },
        {"l.weight_ih_l0/0": "the gates of a recurrent cell"},
    ),
    "gru, two layers, both ways": Case(
        lambda m, x: m.b(m.l(x)[0]),
        {"l": nn.GRU(5, 6, 2, batch_first=True, bidirectional=True, bias=False), "b": nn.Linear(12, 3)},
        (TOKENS,),
        {
            "b.w1 "
            + " ".join(
                sorted(
                    [f"l.weight_hh_l{i}{r}/{axis}" for i in (0, 1) for r in ("", "_reverse") for axis in (0, 1)]
                    + [f"l.weight_ih_l{i}{r}/0" for i in (0, 1) for r in ("", "_reverse")]
                    + [f"l.weight_ih_l1{r}/1" for r in ("", "_reverse")]
                )
            ): 6,
        },
        {"l.weight_ih_l0/1": "gru in l"},
    ),
    "lstm with a projection": Case(
        lambda m, x: m.b(m.l(x)[0]),
        {"l": nn.LSTM(5, 6, batch_first=True, proj_size=4), "b": nn.Linear(4, 3)},
        (TOKENS,),
        {},
        {"l.weight_ih_l0/0": "lstm in l", "b.w1": "linear in b"},
    ),
    # moves
    "permute": Case(
        between(lambda y: y.permute(0, 2, 3, 1)), {"a": conv(3, 8), "b": nn.Linear(8, 3)}, (IMAGE,), {AB: 8}
    ),
    "transpose": Case(
        between(lambda y: y.flatten(2).transpose(1, 2)), {"a": conv(3, 8), "b": nn.Linear(8, 3)}, (IMAGE,), {AB: 8}
    ),
    "movedim": Case(between(lambda y: y.movedim(1, -1)), {"a": conv(3, 8), "b": nn.Linear(8, 3)}, (IMAGE,), {AB: 8}),
    "t": Case(
        lambda m, x: m.b(m.a(x) @ m.p.t()),
        {**lin(8, 6), "p": torch.randn(6, 8)},
        (ROWS,),
        {"a.b0 a.w0 p/1": 8, "b.w1 p/0": 6},
    ),
    "unsqueeze and squeeze": Case(between(lambda y: (y.unsqueeze(1) * 2).squeeze(1)), lin(), (ROWS,), {AB: 8}),
    "reshape that merges": Case(
        between(lambda y: y.flatten(1)), {"a": conv(3, 8), "b": nn.Linear(8 * 64, 3)}, (IMAGE,), {AB: 8}
    ),
    "reshape that merges the tokens": Case(between(lambda y: y.reshape(-1, 8)), lin(), (TOKENS,), {AB: 8}),
    "reshape that splits": Case(
        between(lambda y: y.view(-1, 2, 4).sum(1)), lin(8, 4), (ROWS,), {"a.b0 a.w0": 2, AB: 4}
    ),
    "reshape of windows": Case(
        between(lambda y: y.view(-1, 8, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4)),
        convs(),
        (IMAGE,),
        {AB: 8},
    ),
    "reshape across": Case(
        between(lambda y: y.reshape(-1, 6, 4).reshape(-1, 8, 3)),
        {"a": nn.Linear(5, 24), "b": nn.Linear(3, 3)},
        (ROWS,),
        {},
        {"a.w0": "in the model ties it"},
    ),
    "expand": Case(between(lambda y: y.unsqueeze(1).expand(-1, 4, -1)), lin(), (ROWS,), {AB: 8}),
    "repeat": Case(between(lambda y: y.repeat(1, 2)), lin(8, 16), (ROWS,), {AB: 8}),
    "repeat_interleave": Case(between(lambda y: y.repeat_interleave(2, 1)), lin(8, 16), (ROWS,), {AB: 8}),
    "unbind": Case(
        lambda m, x: m.b(sum(m.a(x).unflatten(1, (2, 4)).unbind(1))), lin(8, 4), (ROWS,), {AB: 4}, {"a.w0": "unbind"}
    ),
    "select": Case(between(lambda y: y[:, 3].unsqueeze(1)), lin(8, 1), (ROWS,), {}, {"a.w0": "select"}),
    "select of a token": Case(between(lambda y: y[:, 0]), lin(), (TOKENS,), {AB: 8}),
    "index": Case(between(lambda y: y[:, torch.tensor([2, 0])]), lin(8, 2), (ROWS,), {}, {"a.w0": "index"}),
    "index of tokens": Case(between(lambda y: y[:, torch.tensor([2, 0])]), lin(), (TOKENS,), {AB: 8}),
    "index_select": Case(
        between(lambda y: y.index_select(1, torch.tensor([2, 0]))), lin(8, 2), (ROWS,), {}, {"a.w0": "index_select"}
    ),
    "roll": Case(between(lambda y: y.roll(1, 1)), lin(), (ROWS,), {}, {"a.w0": "roll"}),
    "roll of the image": Case(between(lambda y: y.roll((1, 1), (2, 3))), convs(), (IMAGE,), {AB: 8}),
    "pixel shuffle": Case(
        between(lambda y: F.pixel_shuffle(y, 2)), convs(8, 2), (IMAGE,), {AB: 2}, {"a.w0": "pixel_shuffle"}
    ),
    "pixel unshuffle": Case(between(lambda y: F.pixel_unshuffle(y, 2)), convs(8, 32), (IMAGE,), {AB: 8}),
    "channel shuffle": Case(between(lambda y: F.channel_shuffle(y, 2)), convs(6), (IMAGE,), {AB: [3, 2]}),
    "channel shuffle by hand": Case(
        between(lambda y: y.view(-1, 2, 3, 8, 8).transpose(1, 2).flatten(1, 2)), convs(6), (IMAGE,), {AB: [3, 2]}
    ),
    "im2col": Case(
        between(lambda y: F.unfold(y, 3).transpose(1, 2)), {"a": conv(3, 6), "b": nn.Linear(54, 3)}, (IMAGE,), {AB: 6}
    ),
    "col2im": Case(
        between(lambda y: F.fold(y.flatten(2), (9, 9), 2)), convs(8, 2), (IMAGE,), {AB: 2}, {"a.w0": "col2im"}
    ),
    "unfold": Case(between(lambda y: y.unfold(1, 2, 2).sum(-1)), lin(), (TOKENS,), {AB: 8}),
    "unfold of the channels": Case(
        between(lambda y: y.unfold(2, 2, 2).sum(-1)), lin(8, 4), (TOKENS,), {}, {"a.w0": "unfold"}
    ),
    "filled": Case(
        lambda m, x: m.b(torch.cat([m.a(x), torch.zeros(2, 8), x.new_ones(2, 8)], 0)), lin(), (ROWS,), {AB: 8}
    ),
    "counted": Case(
        lambda m, x: m.b(m.a(x) + torch.arange(8)), lin(), (ROWS,), {}, {"a.w0": "add in the model ties it"}
    ),
    "filled alike": Case(lambda m, x: m.b(m.a(x) + torch.ones_like(m.a(x))), lin(), (ROWS,), {AB: 8}),
    # reductions and neighbours
    "sum and mean": Case(lambda m, x: m.b(m.a(x) * m.a(x).sum(-1, keepdim=True)), lin(), (ROWS,), {AB: 8}),
    "largest of the channels": Case(
        lambda m, x: m.b(m.a(x) - m.a(x).amax(-1, keepdim=True)), lin(), (ROWS,), {}, {"a.w0": "amax runs over it"}
    ),
    "largest of all": Case(lambda m, x: m.b(m.a(x)).max(0)[0], lin(), (ROWS,), {AB: 8}),
    "softmax": Case(between(lambda y: y.softmax(-1)), lin(), (ROWS,), {AB: 8}),
    "softmax of two": Case(
        between(lambda y: y.softmax(-1)), lin(2), (ROWS,), {}, {"a.w0": "over one channel it would be constant"}
    ),
    "softmax over several kinds of channels": Case(
        between(lambda y: y.softmax(-1).view(-1, 2, 4).sum(1)), lin(8, 4), (ROWS,), {}, {"a.w0": "softmax runs over it"}
    ),
    "softmax of learned places that are attended to": Case(
        lambda m, x: m.b((m.a(x) @ m.k(m.p).mT).softmax(-1) @ m.v(m.p)),
        {**lin(8), "k": nn.Linear(5, 8), "v": nn.Linear(5, 8), "p": torch.randn(6, 5)},
        (TOKENS,),
        {"a.b0 a.w0 k.b0 k.w0": 8, "b.w1 v.b0 v.w0": 8, "k.w1 p/1 v.w1": 5},
        {"p/0": "softmax runs over it"},
    ),
    "softmax of the tokens": Case(between(lambda y: y.softmax(1)), lin(), (TOKENS,), {AB: 8}),
    "cumulative sum": Case(between(lambda y: y.cumsum(1)), lin(), (ROWS,), {}, {"a.w0": "cumsum runs over it"}),
    # gates
    "experts": Case(gated(lambda m, p: p), EXPERTS, (ROWS,), {MIXED: 6, HIDDEN: 4, READ: 7}),
    "experts that are chosen": Case(
        gated(lambda m, p: chosen(p, lambda w, at: torch.zeros_like(p).scatter(-1, at, w))),
        EXPERTS,
        (ROWS,),
        {MIXED: 6, HIDDEN: 4, READ: 7},
    ),
    "experts that are chosen, one by one": Case(
        gated(lambda m, p: chosen(p, lambda w, at: (F.one_hot(at, 6) * w.unsqueeze(-1)).sum(1))),
        EXPERTS,
        (ROWS,),
        {MIXED: 6, HIDDEN: 4, READ: 7},
    ),
    "experts whose weights are looked up": Case(looked_up, EXPERTS, (ROWS,), {MIXED: 6, HIDDEN: 4, READ: 7}),
    "experts that are numbered": Case(
        gated(lambda m, p: chosen(p, lambda w, at: torch.zeros_like(p).scatter(-1, (at + 1) % 6, w))),
        EXPERTS,
        (ROWS,),
        {HIDDEN: 4, READ: 7},
        {"a.w0": "add computes with the numbers of its places"},
    ),
    "experts whose numbers come from outside": Case(
        lambda m, x, at: m.b(m.a(x).gather(1, at)), lin(8, 3), (ROWS, (2, 3, 0)), {}, {"a.w0": "gather in the model"}
    ),
    "as many as there are": Case(
        gated(lambda m, p: torch.zeros_like(p).scatter(-1, *reversed(p.topk(6, -1)))),
        EXPERTS,
        (ROWS,),
        {HIDDEN: 4, READ: 7},
        {"a.w0": "topk takes 6 of its 6 places"},
    ),
    "modules side by side": Case(
        lambda m, x: m.b((m.a(x).softmax(-1).unsqueeze(-1) * torch.stack([e(x) for e in m.e], 1)).sum(1)),
        {**lin(4, 6), "e": nn.ModuleList(nn.Linear(5, 6) for _ in range(4))},
        (ROWS,),
        {"a.b0 a.w0": 4, "b.w1 e.0.b0 e.0.w0 e.1.b0 e.1.w0 e.2.b0 e.2.w0 e.3.b0 e.3.w0": 6},
    ),
    "modules side by side that read different values": Case(
        lambda m, x: m.b(
            (m.a(x).softmax(-1).unsqueeze(-1) * torch.stack([e(x * i) for i, e in enumerate(m.e)], 1)).sum(1)
        ),
        {**lin(4, 6), "e": nn.ModuleList(nn.Linear(5, 6) for _ in range(4))},
        (ROWS,),
        {"b.w1 e.0.b0 e.0.w0 e.1.b0 e.1.w0 e.2.b0 e.2.w0 e.3.b0 e.3.w0": 6},
        {"a.w0": "mul in the model ties it"},
    ),
    "best of the channels": Case(
        between(lambda y: y.topk(3, 1)[0]), lin(8, 3), (ROWS,), {}, {"a.w0": "topk runs over it"}
    ),
    "pooling": Case(between(lambda y: F.interpolate(F.max_pool2d(y, 2), scale_factor=2)), convs(), (IMAGE,), {AB: 8}),
    "pooling to one": Case(
        between(lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1)),
        {"a": conv(3, 8), "b": nn.Linear(8, 3)},
        (IMAGE,),
        {AB: 8},
    ),
    "pooling over the channels": Case(
        between(lambda y: F.avg_pool1d(y.flatten(2).transpose(1, 2), 2)),
        {"a": conv(3, 8), "b": nn.Linear(4, 3)},
        (IMAGE,),
        {},
        {"b.w1": "linear in b"},
    ),
    # borders
    "output": Case(lambda m, x: m.a(x), {"a": nn.Linear(5, 8)}, (ROWS,), {}, {"a.w0": "an output of the model"}),
    "output on the way": Case(
        lambda m, x: (lambda y: (y, m.b(torch.relu(y))))(m.a(x)), lin(), (ROWS,), {}, {"b.w1": "an output of the model"}
    ),
    "input meets a layer": Case(
        lambda m, x, y: m.b(m.a(x) + y), lin(), (ROWS, (2, 8)), {}, {"a.w0": "add in the model ties it to an axis"}
    ),
    "unknown operator": Case(
        between(riddle), lin(), (ROWS,), {}, {"a.w0": "riddle is an operator that Lissom does not know"}
    ),
}
