"""A run with pruning and fine-tuning: what its result and its report say about channels and steps."""

from __future__ import annotations

import pytest
import tiny
import torch.nn.functional as F

import lissom
from lissom.measure.records import RunRecord
from lissom.pipeline import read_result
from lissom.report import html

RECIPE = lissom.Recipe(
    [lissom.Fold(), lissom.Prune(macs_ratio=1.5, scope="local"), lissom.Finetune(epochs=1), lissom.Quantize()]
)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("pruned") / "run"
    task = tiny.task(loss=F.cross_entropy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lissom.pipeline.measuring.ROUNDS", 3)
        lissom.compress(tiny.tiny(), task, target="onnxruntime", recipe=RECIPE, out=folder, threads=1)
    return read_result(folder)


def test_every_step_says_what_it_did(record: RunRecord) -> None:
    fold, prune, tune, quantize = record.steps
    assert [step.title for step in record.steps] == [
        "Fold", "Prune(macs_ratio=1.5, scope=local)", "Finetune(epochs=1)", "Quantize(mode=static)",
    ]  # fmt: skip
    assert fold.did == "2 x fold-norm"
    assert prune.did == "2 groups of channels cut, in 3 layers, by reconstruction"
    assert tune.did.startswith(f"{tune.parameters:,} parameters trained in ")
    assert [step.module for step in record.steps] == ["own class", "own class", "own class", "exported graph"]
    assert fold.macs == record.before.macs
    assert prune.macs == tune.macs == quantize.macs == record.after.macs
    assert record.ratios.macs >= 1.5


def test_the_training_is_in_the_result_and_on_the_page(record: RunRecord) -> None:
    fold, prune, tune, quantize = record.steps
    assert fold.training is prune.training is quantize.training is None
    assert tune.training is not None
    (epoch,) = tune.training.epochs
    assert epoch.loss > 0
    assert 0 < epoch.seconds <= tune.seconds
    assert tune.metric is not None
    assert (tune.training.metric_name, epoch.metric) == (tune.metric.name, pytest.approx(tune.metric.value))
    assert f"trained in {tune.training.precision}" in tune.did
    assert all(ms > 0 for ms in tune.training.step_ms.values())
    # Timed wherever there was a choice.
    assert tune.training.step_ms or tune.training.precision == "float32"
    assert "Step 3, Finetune(epochs=1): loss and metric of each epoch" in html.render([record])


def test_channels_are_in_the_result_and_on_the_page(record: RunRecord) -> None:
    assert [(one.layer, one.before) for one in record.channels] == [("features.0", 8), ("features.3", 16), ("head", 4)]
    first, second, head = record.channels
    assert first.after < 8
    assert second.after < 16
    assert (second.inputs_after, head.inputs_after) == (first.after, second.after)
    assert (head.after, head.reason) == (4, "it is an output of the model")
    page = html.render([record])
    assert "Output channels of each layer, before and after" in page


def test_a_result_from_before_there_were_channels_is_read(record: RunRecord) -> None:
    data = record.model_dump(mode="json")
    del data["channels"]
    for step in data["steps"]:
        for name in ("title", "did", "macs", "parameters", "module", "reason", "training"):
            del step[name]
    old = RunRecord.model_validate(data)
    assert old.channels == ()
    assert "Output channels of each layer" not in html.render([old])
