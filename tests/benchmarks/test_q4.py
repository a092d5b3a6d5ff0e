"""Q4 at toy size: a few noises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.context import Context
from benchmarks.experiments import q4, s3
from benchmarks.results import met

import lissom
from lissom.training import finetune as loop

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def spectra(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, s3.speech.BANDS, 6, generator=torch.Generator().manual_seed(seed)), torch.arange(
        count
    ) % 10


@pytest.mark.slow
def test_it_compares_both_runtimes_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openvino")
    task = lissom.Task(
        example_inputs=(torch.zeros(1, 1, s3.speech.BANDS, 6),),
        train=lissom.data.Batches(spectra(20, 0), batch_size=10, shuffle=True),
        test=lissom.data.Batches(spectra(20, 1), batch_size=10),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
    )
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    training = q4.TRAINING.model_copy(update={"epochs": 1})
    model = q4.trained(context, task, training, 64)
    monkeypatch.setattr(loop._Run, "_epoch", lambda *_: pytest.fail("trained again"))
    again = q4.trained(context, task, training, 64)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    found = q4.compared(context, model, task)
    met(found.goal, found.value)
    sizes = {run.name: run.figures["bytes"] for run in found.runs}
    assert found.value["onnxruntime size"].value == round(sizes["onnxruntime/float"] / sizes["onnxruntime/lissom"], 2)
    assert found.value["openvino size"].value > 2.5
    right = {run.name: run.figures["accuracy %"] for run in found.runs}
    assert found.value["openvino drop"].value == pytest.approx(right["openvino/float"] - right["openvino/lissom"])
    assert {"onnxruntime/ort-dynamic", "openvino/lissom"} < set(right)
