"""Q1: its figures from made-up measurements, and its files at toy size, an encoder of one layer for eight tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import bert, q1
from benchmarks.models import BertEncoder
from benchmarks.protocol import retarget
from benchmarks.results import met

from benchmarks import minilm, peers
from lissom.export.base import Artifact
from lissom.measure.records import Parity
from lissom.recipe import Recipe
from lissom.task import Batch
from lissom.transforms.quantization import Quantize

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TOY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}
MS = {
    "openvino/float": 10.0,
    "onnxruntime/float": 12.0,
    "openvino/lissom-static": 2.0,
    "onnxruntime/lissom-static": 4.0,
    "openvino/lissom-dynamic": 5.0,
    "onnxruntime/lissom-dynamic": 4.0,
    "openvino/nncf": 2.2,
    "onnxruntime/ort-dynamic": 3.0,
}


def found(**more: list[int]) -> q1.Found:
    """Measured as in `MS`; files of 400 bytes in float, 100 in integers; every answer right but for `more`."""
    artifacts, right = {}, {}
    for k in MS:
        target, name = k.split("/")
        size = 400 if name == "float" else 100
        # `Files` checks its fields; of a file only these two are read.
        artifacts[k] = (name, Artifact.model_construct(target=target, size_bytes=size), 1.0)
        right[k] = more.get(name.replace("-", "_"), [1] * 10)
    steps = [Parity(max_steps=2.0, mean_steps=0.1 * i, agreement=None) for i in range(1, 5)]
    parities = dict(zip((k for k in MS if "lissom" in k), steps, strict=True))
    files = q1.Files.model_construct(
        artifacts=artifacts, errors=dict.fromkeys(MS, 30.0), parities=parities, right=right
    )
    return q1.Found(files, files.entrants(Path()), {k: (ms,) * 5 for k, ms in MS.items()})


def test_the_fastest_of_ours_is_judged_in_everything():
    out = q1.outcome(dict.fromkeys(q1.NETWORKS, found(lissom_static=[0] + [1] * 9)), {})
    value = {name: figure.value for name, figure in out.value.items()}
    assert value["MiniLM speed-up over the best fp32"] == pytest.approx(5.0)
    assert value["MiniLM speed beside NNCF"] == pytest.approx(1.1)
    assert value["MiniLM size"] == 4.0
    assert value["MiniLM drop"] == value["MiniLM drop, openvino/lissom-static"] == 10.0
    assert value["MiniLM drop, openvino/lissom-dynamic"] == 0.0
    assert value["MiniLM steps from the simulation"] == pytest.approx(0.4)
    assert all(wish.figure in out.value for wish in out.goal.wishes)
    assert not met(out.goal, out.value)
    assert {one.what.split("of ")[1].split(" ")[0] for one in out.reference} == set(q1.PEERS)
    assert met(out.goal, q1.outcome(dict.fromkeys(q1.NETWORKS, found()), {}).value)


@pytest.mark.slow
def test_files_are_judged_on_the_test_split_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("transformers")
    pytest.importorskip("openvino")
    plain = Recipe([Quantize(calibration="minmax", corrections=())])
    monkeypatch.setattr(q1, "RECIPES", {"lissom-static": plain})
    monkeypatch.setattr(bert, "TARGETS", ("onnxruntime",))
    monkeypatch.setattr(peers, "nncf_static", lambda base, *_, **__: retarget(base, "openvino", name="nncf"))
    ids = torch.randint(1, 50, (12, 8), generator=torch.Generator().manual_seed(0))
    ids[::2, 5:] = 0
    sentences = minilm.Sentences(ids, torch.arange(12) % 2)
    torch.manual_seed(0)
    model = minilm.Sentiment(BertEncoder(0, TOY).bert, 32).eval()
    task = minilm.task(sentences, sentences)
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=1, say=lambda _: None)
    tried = [Batch((one,)) for one in ids[:4].split(1)]
    files = q1.made(context, "MiniLM", model, task, tried)
    monkeypatch.setattr(q1, "simulated", lambda *_: pytest.fail("made again"))
    assert q1.made(context, "MiniLM", model, task, tried) == files
    assert set(files.artifacts) == set(files.right) == {
        *("openvino/float", "onnxruntime/float", "onnxruntime/lissom-static"),
        *q1.PEERS,
    }  # fmt: skip
    assert files.parities["onnxruntime/lissom-static"].mean_steps < 1.0
    answered = torch.tensor([int(model(one[None]).argmax()) for one in ids])
    assert files.right["onnxruntime/float"] == (answered == sentences.labels).int().tolist()
