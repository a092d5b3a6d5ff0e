"""Every structural step before the integers: folded, pruned, factorized, trained, quantized, exported, loaded."""

from __future__ import annotations

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

import lissom
from lissom import demo_project
from lissom.errors import RecipeError
from lissom.pipeline import read_result

RECIPE = lissom.Recipe(
    [
        lissom.Fold(),
        lissom.Prune(macs_ratio=1.2, scope="local"),
        lissom.Factorize(macs_ratio=1.3, break_even="macs"),
        lissom.Finetune(epochs=1),
        lissom.Quantize(),
    ]
)


def test_pruned_factorized_trained_and_quantized_runs_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr("lissom.pipeline.measuring.ROUNDS", 3)
    model, task = tiny.tiny(), tiny.task(loss=F.cross_entropy)
    result = lissom.compress(model, task, target="onnxruntime", recipe=RECIPE, out=tmp_path / "run", threads=1)
    record = read_result(tmp_path / "run")
    split = record.steps[2]
    assert split.module == "own class"
    assert split.did == f"{len(result.plans[2].actions)} x split"
    assert result.plans[2].actions
    assert record.ratios.macs >= 1.2 * 1.3
    assert record.ratios.parameters > 1
    loaded = lissom.load(tmp_path / "run", tiny.tiny())
    x = task.example_inputs[0]
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


def test_a_run_times_every_layer_beside_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("lissom.pipeline.measuring.ROUNDS", 3)
    monkeypatch.setattr("lissom.pipeline.timing.LAYER_ROUNDS", 5)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 1)).eval()
    task = lissom.Task(example_inputs=(torch.randn(2, 64, 24, 24),))
    result = lissom.compress(
        model, task, target="onnxruntime", recipe=lissom.Recipe([lissom.Factorize(rank=2)]), out=tmp_path, threads=1
    )
    (plan,) = result.plans
    # 37 million multiplications against 1.4: no load of a machine hides that. The other layer may go either way.
    wide = plan.actions[0]
    assert wide.layer == "0"
    assert wide.latency_ms > wide.latency_ms_after > 0
    timed = [action.layer for action in plan.actions if action.latency_ms is not None]
    told = [skip.layer for skip in plan.skipped if "times as fast" in skip.reason]
    assert sorted(timed + told) == ["0", "2"]
    assert torch.equal(lissom.load(tmp_path, model)(*task.example_inputs), result.model(*task.example_inputs))


@pytest.mark.slow
def test_pruned_factorized_and_quantized_keeps_what_the_digits_need(tmp_path, monkeypatch):
    """The whole order on real scans: small loss on the test split, measured on the runtime's own outputs."""
    monkeypatch.setattr("lissom.pipeline.measuring.ROUNDS", 5)
    model, task = demo_project.build()
    steps = [
        lissom.Fold(),
        lissom.Prune(macs_ratio=1.3),
        lissom.Factorize(macs_ratio=1.3, break_even="macs"),
        lissom.Finetune(epochs=4, teacher="original"),
        lissom.Quantize(),
    ]
    result = lissom.compress(
        model, task, target="onnxruntime", recipe=lissom.Recipe(steps), out=tmp_path / "run", threads=1
    )
    assert result.plans[2].actions
    assert result.before.metric.value - result.after.metric.value <= 0.03
    assert result.ratios.macs >= 1.3 * 1.3
    assert result.ratios.size > 1.5
    x, _ = next(iter(task.test))
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path / "run", model)(x), result.model(x))


def test_parts_can_be_pruned_and_folded_like_other_layers():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    task = lissom.Task(example_inputs=(torch.randn(2, 3, 8, 8),))
    steps = [lissom.Factorize(rank=4), lissom.Fold(), lissom.Prune(ratio=0.3, scope="local")]
    split, fold, prune = lissom.plan(model, task, lissom.Recipe(steps))
    assert [action.layer for action in split.actions] == ["0", "3"]
    assert [(action.norm, action.layer) for action in fold.actions] == [("1", "0.1")]
    assert {"0.0.weight", "0.1.weight", "3.0.weight"} <= {cut.parameter for cut in prune.actions}


def test_integers_cannot_be_split():
    with pytest.raises(RecipeError, match="Factorize comes after Quantize"):
        lissom.Recipe([lissom.Quantize(), lissom.Factorize(rank=4)])
