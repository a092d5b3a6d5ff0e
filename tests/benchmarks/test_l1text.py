"""L1TEXT at toy size: a two-layer encoder of eight words, saved as a checkpoint, and forty sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.answers import difference, percent
from benchmarks.context import Context
from benchmarks.experiments import l1text

from benchmarks import minilm
from lissom.graph.trace import trace
from lissom.task import Batch

WORDS = ("good", "bad", "film", "a", "very", "the", "not", "plot")


def checkpoint(folder: Path) -> None:
    pytest.importorskip("transformers")
    minilm._ready()
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=minilm.LENGTH,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def sentences(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("test", 20)):
        lines = []
        for index in range(count):
            label = index % 2
            words = [WORDS[2 + (index + k) % 6] for k in range(2 + 2 * index % 40)]
            lines.append(" ".join([*words, WORDS[1 - label]]) + f"\t{label}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def test_it_trains_once_and_compares_at_equal_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(l1text, "RATIOS", (0.3,))
    monkeypatch.setattr(minilm, "BATCH", 8)
    checkpoint(tmp_path / "weights" / "minilm")
    sentences(tmp_path / "data" / "sst2")
    said: list[str] = []
    context = Context(
        scratch=tmp_path,
        kept=tmp_path / "kept" / "L1TEXT",
        threads=1,
        rounds=1,
        data=tmp_path / "data",
        weights=tmp_path / "weights",
        say=said.append,
    )
    found = l1text.run(context)
    assert found.value["aware over plain, svd 0.3"].low is not None
    kinds = [f"svd 0.3, {kind}, recovery none" for kind in ("plain", "aware")]
    assert [run.name for run in found.runs] == ["original", *kinds]
    splits = {run.figures["layers split"] for run in found.runs[1:]}
    assert splits == {12}
    once = (tmp_path / "kept" / "MINILM" / "original.safetensors").stat().st_mtime_ns
    again = l1text.run(context)
    assert (tmp_path / "kept" / "MINILM" / "original.safetensors").stat().st_mtime_ns == once
    assert again.value == found.value


def test_padding_changes_nothing(tmp_path: Path):
    checkpoint(tmp_path / "minilm")
    model = minilm.Sentiment(minilm.encoder(tmp_path / "minilm"), 16).eval()
    ids = torch.tensor([[2, 5, 7, 3], [2, 6, 8, 3]])
    padded = torch.nn.functional.pad(ids, (0, 5))
    torch.testing.assert_close(model(padded), model(ids), rtol=1e-4, atol=1e-5)
    assert trace(model, Batch((padded,))).graph.layers


def test_batches_hold_every_sentence_once_and_little_padding():
    ids = torch.tensor([[2, 5, 3, 0, 0], [2, 5, 6, 7, 3], [2, 3, 0, 0, 0], [2, 6, 3, 0, 0]])
    read = minilm.Sentences(ids, torch.tensor([0, 1, 2, 3]))
    batches = read.batches(2)
    assert [tuple(x.shape) for x, _ in batches] == [(2, 3), (2, 5)]
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == [0, 1, 2, 3]


def test_answers_are_compared_example_by_example():
    one, other = [1, 1, 1, 0] * 25, [1, 0, 1, 0] * 25
    assert (percent(one), percent(other)) == (75.0, 50.0)
    found = difference(one, other)
    assert found.value == 25.0
    assert found.low is not None
    assert found.high is not None
    assert 10.0 < found.low < 25.0 < found.high < 40.0
    assert difference(one, one).high == 0.0
