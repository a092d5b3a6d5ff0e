"""Weights that are stored in integers and computed with in float: look-ups and recurrent layers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.graph.trace import Trace, trace
from lissom.target import known_targets, load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.quantization import Quantize, planned_precision, stored_as
from lissom.transforms.quantization.actions import StoreWeight
from lissom.transforms.quantization.operators import WORTH
from small_models import call

IDS = torch.tensor([[3, 3, 0, 59, 7], [1, 2, 4, 8, 16]])
RESTORING = [name for name in known_targets() if "embedding" in load_target(name).weights.ops]
CELLS = {
    "lstm": lambda: nn.LSTM(20, 24, batch_first=True),
    "two bidirectional lstms": lambda: nn.LSTM(20, 24, 2, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(20, 24, batch_first=True),
}


class Reader(nn.Module):
    """A table, a recurrent layer, a classifier."""

    def __init__(self, cell: nn.Module, words: int = 60) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 20)
        self.cell = cell
        self.fc = nn.LazyLinear(3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.cell(self.words(ids))[0][:, -1])


def built(cell: str = "lstm", words: int = 60) -> tuple[nn.Module, Trace]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Reader(CELLS[cell](), words).eval()
        model(IDS % words)
    return model, trace(model, Batch((IDS % words,)))


def planned(made: Trace, target: str = "torch", **settings: object) -> Plan:
    return Quantize(mode="dynamic", **settings).plan(made.graph, None, load_target(target))


def applied(made: Trace, plan: Plan) -> nn.Module:
    return Quantize().apply(made.module, plan, made, Task(example_inputs=(IDS,)))


def rounded(weight: Tensor, limit: int = 127) -> Tensor:
    """By numpy: one scale a row, half to even."""
    values = weight.detach().numpy()
    scale = (np.abs(values).max(1, keepdims=True) / limit).astype(np.float32)
    return torch.from_numpy(np.clip(np.round(values / scale), -limit, limit).astype(np.float32) * scale)


@pytest.mark.parametrize("cell", CELLS)
def test_the_simulation_is_the_float_network_with_rounded_weights(cell):
    model, made = built(cell)
    plan = planned(made, exclude=("fc",))
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in wanted.named_parameters():
            if parameter.ndim == 2 and not name.startswith("fc"):
                parameter.copy_(rounded(parameter))
    (got,) = call(applied(made, plan), Batch((IDS,)))
    torch.testing.assert_close(got, call(wanted, Batch((IDS,)))[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, call(model, Batch((IDS,)))[0], rtol=1e-6, atol=1e-7)
    matrices = [n for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith("fc")]
    assert sorted(a.parameter for a in plan.of(StoreWeight)) == sorted(matrices)
    assert all(a.restored for a in plan.of(StoreWeight))


@pytest.mark.parametrize("target", RESTORING)
def test_they_are_planned_where_the_table_restores_them_and_compute_in_float(target):
    _, made = built()
    plan = planned(made, target)
    table = load_target(target)
    held = [a for a in plan.of(StoreWeight) if a.restored]
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert "words.weight" in [a.parameter for a in held]
    if "recurrent" in table.weights.ops:
        assert {"cell.weight_ih_l0", "cell.weight_hh_l0"} < {a.parameter for a in held}
    else:
        assert reasons["cell/lstm"] == f"{table.title} has no integer kernel for lstm in this mode"
    assert not {"embedding", "lstm"} & set(planned_precision(plan))
    assert stored_as(plan)["embedding"] == "int8"


def test_static_mode_stores_them_too_and_rounds_nothing_for_them():
    model, made = built()
    task = Task(example_inputs=(IDS,), calibration=[IDS])
    quantize, table = Quantize(calibration="minmax"), load_target("torch")
    plan = quantize.plan(made.graph, quantize.study(model, made, task, table), table)
    assert len([a for a in plan.of(StoreWeight) if a.restored]) == 3
    readers = {node for a in plan.actions if a.kind == "round-activation" for node, _ in a.readers}
    assert not {"embedding", "lstm"} & readers


def test_predicted_bytes_are_those_of_the_state():
    _, made = built()
    plan = planned(made, "torch")
    module = applied(made, plan)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    size = sum(t.numel() * t.element_size() for n, t in state.items() if not n.endswith("_zero_point"))
    assert plan.predicted.bytes == size < 0.4 * made.graph.bytes


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("named", [False, True])
def test_fewer_bits_have_fewer_steps(named, bits):
    _, made = built()
    plan = planned(made, "onnxruntime", **({"precision": {"*": bits}} if named else {"weight_bits": bits}))
    module = applied(made, plan)
    # A table has them only where precision names it.
    steps = {a.parameter: bits if named or a.parameter != "words.weight" else 8 for a in plan.of(StoreWeight)}
    assert {a.parameter: a.bits for a in plan.of(StoreWeight)} == steps
    assert {a.parameter: a.stored for a in plan.of(StoreWeight) if a.restored} == {
        "words.weight": 8,
        "cell.weight_ih_l0": 4,
        "cell.weight_hh_l0": 4,
    }
    held = {name: int(buffer.abs().max()) for name, buffer in module.named_buffers() if name.endswith("_int8")}
    assert sorted(held.values()) == sorted(2 ** (own - 1) - 1 for own in steps.values())


def test_what_is_too_small_stays_in_float():
    rows = WORTH // 20
    _, made = built(words=rows)
    reasons = {skip.layer: skip.reason for skip in planned(made).skipped}
    assert reasons["words/embedding"].startswith(f"its weights hold fewer than {WORTH} values")
    _, made = built(words=rows + 1)
    assert "words/embedding" not in {skip.layer for skip in planned(made).skipped}


def test_a_table_that_a_product_reads_too_stays_in_float():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(60, 20)
            self.head = nn.Linear(20, 60, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.words(ids))

    made = trace(Tied().eval(), Batch((IDS,)))
    plan = planned(made)
    assert not plan.actions
    assert {skip.layer: skip.reason for skip in plan.skipped} == {
        "words/embedding": "its weight is shared with head, which reads it in another way",
        "head": "its weight is shared with words/embedding, which reads it in another way",
    }


def test_a_table_that_is_looked_up_twice_is_stored_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(60, 20)

        def forward(self, ids: Tensor) -> Tensor:
            return self.words(ids) + self.words(ids.flip(1))

    model = Twice().eval()
    made = trace(model, Batch((IDS,)))
    plan = planned(made)
    (action,) = plan.of(StoreWeight)
    assert action.nodes == ("embedding", "embedding_1")
    module = applied(made, plan)
    table = rounded(model.words.weight)
    torch.testing.assert_close(module(IDS), table[IDS] + table[IDS.flip(1)])
    assert not dict(module.named_parameters())


def test_no_look_up_restores_the_whole_table():
    _, made = built()
    module = applied(made, planned(made))
    restored = [n for n in module.graph.nodes if "dequantize_per_channel" in str(n.target)]
    held = {str(n.args[0].target) for n in restored}
    assert "words.weight_int8" not in held
    assert not [name for name, _ in module.named_buffers() if name.startswith("words") and "zero" in name]
    assert "cell.weight_ih_l0_int8" in held


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_a_row_is_at_most_half_a_step_from_the_float_one(width, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    table = nn.Embedding(-(-WORTH // width), width).eval()
    with torch.no_grad():
        table.weight.copy_(torch.randn(table.weight.shape, generator=generator) * spread)
    ids = torch.randint(0, len(table.weight), (2, 9), generator=generator)
    made = trace(table, Batch((ids,)))
    gap = (applied(made, planned(made))(ids) - table(ids)).abs()
    step = table.weight.abs().amax(1)[ids] / 127
    assert bool((gap <= step[..., None] * 0.50001).all())
