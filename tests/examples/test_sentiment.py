"""The sentiment example, with an encoder of two small layers and made up sentences."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lissom.errors import ProjectError

pytest.importorskip("transformers", reason="the sentiment example needs transformers")

WORDS = ("good", "fine", "great", "bad", "poor", "awful", "film", "plot", "the", "a", "is", "was")


@pytest.fixture(scope="module")
def sentiment(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("sentiment")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lissom.sources.optional import ready_torchvision

    ready_torchvision()
    from transformers import BertConfig, BertModel, BertTokenizer

    path = tmp_path_factory.mktemp("encoder")
    (path / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(path)
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, chance = tmp_path_factory.mktemp("sentences"), random.Random(0)
    for name, count in (("train", 300), ("test", 60)):
        rows = []
        for k in range(count):
            word = chance.choice(WORDS[:3] if k % 2 else WORDS[3:6])
            rows.append(f"{chance.choice(WORDS[6:])} {chance.choice(WORDS[6:])} {word}\t{k % 2}\n")
        (path / f"{name}.tsv").write_text("".join(rows))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_sentences_are_learned(sentiment: ModuleType, encoder: Path, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    model, task = sentiment.build(folder, encoder, file, epochs="12", length="8", rate="0.003")
    again, _ = sentiment.build(folder, encoder, file, epochs=99, length=8)
    sizes = {name: sum(len(y) for _, y in getattr(task, name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 270, "validation": 30, "test": 60}
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) == y for x, y in task.test])
        assert torch.equal(model(task.example_inputs[0]), again(task.example_inputs[0]))
        ids = task.example_inputs[0]
        longer = torch.cat([ids, torch.zeros(1, 4, dtype=ids.dtype)], 1)
        assert torch.allclose(model(ids), model(longer), atol=1e-5), "padding changes nothing"
    assert right.double().mean().item() > 0.9


def test_what_is_missing_is_named(sentiment: ModuleType, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="data is not given"):
        sentiment.build()
    with pytest.raises(ProjectError, match="encoder is not given"):
        sentiment.build(folder)
    with pytest.raises(ProjectError, match=r"there is no train\.tsv"):
        sentiment.sentences(tmp_path, None, 8)
