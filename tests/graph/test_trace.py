"""Tracing: the batch axis, in-place operators, refusals that name the user's line, and what is left untouched."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.graph.graph import Graph
from lissom.graph.trace import evaluation, export_program, trace
from lissom.target import load_target
from lissom.task import Batch, repeated
from lissom.transforms.quantization import Quantize
from small_models import MODELS, TwoInputs, build, call, fingerprint, same, traced


@pytest.mark.parametrize("name", MODELS)
def test_traced_module_computes_the_same(name):
    model, example, made = traced(name)
    for wanted, got in zip(call(model, example), call(made.module, example), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_free_batches_really_are_free(name):
    model, example, made = traced(name)
    assert made.graph.dynamic_batch == (name != "fixed batch")
    if made.graph.dynamic_batch:
        assert made.graph.fixed_batch is None
        assert made.graph.input_shapes[0][0] == "N"
        other = repeated(example, 5)
        for wanted, got in zip(call(model, other), call(made.module, other), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_fixed_batch_is_marked():
    graph = traced("fixed batch")[2].graph
    assert (graph.dynamic_batch, graph.fixed_batch, graph.input_shapes) == (False, 3, ((3, 4),))


def test_a_batch_of_one_is_traced_as_any_batch():
    model, example = build("residual")
    graph = trace(model, Batch((example.args[0][:1],))).graph
    assert graph.dynamic_batch
    assert graph.input_shapes == (("N", 3, 8, 8),)


@pytest.mark.parametrize("name", MODELS)
def test_no_operator_writes_in_place(name):
    for node in traced(name)[2].module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not schema.is_mutable, node


@pytest.mark.parametrize("name", MODELS)
def test_graph_is_complete_and_json(name):
    graph = traced(name)[2].graph
    assert Graph.model_validate_json(graph.model_dump_json()) == graph
    json.loads(graph.model_dump_json())
    known = {*graph.inputs, *graph.by_name}
    stored = graph.tensor_by_name
    for node in graph.nodes:
        for operand in node.operands:
            assert operand.source in (known if operand.kind == "value" else stored)
            if operand.kind == "parameter":
                assert node.name in stored[operand.source].used_by
    assert graph.layers
    assert set(graph.outputs) <= known
    assert graph.uncounted == {}


class Written(nn.Module):
    """`write` is given a fresh value of shape (N, 4) and returns what to look at."""

    def __init__(self, write):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.fc(x), x)


def _slices(y, x):
    y[:, 1] = 7.0
    return y * 2


def _base_of_view(y, x):
    y.view(-1).mul_(3.0)
    return y


def _view_of_base(y, x):
    flat = y.view(-1)
    y.add_(1.0)
    return flat * 2


def _identity_dropout(y, x):
    z = torch.nn.functional.dropout(y, 0.5, training=False)
    z.add_(1.0)
    return y


def _chunk(y, x):
    left, right = y.chunk(2, 1)
    left.zero_()
    return y + right.sum()


def _chain(y, x):
    y += x
    y.relu_().mul_(2.0)
    return y


def _own_operand(y, x):
    y.add_(y)
    return y


def _read_before_and_after(y, x):
    before = y.sum()
    y.mul_(2.0)
    return y + before


def _both(y, x):
    z = y.t()
    z.mul_(2)
    y.add_(1)
    return z.t() + y


@pytest.mark.parametrize(
    "write",
    [
        _slices,
        _base_of_view,
        _view_of_base,
        _identity_dropout,
        _chunk,
        _chain,
        _own_operand,
        _read_before_and_after,
        _both,
    ],
)
def test_in_place_operators_keep_their_meaning(write):
    torch.manual_seed(0)
    model, x = Written(write), torch.randn(3, 4)
    kept = x.clone()
    module = trace(model, Batch((x,))).module
    assert torch.equal(x, kept)
    with torch.no_grad():
        torch.testing.assert_close(module(x), model(x.clone()))
    assert torch.equal(x, kept)


class Counting(nn.Module):
    """Writes into a buffer at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) * self.calls


def test_buffers_are_not_written():
    model, x = Counting().eval(), torch.randn(3, 4)
    module = trace(model, Batch((x,))).module
    first = module(x)
    assert torch.equal(module(x), first)
    assert float(model.calls) == 0.0
    assert torch.equal(first, model(x))


def test_normalizations_survive_functionalization():
    graph = traced("in place")[2].graph
    assert [node.layer for node in graph.nodes if node.op == "batch_norm"] == ["norm"]


class Mixed(nn.Module):
    """Some regions without gradient, one in another type: sub-graphs for torch.export."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = self.b(y)
        return y.float()


def test_layers_inside_contexts_are_seen():
    graph = trace(Mixed().eval(), Batch((torch.randn(3, 4),))).graph
    assert [(n.op, n.dtype) for n in graph.nodes if n.op == "linear"] == [
        ("linear", "float32"),
        ("linear", "bfloat16"),
    ]


@pytest.mark.parametrize("name", ["residual", "in place", "tied", "fixed batch"])
def test_model_is_left_as_it_was(name):
    model, example = build(name)
    model.train()
    next(iter(model.children())).eval()
    next(iter(model.parameters())).requires_grad_(False)
    inputs = [t.clone() for t in example.tensors()]
    before = fingerprint(model)
    trace(model, example)
    assert same(before, fingerprint(model))
    assert all(torch.equal(a, b) for a, b in zip(inputs, example.tensors(), strict=True))


def test_mode_is_restored_after_a_failure():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[1].eval()
    with evaluation(model):
        assert not any(m.training for m in model.modules())

    def fail() -> None:
        with evaluation(model):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [m.training for m in model.modules()] == [True, True, False]


class Refusing(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if self.how == "sum":
            if y.sum() > 0:  # the line of "sum"
                return y * 2
        elif self.how == "item":
            if y.max().item() > 0.5:  # the line of "item"
                return y * 2
        elif self.how == "numpy":
            return y + torch.from_numpy(y.numpy())  # the line of "numpy"
        elif self.how == "error":
            raise NotImplementedError("no such branch")  # the line of "error"
        return y


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("sum", "data-dependent"),
        ("item", "data-dependent"),
        ("numpy", "numpy"),
        ("error", "no such branch"),
    ],
)
def test_a_refusal_names_reason_and_line(how, reason):
    with pytest.raises(ExportError) as refusal:
        trace(Refusing(how), Batch((torch.randn(3, 4),)))
    text = str(refusal.value)
    assert text.startswith("The model does not export: ")
    assert reason in text.split(" at test_trace.py")[0]
    assert re.search(rf'at test_trace\.py:\d+: `.*# the line of "{how}"`\.', text)
    assert "rewrite that line with torch operators" in text


def test_wrong_number_of_inputs_is_explained():
    with pytest.raises(ExportError, match="The model does not export: missing a required argument: 'b'"):
        trace(TwoInputs(), Batch((torch.randn(3, 4),)))


def test_keyword_inputs_keep_the_examples_order():
    _, example, made = traced("keywords")
    assert made.graph.inputs == ("b", "a") == tuple(example.kwargs)


def test_variadic_inputs():
    assert traced("variadic")[2].graph.input_shapes == (("N", 4), ("N", 4))


def test_tied_weights_are_counted_once():
    model, _, made = traced("tied")
    unique = list(model.parameters())  # torch gives each once
    assert made.graph.parameters == sum(p.numel() for p in unique)
    assert made.graph.bytes == sum(p.numel() * p.element_size() for p in unique)
    shared = [t for t in made.graph.tensors if len(t.used_by) == 2]
    assert [t.shape for t in shared] == [(11, 6)]


def test_layer_names_and_classes():
    graph = traced("residual")[2].graph
    named = {node.layer: node for node in graph.nodes}
    assert named["stem.0"].module == "torch.nn.modules.conv.Conv2d"
    assert named["body.1"].module == "torch.nn.modules.batchnorm.BatchNorm2d"
    assert named[""].op == "relu" or named[""].op in ("add", "flatten")
    calls = [n.layer for n in traced("shared")[2].graph.nodes if n.op == "conv2d"]
    assert calls == ["conv", "conv"]


def test_constants_of_calls():
    graph = traced("branches")[2].graph
    adds = [node.constants for node in graph.nodes if node.op == "add"]
    assert {"alpha": 0.5} in adds
    assert {} in adds
    pad = next(node for node in traced("signal")[2].graph.nodes if node.op == "pad")
    assert pad.constants == {"value": 1.0}


@pytest.mark.parametrize("name", ["residual", "tied", "in place", "keywords", "fixed batch"])
def test_a_quantized_model_is_traced_again(name):
    _, example, made = traced(name)
    target = load_target("openvino")
    quantize = Quantize(mode="dynamic")
    rounded = quantize.apply(made.module, quantize.plan(made.graph, None, target), made, None)
    again = trace(rounded, example)
    assert again.graph.dynamic_batch == made.graph.dynamic_batch
    assert again.graph.macs == made.graph.macs
    for wanted, got in zip(call(rounded, example), call(again.module, example), strict=True):
        torch.testing.assert_close(got, wanted)


def test_batch_can_be_bounded():
    model, example = build("mlp")
    program, dynamic = export_program(model, example, max_batch=8)
    assert dynamic
    assert [(int(r.lower), int(r.upper)) for r in program.range_constraints.values()] == [(1, 8)]
