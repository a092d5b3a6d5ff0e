"""A pattern survives what comes after it: folding, fine-tuning, rounding, training with rounding, export."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.export.onnxruntime import OnnxRuntime
from lissom.functional.nm import Pattern
from lissom.graph.trace import trace
from lissom.pipeline.recording import done_text
from lissom.pipeline.transforming import transform
from lissom.pipeline.zeros import nonzeros, unrounded, zero_shares
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Transform
from lissom.transforms.finetuning import Finetune
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import QAT, Quantize
from lissom.transforms.quantization.actions import StoreWeight
from lissom.transforms.sparsity import Sparsify, ZeroWeights

HALF = Pattern(2, 4)
TARGET = load_target("onnxruntime")
SPARSE = Sparsify(pattern="2:4", criterion="sparsegpt")
TRAINED = {"epochs": 2, "learning_rate": 0.05, "precision": "float32", "teacher": None}


def prepared() -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )
    images = [torch.randn(32, 3, 6, 6) for _ in range(4)]
    # Answers that can be learned, so that every weight is asked to move.
    batches = [(image, (image.mean((2, 3)) @ torch.randn(3, 4)).argmax(1)) for image in images]
    for image in images:
        model(image)
    return model.eval(), Task(example_inputs=(images[0][:2],), train=batches, calibration=batches, loss=F.cross_entropy)


def after(*steps: Transform) -> tuple[nn.Module, dict[str, Tensor], list[StoreWeight]]:
    """The final model, the weights as `Sparsify` left them, what is stored in integers."""
    model, task = prepared()
    made = transform(model, task, Recipe([SPARSE, *steps]), TARGET)
    named = [a.parameter for a in made[0].plan.of(ZeroWeights)]
    assert set(named) == {"3.weight", "8.weight", "10.weight"}
    sparse = {name: made[0].model.get_parameter(name).detach() for name in named}
    assert all(HALF.held_by(weight) for weight in sparse.values())
    return made[-1].model, sparse, made[-1].plan.of(StoreWeight)


def test_the_result_counts_zeros_and_tells_a_pattern_that_is_lost():
    model, task = prepared()
    steps = transform(model, task, Recipe([SPARSE, Fold(), Quantize(calibration="minmax", corrections=())]), TARGET)
    final = trace(steps[-1].model, task.example)
    shares = zero_shares(steps, final)
    assert shares == {name: (pytest.approx(0.5), "2:4") for name in ("3", "8", "10")}
    folded = steps[1].model
    assert nonzeros(unrounded(steps, final)) == sum(int(p.count_nonzero()) for p in folded.parameters())
    assert done_text(steps[0].plan).startswith(
        "496 of 992 weights zero in 3 layers, 2:4; no kernel of the target skips"
    )
    with torch.no_grad():
        folded.get_parameter("8.weight")[0].fill_(1.0)
    broken = trace(folded, task.example)
    assert zero_shares(steps[:2], broken)["8"] == (pytest.approx(0.5 - 6 / 96), "")


def integers(model: nn.Module, sparse: dict[str, Tensor]) -> list[Tensor]:
    """What a rounded graph stores for the sparse weights, by shape."""
    stored = [b for n, b in model.named_buffers() if n.endswith("_int8")]
    found = [next(b for b in stored if b.shape == weight.shape) for weight in sparse.values()]
    assert isinstance(model, GraphModule)
    return found


def test_folding():
    model, sparse, _ = after(Fold())
    for name, weight in sparse.items():
        assert torch.equal(model.get_parameter(name) == 0, weight == 0)
    assert not torch.equal(model.get_parameter("3.weight"), sparse["3.weight"])


def test_fine_tuning():
    model, sparse, _ = after(Finetune(**TRAINED))
    for name, weight in sparse.items():
        trained = model.get_parameter(name)
        assert torch.equal(trained == 0, weight == 0)
        assert bool((trained[weight != 0] != weight[weight != 0]).any())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("fit", ["nearest", "gptq", "adaround"])
def test_rounding(bits, fit):
    corrections = () if fit == "nearest" else (fit,)
    quantize = Quantize(calibration="minmax", weight_bits=bits, corrections=corrections)
    model, sparse, stored = after(Fold(), quantize)
    if fit != "nearest" and bits == 4:
        assert {one.fit for one in stored} == {fit}, "it was accepted, else this tests nothing"
    for found, weight in zip(integers(model, sparse), sparse.values(), strict=True):
        assert bool((found[weight == 0] == 0).all())
        assert HALF.held_by(found)
        assert bool((found != 0).any())


def test_training_with_rounding():
    quantize = Quantize(calibration="minmax", corrections=(), training=QAT(**{**TRAINED, "learning_rate": 0.01}))
    model, sparse, _ = after(Fold(), quantize)
    for found, weight in zip(integers(model, sparse), sparse.values(), strict=True):
        assert bool((found[weight == 0] == 0).all())
        assert bool((found[weight != 0] != 0).float().mean() > 0.8)


def initializers(model: nn.Module, folder: Path) -> list[Tensor]:
    _, task = prepared()
    artifact = OnnxRuntime().export(model, task.example, "onnxruntime", folder, "model")
    held = onnx.load(folder / artifact.files[0]).graph.initializer
    arrays = [torch.from_numpy(numpy_helper.to_array(one).copy()) for one in held]
    return [array for array in arrays if array.ndim > 1 and array.numel() > 30]


@pytest.mark.parametrize("steps", [(), (Fold(), Quantize(calibration="minmax", corrections=()))], ids=["float", "int8"])
def test_the_file_holds_exact_zeros(steps, tmp_path):
    model, sparse, _ = after(*steps)
    held = initializers(model, tmp_path)
    for weight in sparse.values():
        # Linear layers leave as products with the transposed weight.
        forms = [a if a.shape == weight.shape else a.T for a in held if sorted(a.shape) == sorted(weight.shape)]
        assert any(HALF.held_by(form) and bool((form[weight == 0] == 0).all()) for form in forms)


def test_all_of_them_in_one_recipe():
    steps = (Finetune(**TRAINED), Fold(), Quantize(calibration="minmax", weight_bits=4, corrections=("gptq",)))
    model, sparse, _ = after(*steps)
    assert all(HALF.held_by(found) for found in integers(model, sparse))
