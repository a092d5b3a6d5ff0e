"""Bits of each layer by rules: who wins, what is stored how, and that simulation and runtime agree."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from torch import nn

from lissom.errors import FailureError, RecipeError, UsageError
from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.graph.trace import trace
from lissom.measure.quality import parity
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize, layer_bits, planned_precision, stored_as
from lissom.transforms.quantization.actions import HalveWeight, StoreWeight

WIDTH = 40
"""40 x 40 weights are worth halving, 8 x 40 are not."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(WIDTH, WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.norm(x + self.ffn(x + self.attention(x)))


class Network(nn.Module):
    """An embedding, two blocks, a head whose weight is small."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x):
        return self.head(self.blocks(self.words(x)).mean(1))


def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def words(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (count, 6), generator=torch.Generator().manual_seed(seed))


TASK = Task(example_inputs=(words(1),), calibration=[words(24)])


def quantized(quantize: Quantize, model: nn.Module | None = None, target: str = "openvino", task: Task = TASK):
    model = model or network()
    made, table = trace(model, task.example), load_target(target)
    plan = quantize.plan(made.graph, quantize.study(model, made, task, table), table)
    return made, plan, quantize.apply(model, plan, made, task)


def by_layer(found: dict[str, str], made) -> dict[str, str]:
    return {made.graph.by_name[node].layer: value for node, value in found.items()}


PLAIN = {"calibration": "minmax", "corrections": ()}
MIXED = {"*": 16, "*attention": 8, "blocks.0.ffn.*": 4, "blocks.1.ffn.2": 32}


def test_later_rules_win_and_others_have_eight_bits():
    made, plan, model = quantized(Quantize(precision=MIXED, **PLAIN))
    assert by_layer(stored_as(plan), made) == {
        "words": "float16",
        "blocks.0.attention": "int8",
        "blocks.1.attention": "int8",
        "blocks.0.ffn.0": "int4",
        "blocks.0.ffn.2": "int4",
        "blocks.1.ffn.0": "float16",
    }
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert reasons["blocks.1.ffn.2"] == "excluded by the recipe"
    assert reasons["head"].startswith("16 bits: its weights hold fewer than 1024 values")
    assert set(by_layer(planned_precision(plan), made).values()) == {"int8"}
    held = model.state_dict()
    assert held["words.weight_half"].dtype == torch.float16
    assert held["blocks.0.ffn.0.weight_int8"].abs().max() == 7
    assert held["blocks.1.ffn.2.weight"].dtype == torch.float32
    shown = {layer: (weights, computes) for layer, weights, computes in layer_bits(plan)}
    assert len(shown) == 6
    assert shown["blocks.0.ffn.0"] == ("int4", "int8")
    assert shown["blocks.1.ffn.0"] == ("float16", "float32")
    others = quantized(Quantize(precision={"head": 32}, **PLAIN))
    assert set(stored_as(others[1]).values()) == {"int8"}


def test_order_of_the_rules_matters_and_is_kept():
    first, second = Quantize(precision={"*": 16, "head": 8}), Quantize(precision={"head": 8, "*": 16})
    assert first != second
    for one in (first, second):
        recipe = Recipe([Fold(), one])
        assert Recipe.from_data(json.loads(recipe.to_json())) == recipe
        read = Recipe.from_data(yaml.safe_load(recipe.to_yaml()))
        assert read == recipe
        assert read.id == recipe.id
        assert hash(one) == hash(Quantize.model_validate_json(one.model_dump_json()))
    assert Recipe([first]).id != Recipe([second]).id
    assert first.model_dump(mode="json")["precision"] == {"*": 16, "head": 8}
    assert len(quantized(first.model_copy(update=PLAIN))[1].of(StoreWeight)) == 1
    assert quantized(second)[1].of(StoreWeight) == []


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name():
    with pytest.raises(RecipeError, match=r"Quantize\(precision=\.\.\.\): the pattern 'haed' .* Did you mean 'head'"):
        quantized(Quantize(precision={"haed": 16}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": {"*": 5}}, "precision"),
        ({"precision": 32}, "precision"),
        ({"precision": {"*": 4}, "weight_bits": 4}, "weight_bits=4 is for all layers"),
    ],
)
def test_wrong_bits_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Quantize.parse(given, "step", RecipeError)


def test_half_precision_alone_needs_no_data_and_halves_the_model():
    quantize = Quantize(precision=16)
    assert not quantize.needs()
    task = Task(example_inputs=(words(1),))
    model = network()
    made, plan, half = quantized(quantize, model, task=task)
    halved = {action.parameter for action in plan.of(HalveWeight)}
    assert halved == {name for name, p in model.named_parameters() if p.numel() >= 1024}
    saved = sum(p.numel() * 2 for name, p in model.named_parameters() if name in halved)
    assert plan.predicted.bytes == made.graph.bytes - saved
    rounded = network()
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name in halved:
                parameter.copy_(parameter.half().float())
    x = words(5, seed=3)
    torch.testing.assert_close(half(x), rounded(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_mixed_layers_run_as_simulated_and_are_smaller(name, tmp_path):
    target = load_target(name)
    runtime = runtime_of(target)
    if not runtime.availability().found:
        pytest.skip(runtime.availability().detail)
    _, _, model = quantized(Quantize(precision=MIXED, **PLAIN), target=name)
    artifact = runtime.export(model, TASK.example, name, tmp_path, "mixed")
    if name != "torch":  # its archive takes some 2 KB for every tensor, more than is saved here
        original = runtime.export(network(), TASK.example, name, tmp_path, "float")
        assert artifact.size_bytes < original.size_bytes - 2 * (50 * WIDTH + 2 * WIDTH * WIDTH)
    x = words(20, seed=5)
    with torch.no_grad():
        simulated = model(x)
    (found,) = run(runtime.load(artifact, tmp_path, 1), artifact, Batch((x,)))
    apart = parity([simulated.numpy()], [found.numpy()])
    assert apart.max_steps <= 1.0 + 1e-3


def test_a_runtime_that_would_convert_at_every_call_keeps_its_weights():
    _, plan, _ = quantized(Quantize(precision=16), target="executorch")
    assert plan.actions == ()
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert "at every call" in reasons["blocks.0.attention"]
    assert {"words/embedding", "head"} <= set(reasons)


def test_a_weight_beyond_half_precision_is_refused_by_name():
    model = network()
    with torch.no_grad():
        model.blocks[0].attention.weight[0, 0] = 1e6
    with pytest.raises(FailureError, match=r"blocks\.0\.attention\.weight does not fit into 16 bits.*32 bits"):
        quantized(Quantize(precision=16), model)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, WIDTH)
        self.head = nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.words(x).mean(1))


def test_a_shared_weight_is_halved_only_if_no_reader_has_32_bits():
    torch.manual_seed(0)
    model = Tied().eval()
    _, plan, half = quantized(Quantize(precision={"*": 16}, **PLAIN), model)
    assert len(plan.of(HalveWeight)) == 1
    assert sum(t.dtype == torch.float16 for t in half.state_dict().values()) == 1
    _, plan, _ = quantized(Quantize(precision={"words": 16, "head": 32}, **PLAIN), model)
    assert plan.actions == ()
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    assert any("its weight is shared with head" in reason for reason in reasons.values())
