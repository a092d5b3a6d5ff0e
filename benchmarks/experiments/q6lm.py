"""Q6, its part with a language model: stored weights of four bits, a transformer that writes letter by letter.

A decoder of four blocks (causal attention, learned positions) learns here, from a seed, to foretell the next letter of
the reviews of SST-2; the labels are not used. `Quantize(mode="weights", weight_bits=4)` rounds its linear layers after
training, with 256 pieces of training text to calibrate on; the files for ONNX Runtime and OpenVINO answer for the test
reviews. Figures are the share of next letters foretold rightly, in points, and the entropy in bits a letter. Controls:
the float files, and rounding to the nearest in the same groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from benchmarks.context import Context, remembered
from benchmarks.dense import trained_once
from benchmarks.protocol import Contender, compressed, exported, faster, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import torch_threads
from lissom.measure.artifacts import predictor, structure_of
from lissom.recipe import Recipe
from lissom.task import Task
from lissom.training.settings import Training

TITLE = "Stored weights of 4 bits: a language model of letters, trained on the reviews of SST-2 (part of Q6)"
NEEDS = ("data",)
TARGETS = ("onnxruntime", "openvino")
DROP_PT = 0.5
LENGTH, BATCH, PIECES = 128, 32, 256
LETTERS = "\n abcdefghijklmnopqrstuvwxyz0123456789'`.,;:!?&$%()/*+-"
"""What is none of these is read as a blank."""
TRAINING = Training(
    epochs=12, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, clip_norm=1.0, channels_last=False
)
WAYS: dict[str, lissom.Quantize] = {
    "4 bits": lissom.Quantize(mode="weights", weight_bits=4),
    "4 bits, nearest": lissom.Quantize(mode="weights", weight_bits=4, corrections=()),
    "4 bits, gptq": lissom.Quantize(mode="weights", weight_bits=4, corrections=("gptq",)),
    "4 bits, tables too": lissom.Quantize(mode="weights", precision={"*": 4}),
    "8 bits": lissom.Quantize(mode="weights", weight_bits=8),
    "2 bits": lissom.Quantize(mode="weights", weight_bits=2),
    "2 bits, nearest": lissom.Quantize(mode="weights", weight_bits=2, corrections=()),
}
"""The first is what the goal is about: as `weight_bits=4` does it by itself, which leaves tables 8 bits."""
DEFAULT = next(iter(WAYS))


class Block(nn.Module):
    """`(b, t, width)` to the same: causal attention and a feed-forward part, each added to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        parts = self.qkv(self.before(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.dropout(self.out(seen.transpose(1, 2).reshape(batch, time, width)), 0.1, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.between(x)))), 0.1, self.training)


class Writer(nn.Module):
    """`(b, t)` letters to `(b, letters, t)` logits of the next ones."""

    def __init__(self, width: int = 192, depth: int = 4, heads: int = 6, length: int = LENGTH) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(LETTERS))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.letters(ids) + self.places
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


def goal() -> Goal:
    return Goal(
        text=(
            f"on each runtime at most {DROP_PT} points fewer next letters foretold rightly in the test reviews with "
            "stored weights of 4 bits, rounded after training"
        ),
        wishes=tuple(Wish(figure=f"{target} drop", at_most=DROP_PT) for target in TARGETS),
    )


def run(context: Context) -> Outcome:
    folder = context.folder("data", "sst2")
    task = task_of(*(ids(folder / f"{split}.tsv") for split in ("train", "dev", "test")))
    with torch_threads(1):
        model = trained(context, task, TRAINING)
    return compared(context, model, task)


def ids(file: Path) -> Tensor:
    """`(letters,)`: the reviews of a file one after the other, each ending in a new line."""
    code = {letter: number for number, letter in enumerate(LETTERS)}
    reviews = (line.rsplit("\t", 1)[0].lower() for line in file.read_text(encoding="utf-8").splitlines())
    return torch.tensor([code.get(letter, code[" "]) for review in reviews for letter in f"{review}\n"])


def task_of(train: Tensor, validation: Tensor, test: Tensor, length: int = LENGTH, batch: int = BATCH) -> Task:
    """Pieces of `length` letters; the target of each letter is the next one."""

    def batches(text: Tensor, **more: Any) -> lissom.data.Batches:
        count = (len(text) - 1) // length
        rows = [text[start : start + count * length].view(count, length) for start in (0, 1)]
        return lissom.data.Batches((rows[0], rows[1]), batch_size=batch, **more)

    return Task(
        example_inputs=(train[None, :length],),
        train=batches(train, shuffle=True),
        calibration=list(batches(train[: PIECES * length + 1])),
        validation=batches(validation),
        test=batches(test),
        loss=F.cross_entropy,
        metric=foretold,
        name="letters",
    )


def foretold(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the next letters that are the likeliest one, by piece."""
    return (outputs.argmax(1) == targets).double().mean(1)


def trained(context: Context, task: Task, training: Training, **shape: int) -> nn.Module:
    """Trained once; a killed training goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Writer(**shape)
    return trained_once(context, model, task, training)


def compared(context: Context, model: nn.Module, task: Task) -> Outcome:
    entrants: list[Contender] = []
    for target in TARGETS:
        entrants.append(exported(model, task, target, context.scratch, name="float"))
        for name, quantize in WAYS.items():
            context.say(f"{target}, {name}")
            entrants.append(compressed(model, task, Recipe([quantize]), target, context.scratch, name=name))
    found = {}
    for one in entrants:
        context.say(f"answers of {key(one)}")
        place = context.kept / key(one).replace("/", "-").replace(", ", "-").replace(" ", "-")
        found[key(one)] = remembered(place, lambda _, one=one: judged(one, model, task, context.threads))
    context.say("latency")
    raced = [one for one in entrants if one.name in ("float", DEFAULT)]
    times = race(raced, task.example, 1, rounds=context.rounds, threads=context.threads)
    return outcome(entrants, found, times)


def judged(one: Contender, model: nn.Module, task: Task, threads: int) -> dict[str, float]:
    """What the file gives for the test split, and its size."""
    predict = predictor(one.load(threads), one.artifact, structure_of(model, task.example))
    right, nats, seen = 0.0, 0.0, 0
    for batch in task.batches("test"):
        outputs, target = torch.as_tensor(predict(batch)), batch.target
        right += float((outputs.argmax(1) == target).sum())
        nats += float(F.cross_entropy(outputs.double(), target, reduction="sum"))
        seen += target.numel()
    return {
        "right %": 100 * right / seen,
        "bits a letter": nats / seen / math.log(2),
        "bytes": one.artifact.size_bytes,
        "letters": seen,
    }


def outcome(entrants: Sequence[Contender], found: dict[str, dict[str, float]], times: dict[str, Any]) -> Outcome:
    value: dict[str, Figure] = {}
    for target in TARGETS:
        whole = found[f"{target}/float"]
        for name in WAYS:
            small, of = found[f"{target}/{name}"], "" if name == DEFAULT else f", {name}"
            drop, more = whole["right %"] - small["right %"], small["bits a letter"] - whole["bits a letter"]
            value[f"{target} drop{of}"] = Figure(value=round(drop, 3), unit="points")
            value[f"{target} entropy rise{of}"] = Figure(value=round(more, 4), unit="bits a letter")
            value[f"{target} size{of}"] = Figure(value=round(whole["bytes"] / small["bytes"], 3), unit="x")
        value[f"{target} speed-up"] = faster(times, f"{target}/float", f"{target}/{DEFAULT}", f"{LENGTH} letters")
    return Outcome(
        goal=goal(),
        value=value,
        reference=(),
        control=tuple(
            Beside(
                what=f"float on {target}, {what}",
                value=round(found[f"{target}/float"][what], 3),
                unit="",
                source="the same run",
            )
            for target in TARGETS
            for what in ("right %", "bits a letter")
        ),
        seeds=(0,),
        runs=tuple(
            Run(
                name=key(one),
                figures={name: round(figure, 4) for name, figure in found[key(one)].items()},
                samples_ms=times.get(key(one), ()),
            )
            for one in entrants
        ),
    )
