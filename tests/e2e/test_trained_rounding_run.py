"""A run that trains with rounding: killed in the training, continued, reloaded, reported."""

from __future__ import annotations

import pytest
import tiny
import torch
import torch.nn.functional as F

import lissom
from lissom.pipeline import read_result
from lissom.training import checkpoint

RECIPE = lissom.Recipe(
    [
        lissom.Fold(),
        lissom.Quantize(
            activation_bits=4,
            weight_bits=2,
            training=lissom.QAT(epochs=2, precision="float32", channels_last=False),
        ),
    ]
)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_it_continues_reloads_and_reports(target, tmp_path, monkeypatch):
    monkeypatch.setattr("lissom.pipeline.measuring.ROUNDS", 3)

    class Killed(BaseException):
        pass

    kept = checkpoint.save

    def save_and_die(*given):
        kept(*given)
        raise Killed

    model, task = tiny.tiny(), tiny.task(loss=F.cross_entropy)
    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(Killed):
        lissom.compress(model, task, target=target, recipe=RECIPE, out=tmp_path / "run", threads=1)
    monkeypatch.setattr(checkpoint, "save", kept)
    result = lissom.compress(model, task, target=target, recipe=RECIPE, out=tmp_path / "run", threads=1)
    record = read_result(tmp_path / "run")
    assert len(record.steps[1].training.epochs) == 2
    assert any(action.learned != action.numbers for action in result.plans[1].actions if hasattr(action, "learned"))
    whole = lissom.compress(model, task, target=target, recipe=RECIPE, out=tmp_path / "whole", threads=1)
    assert whole.plans[1].actions == result.plans[1].actions
    x, _ = tiny.bars(32, 3)
    loaded = lissom.load(tmp_path / "run", tiny.tiny())
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))
        assert torch.equal(whole.model(x), result.model(x))
    assert "loss and metric of each epoch" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
