"""Sentences for a server: MiniLM fine-tuned on SST-2, int8 with fixed ranges against ranges at run time.

    lissom compress examples/sentiment.py --set data=FOLDER --set encoder=FOLDER --set weights=sentiment.safetensors \
        --recipe dynamic.yaml --target onnxruntime --out runs/dynamic
    lissom compress ... --recipe static.yaml --out runs/static
    lissom report runs/dynamic runs/static --out sentiment.html

`data` holds train.tsv and test.tsv, `text<TAB>label` a row; dev.tsv, or a tenth of train, chooses. `encoder` is a
folder as transformers saves it (config.json, model.safetensors, tokenizer files), such as MiniLM (arXiv:2002.10957).
`weights` is a file: where it is missing, the network is fine-tuned for an epoch and the file is written. The recipes:

    - Quantize: {mode: dynamic}
    - Quantize: {mode: static}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lissom
import lissom.data
from lissom.errors import ProjectError
from lissom.training.finetune import finetune
from lissom.training.settings import Training

SPLITS = ("train", "validation", "test")


class Sentiment(nn.Module):
    """`(b, n)` token ids, 0 for padding, to `(b, classes)`: the mean over the tokens, then one linear layer."""

    def __init__(self, encoder: nn.Module, width: int, classes: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != 0
        made = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        real = mask.unsqueeze(-1).to(made.dtype)
        return self.head((made * real).sum(1) / real.sum(1))


def sentences(data: Path, read: Any, length: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Token ids `(n, length)` and classes `(n,)` of each split.

    Raises:
        ProjectError: a file is missing.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, file in zip(SPLITS, ("train.tsv", "dev.tsv", "test.tsv"), strict=True):
        if name == "validation" and not (data / file).is_file():
            continue
        if not (data / file).is_file():
            raise ProjectError(f"{data}: there is no {file}, text<TAB>label a row. Pass --set data=FOLDER.")
        rows = [row.rsplit("\t", 1) for row in (data / file).read_text(encoding="utf-8").splitlines() if row]
        made = read([text for text, _ in rows], padding="max_length", max_length=length, truncation=True)
        found[name] = torch.tensor(made["input_ids"]), torch.tensor([int(label) for _, label in rows])
    if "validation" not in found:
        ids, labels = found["train"]
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
        chosen, rest = order.split([len(ids) // 10, len(ids) - len(ids) // 10])
        found["validation"], found["train"] = (ids[chosen], labels[chosen]), (ids[rest], labels[rest])
    return found


def build(
    data: str | Path | None = None,
    encoder: str | Path | None = None,
    weights: str | Path | None = None,
    epochs: int | str = 1,
    length: int | str = 32,
    rate: float | str = 1e-4,
) -> tuple[nn.Module, lissom.Task]:
    """The fine-tuned network and its task.

    Raises:
        ProjectError: `data` or `encoder` is not given.
    """
    if data is None:
        raise ProjectError("data is not given: the folder of train.tsv and test.tsv. Pass --set data=FOLDER.")
    if encoder is None:
        raise ProjectError("encoder is not given: a folder with config.json and weights. Pass --set encoder=FOLDER.")
    from transformers import AutoModel, AutoTokenizer  # pip install transformers

    read = AutoTokenizer.from_pretrained(str(encoder), local_files_only=True)
    sets = sentences(Path(data), read, int(length))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = AutoModel.from_pretrained(str(encoder), local_files_only=True)
        body.pooler = None
        model = Sentiment(body, body.config.hidden_size)
    batches = {name: lissom.data.Batches(sets[name], batch_size=32, shuffle=name == "train") for name in SPLITS}
    task = lissom.Task(
        example_inputs=(sets["test"][0][:1],),
        calibration=lissom.data.Batches(tuple(part[:512] for part in sets["train"]), batch_size=32),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
        name="sentiment",
        **batches,
    )
    if weights is not None and Path(weights).is_file():
        model.load_state_dict(load_file(weights))
        return model.eval(), task
    settings = Training(
        epochs=int(epochs), learning_rate=float(rate), optimizer="adamw", weight_decay=0.01, clip_norm=1.0, warmup=0.1
    )
    model = finetune(model, task, settings, seed=0).model.eval()
    if weights is not None:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return model, task
