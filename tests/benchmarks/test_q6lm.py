"""Q6LM at toy size: a few letters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import q6lm
from benchmarks.results import met

from lissom.training import finetune as loop

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def test_reviews_become_letters_and_every_target_is_the_next_one(tmp_path: Path):
    file = tmp_path / "train.tsv"
    file.write_text("It's\t1\nso é\t0\n", encoding="utf-8")
    text = q6lm.ids(file)
    assert "".join(q6lm.LETTERS[each] for each in text) == "it's\nso  \n"
    task = q6lm.task_of(text, text, text, length=3, batch=2)
    read, wanted = next(iter(task.test or ()))
    assert torch.equal(read.flatten(), text[:6])
    assert torch.equal(wanted.flatten(), text[1:7])
    logits = torch.nn.functional.one_hot(wanted, len(q6lm.LETTERS)).transpose(1, 2).float()
    assert q6lm.foretold(logits, wanted).tolist() == [1, 1]


def test_a_letter_sees_none_that_follow():
    model = q6lm.Writer(48, 2, 2, 8).eval()
    one = torch.arange(8)[None] + 2
    other = one.clone()
    other[0, 5:] = 0
    assert torch.allclose(model(one)[..., :5], model(other)[..., :5], atol=1e-6)
    assert not torch.allclose(model(one)[..., 5:], model(other)[..., 5:])


@pytest.mark.slow
def test_it_compares_both_runtimes_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(q6lm, "WAYS", {name: q6lm.WAYS[name] for name in (q6lm.DEFAULT, "8 bits")})
    text = torch.randint(0, len(q6lm.LETTERS), (16 * 33 + 1,), generator=torch.Generator().manual_seed(0))
    task = q6lm.task_of(text, text, text, length=16, batch=8)
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    training = q6lm.TRAINING.model_copy(update={"epochs": 1, "precision": "float32"})
    shape = {"width": 64, "depth": 1, "heads": 2, "length": 16}
    model = q6lm.trained(context, task, training, **shape)
    monkeypatch.setattr(loop._Run, "_epoch", lambda *_: pytest.fail("trained again"))
    again = q6lm.trained(context, task, training, **shape)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    found = q6lm.compared(context, model, task)
    met(found.goal, found.value)
    figures = {run.name: run.figures for run in found.runs}
    with torch.no_grad():
        outputs = [(model(batch.args[0]), batch.target) for batch in task.batches("test")]
    right = sum(float((logits.argmax(1) == target).sum()) for logits, target in outputs)
    assert figures["openvino/float"]["right %"] == pytest.approx(100 * right / (16 * 33), abs=0.3)
    assert found.value["onnxruntime size"].value > found.value["onnxruntime size, 8 bits"].value > 1
    drop = figures["openvino/float"]["right %"] - figures["openvino/4 bits"]["right %"]
    assert found.value["openvino drop"].value == pytest.approx(drop, abs=1e-3)
