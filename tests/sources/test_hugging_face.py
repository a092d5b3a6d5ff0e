"""Classifiers as transformers saves them: images and texts, from tiny random models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lissom
from lissom.errors import ProjectError, UsageError
from lissom.sources.optional import needed

Image = pytest.importorskip("PIL.Image")
WORDS = ("good", "bad", "film", "plot", "the", "a", "is", "was")


@pytest.fixture(scope="module")
def library() -> Any:
    try:
        return needed("transformers", "this test")
    except UsageError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def texts(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts")
    (path / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)))
    torch.manual_seed(0)
    config = library.BertConfig(
        vocab_size=13, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, id2label={0: "Negative", 1: "Positive"},
    )  # fmt: skip
    library.BertForSequenceClassification(config).save_pretrained(path)
    library.BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pictures(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    config = library.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=32, id2label={0: "eel", 1: "cat"}
    )
    library.ConvNextForImageClassification(config).save_pretrained(path)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    library.ConvNextImageProcessorPil(size={"shortest_edge": 32}, image_mean=mean, image_std=std).save_pretrained(path)
    return path


def without(folder: Path, place: Path, *names: str, **changes: object) -> Path:
    """A copy that lacks files, its configuration changed."""
    shutil.copytree(folder, place)
    for name in names:
        (place / name).unlink()
    file = place / "config.json"
    if file.exists():
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return place


def test_texts_by_the_models_own_tokenizer(library: Any, texts: Path, tmp_path: Path) -> None:
    rows = [("the film is good", "positive"), ("bad plot", "negative")]
    (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f"{text},{label}\n" for text, label in rows * 6))
    (tmp_path / "test.csv").write_text("sentence,label\na film,negative\n" + "was " * 20 + ",positive\n")
    model, task = lissom.source(f"hf:{texts}", data=tmp_path, text="sentence", batch=4)
    assert task.classes == ("Negative", "Positive")
    assert task.notes == (
        "Classes of the data are the model's by name: 0 Negative, 1 Positive.",
        "Texts are padded to 12 tokens, the longest found; 1 of 14 are longer and cut.",
    )
    own = library.BertTokenizer.from_pretrained(texts)(
        ["a film", "was " * 20], padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    (batch,) = task.batches("test")
    assert batch.target.tolist() == [0, 1]
    assert set(batch.kwargs) == set(own)
    for name, value in own.items():
        torch.testing.assert_close(batch.kwargs[name], value)
    assert sum(one.size for one in task.batches("train")) == 11  # of 12, one is for validation
    expected = library.BertForSequenceClassification.from_pretrained(texts).eval()
    torch.testing.assert_close(model(**batch.kwargs).logits, expected(**own).logits)


def test_texts_in_one_file_are_compressed(texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text("".join(f"{text}\t{label}\n" for text, label in [("the film is good", 1), ("bad plot", 0)] * 20))
    model, task = lissom.source(f"hf:{texts}", data=file, length=6)
    assert "numbers, taken as those of the model: 0 Negative, 1 Positive" in task.notes[0]
    assert "padded to 6 tokens, as asked" in task.notes[1]
    recipe = lissom.Recipe([lissom.Quantize(mode="dynamic")])
    result = lissom.compress(model, task, target="onnxruntime", recipe=recipe, out=tmp_path / "run", threads=1)
    assert result.record.notes[: len(task.notes)] == task.notes
    assert result.ratios.size > 1


def test_texts_without_data(texts: Path) -> None:
    model, task = lissom.source(f"hf:{texts}", length=5)
    assert {name: tuple(value.shape) for name, value in task.example_kwargs.items()} == {
        "input_ids": (1, 5), "attention_mask": (1, 5)
    }  # fmt: skip
    assert lissom.source(f"hf:{texts}")[1].example_kwargs["input_ids"].shape == (1, 12)
    with pytest.raises(UsageError, match=r"size=.* means nothing"):
        lissom.source(f"hf:{texts}", size=8)
    with pytest.raises(UsageError, match=r"length=13 is more than 12"):
        lissom.source(f"hf:{texts}", data="x", length=13)
    assert model.training is False


def test_images_as_the_models_own_processor_prepares_them(library: Any, pictures: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for name in ("cat", "eel"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(chance.integers(0, 256, (50, 70, 3), np.uint8)).save(tmp_path / "test" / name / "a.png")
    model, task = lissom.source(f"hf:{pictures}", data=tmp_path)
    assert task.example_inputs[0].shape == (1, 3, 32, 32)
    assert "cat is 1, eel is 0" in task.notes[0]
    (batch,) = task.batches("test")
    assert batch.target.tolist() == [1, 0]
    processor = library.ConvNextImageProcessorPil.from_pretrained(pictures)
    own = [processor(images=Image.open(tmp_path / "test" / name / "a.png")) for name in ("cat", "eel")]
    expected = torch.as_tensor(np.stack([one["pixel_values"][0] for one in own]))
    torch.testing.assert_close(batch.args[0], expected, atol=1e-5, rtol=1e-5)
    assert lissom.metrics.logits_of(model(batch.args[0])).shape == (2, 2)


def test_images_without_a_processor(pictures: Path, tmp_path: Path) -> None:
    folder = without(pictures, tmp_path / "plain", "preprocessor_config.json")
    _, task = lissom.source(f"hf:{folder}")
    assert task.example_inputs[0].shape == (1, 3, 32, 32)
    assert "not normalized" in task.notes[0]


def test_what_cannot_be_opened(texts: Path, tmp_path: Path) -> None:
    def wrong(name: str, *missing: str, **changes: object) -> str:
        return f"hf:{without(texts, tmp_path / name, *missing, **changes)}"

    with pytest.raises(ProjectError, match=r"no folder .*absent"):
        lissom.source("hf:./absent")
    with pytest.raises(ProjectError, match=r"has no config\.json"):
        lissom.source(wrong("a", "config.json"))
    with pytest.raises(ProjectError, match=r"is BertForMaskedLM; read are classifiers"):
        lissom.source(wrong("b", architectures=["BertForMaskedLM"]))
    with pytest.raises(ProjectError, match=r"The model of hf:.* cannot be loaded"):
        lissom.source(wrong("c", "model.safetensors"))
    with pytest.raises(ProjectError, match=r"lack 16 that BertForSequenceClassification has"):
        lissom.source(wrong("d", num_hidden_layers=2))
    with pytest.raises(UsageError, match=r"multi_label_classification; data is read for one class"):
        lissom.source(wrong("e", problem_type="multi_label_classification"), data="x")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(ProjectError, match=r"is of timm\. Give timm:"):
        lissom.source(f"hf:{tmp_path / 'f'}")


def test_a_name_that_cannot_be_fetched(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*given: object, **more: object) -> None:
        assert more["trust_remote_code"] is False
        raise OSError("We couldn't connect to the hub.\nMore.")

    monkeypatch.setattr(library.AutoConfig, "from_pretrained", offline)
    with pytest.raises(ProjectError, match=r"couldn't connect to the hub.*Fetch its files into a folder"):
        lissom.source("hf:owner/name")
