"""Sparsify(pattern="4x1"): zeros in whole blocks by every criterion, kept by what comes after."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.errors import RecipeError
from lissom.functional.blocks import Block, pattern_of
from lissom.graph.trace import trace
from lissom.pipeline.recording import done_text
from lissom.pipeline.transforming import transform
from lissom.pipeline.zeros import zero_shares
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Plan
from lissom.transforms.finetuning import Finetune
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import QAT, Quantize
from lissom.transforms.sparsity import PermuteChannels, Sparsify, ZeroWeights

TARGET = load_target("onnxruntime")
CRITERIA = ("magnitude", "gradient", "wanda", "sparsegpt")
TRAINED = {"epochs": 2, "learning_rate": 0.05, "precision": "float32", "teacher": None}


def prepared() -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )
    images = [torch.randn(32, 3, 6, 6) for _ in range(4)]
    batches = [(image, (image.mean((2, 3)) @ torch.randn(3, 5)).argmax(1)) for image in images]
    for image in images:
        model(image)
    return model.eval(), Task(example_inputs=(images[0][:2],), train=batches, calibration=batches, loss=F.cross_entropy)


def sparsified(one: Sparsify) -> tuple[nn.Module, nn.Module, Plan]:
    model, task = prepared()
    made = trace(model, task.example)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    return model, one.apply(model, plan, made, task), plan


def pieces(weight: Tensor, block: Block) -> list[Tensor]:
    """Every block, by plain slicing."""
    matrices = [weight]
    if weight.ndim == 4:
        matrices = [weight[:, :, y, x] for y in range(weight.shape[2]) for x in range(weight.shape[3])]
    return [
        m[i : i + block.rows, j : j + block.columns]
        for m in matrices
        for i in range(0, m.shape[0], block.rows)
        for j in range(0, m.shape[1], block.columns)
    ]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("text", ["4x1", "1x4", "2x2"])
def test_zeros_come_in_whole_blocks_as_many_as_planned(criterion, text):
    block = pattern_of(text)
    assert isinstance(block, Block)
    before, after, plan = sparsified(Sparsify(pattern=text, ratio=0.7, criterion=criterion))
    assert not plan.of(PermuteChannels)
    planned = {a.parameter: a for a in plan.of(ZeroWeights)}
    assert len(planned) >= 3
    for name, action in planned.items():
        found = pieces(after.get_parameter(name).detach(), block)
        gone = [bool((one == 0).all()) for one in found]
        assert sum(gone) * block.area == action.zeros
        assert action.zeros == int((after.get_parameter(name) == 0).sum())
        rows = after.get_parameter(name).shape[0] // block.rows if criterion == "wanda" else 1
        assert sum(gone) == rows * int(0.7 * (len(found) // rows) + 1e-9)
        assert (action.pattern, action.skips_zeros) == (text, False)
        if criterion == "magnitude":
            sums = [float(one.abs().sum()) for one in pieces(before.get_parameter(name).detach(), block)]
            assert max(s for s, g in zip(sums, gone, strict=True) if g) <= min(
                s for s, g in zip(sums, gone, strict=True) if not g
            )


def test_what_does_not_divide_stays_dense_and_says_why():
    _, _, plan = sparsified(Sparsify(pattern="4x4", ratio=0.5))
    assert {s.layer: s.reason for s in plan.skipped} == {
        "0": "its 3 inputs per group are no multiple of 4",
        "1": "batch_norm is no convolution or linear layer",
        "3": "its 6 outputs per group are no multiple of 4",
        "11": "its 5 outputs per group are no multiple of 4",
    }
    assert {a.layer for a in plan.of(ZeroWeights)} == {"5", "9"}


def test_one_ranking_of_the_blocks_of_all_layers():
    before, after, plan = sparsified(Sparsify(pattern="2x1", ratio=0.6, scope="global"))
    block = Block(2, 1)
    names = [a.parameter for a in plan.of(ZeroWeights)]
    gone, kept = [], []
    for name in names:
        pairs = zip(*(pieces(m.get_parameter(name).detach(), block) for m in (before, after)), strict=True)
        for was, now in pairs:
            (gone if bool((now == 0).all()) else kept).append(float(was.abs().sum()))
    assert max(gone) <= min(kept)
    assert len(gone) == int(0.6 * (len(gone) + len(kept)))
    shares = {a.layer: a.zeros / a.size for a in plan.of(ZeroWeights)}
    assert len(set(shares.values())) > 1, "else it is the local one"


@pytest.mark.parametrize("criterion", ["magnitude", "sparsegpt"])
def test_blocks_survive_training_folding_and_rounding(criterion):
    model, task = prepared()
    quantize = Quantize(calibration="minmax", corrections=(), training=QAT(**{**TRAINED, "learning_rate": 0.01}))
    one = Sparsify(pattern="4x1", ratio=0.75, criterion=criterion, exclude=("0",))
    steps = transform(model, task, Recipe([one, Finetune(**TRAINED), Fold(), quantize]), TARGET)
    actions = steps[0].plan.of(ZeroWeights)
    assert {a.layer for a in actions} == {"5", "9"}
    last = steps[-1].model
    assert isinstance(last, GraphModule)
    stored = [b for n, b in last.named_buffers() if n.endswith("_int8")]
    for action in actions:
        sparse = steps[0].model.get_parameter(action.parameter).detach()
        for later in (steps[1].model, steps[2].model):
            weight = later.get_parameter(action.parameter)
            assert torch.equal(weight == 0, sparse == 0)
            assert not torch.equal(weight, sparse) or action.layer != "5"
        (found,) = [b for b in stored if b.shape == sparse.shape]
        assert bool((found[sparse == 0] == 0).all())
        assert bool((found != 0).any())
    shares = zero_shares(steps, trace(last, task.example))
    assert shares == {name: (pytest.approx(0.75), "4x1") for name in ("5", "9")}
    assert "2 layers, 4x1; no kernel of the target skips them" in done_text(steps[0].plan)
    with torch.no_grad():
        steps[0].model.get_parameter("5.weight").fill_(1.0)
    assert zero_shares(steps[:1], trace(steps[0].model, task.example))["5"] == (0.0, "")


def test_the_share_and_the_scope_go_with_a_block_and_not_with_n_of_m():
    (one,) = Recipe.from_data([{"Sparsify": {"pattern": "4x1", "ratio": 0.9, "scope": "global"}}]).steps
    assert isinstance(one, Sparsify)
    assert (one.pattern, one.ratio) == ("4x1", 0.9)
    with pytest.raises(RecipeError, match="Sparsify: pattern: '1x1' is no block"):
        Recipe.from_data([{"Sparsify": {"pattern": "1x1"}}])
