"""L2: Tensor-Train of rank 8 in three-dimensional convolutions, on clips made from MNIST.

A clip is a digit of 8 x 8 pixels that moves one pixel a frame over 4 frames of 12 x 12, with noise; the class is the
digit and which of four ways it goes, 40 in all, so that neither a frame nor the motion alone is enough. Digits of the
training clips, of the validation clips and of the test clips are different ones. The network has three 3x3x3
convolutions with normalizations and a linear layer; `Factorize(method="tt", rank=8)` makes five convolutions in a row
of the second and of the third, the first (one input channel) and the linear layer stay. `Finetune` with the original as
teacher follows; its settings were chosen on validation clips of seed 0.

Control: the original trained on by the same `Finetune`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
import lissom.data
from benchmarks.context import Context
from benchmarks.protocol import exported, faster, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import evaluation, trace
from lissom.pipeline.transforming import transform
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Work

TITLE = "Tensor-Train of rank 8 in three-dimensional convolutions, moving digits"
NEEDS = ("data",)
SEEDS = (0, 1, 2)
RANK = 8
ENDS = ("conv1", "head")
CLIPS = {"train": 6000, "validation": 1000, "test": 2000}
FRAMES, SIDE, DIGIT = 4, 12, 8
WAYS = ((0, 1), (0, -1), (1, 0), (-1, 0))
EPOCHS = 8
FINETUNE = lissom.Finetune(epochs=8, learning_rate=0.01, teacher="original", precision="float32", channels_last=False)


class ClipNet(nn.Module):
    """`(b, 1, 4, 12, 12)` clips to `(b, 40)` logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(1, 16, 3, padding=1, bias=False), nn.BatchNorm3d(16)
        self.conv2, self.norm2 = nn.Conv3d(16, 32, 3, padding=1, bias=False), nn.BatchNorm3d(32)
        self.conv3, self.norm3 = nn.Conv3d(32, 48, 3, padding=1, bias=False), nn.BatchNorm3d(48)
        self.head = nn.Linear(48 * 2 * 9, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm1(self.conv1(x))), (1, 2, 2))
        x = F.max_pool3d(F.relu(self.norm2(self.conv2(x))), (1, 2, 2))
        x = F.max_pool3d(F.relu(self.norm3(self.conv3(x))), (2, 1, 1))
        return self.head(x.flatten(1))


def goal() -> Goal:
    return Goal(
        text="Tensor-Train of rank 8 keeps at least 97 % of the accuracy",
        wishes=(Wish(figure="accuracy kept", at_least=97.0),),
    )


def run(context: Context) -> Outcome:
    folder = context.folder("data", "mnist")
    pixels = lissom.data.parquet(folder, "train", limit=CLIPS["train"] + CLIPS["validation"])
    train, validation = lissom.data.split(pixels, CLIPS["validation"] / len(pixels), seed=0)
    test = lissom.data.parquet(folder, "test", limit=CLIPS["test"])
    sets = [clips(images, seed) for seed, images in enumerate((train, validation, test))]
    found: dict[str, list[dict[str, float]]] = {}
    kept: list[tuple[nn.Module, nn.Module, Task]] = []
    for seed in SEEDS:
        task = task_of(sets, seed)
        model = trained(task, seed)
        tt = lissom.Factorize(method="tt", rank=RANK, exclude=ENDS)
        steps = transform(model, task, lissom.Recipe([tt, FINETUNE]), load_target("torch"), work=Work(seed=seed))
        made = {
            "original": model,
            "original, trained": _trained_on(model, task, seed),
            "tt, untrained": steps[0].model,
            "tt": steps[-1].model,
        }
        kept.append((model, steps[-1].model, task))
        for name, one in made.items():
            graph = trace(one, task.example).graph
            figures = {split: _accuracy(one, task, split) for split in ("validation", "test")}
            figures |= {"parameters": graph.parameters, "MACs": graph.macs, "parameters of convolutions": _cut(one)}
            found.setdefault(name, []).append(figures)
            context.say(f"seed {seed}, {name}: {figures}")
    shares = [100 * b["test"] / a["test"] for a, b in zip(found["original"], found["tt"], strict=True)]
    before, after = found["original"][0], found["tt"][0]
    value = {
        "accuracy kept": Figure(
            value=round(float(np.mean(shares)), 2),
            unit="%",
            note=f"{_mean(found['original']):.2f} to {_mean(found['tt']):.2f} %; by seed "
            + ", ".join(f"{share:.2f}" for share in shares),
        ),
        "parameters of convolutions": _times(before, after, "parameters of convolutions"),
        "parameters": _times(before, after, "parameters"),
        "MACs": _times(before, after, "MACs"),
        **_latency(context, *kept[0]),
    }
    return Outcome(
        goal=goal(),
        value=value,
        reference=(
            Beside(what="accuracy kept", value=92.0, unit="%", source="claim for video that the goal starts from"),
        ),
        control=tuple(
            Beside(
                what=f"accuracy, {name}", value=round(_mean(own), 2), unit="%", source="same run, mean of seeds, test"
            )
            for name, own in found.items()
        ),
        seeds=SEEDS,
        runs=tuple(
            Run(name=f"{name}, seed {seed}", figures={k: round(v, 3) for k, v in figures.items()})
            for name, own in found.items()
            for seed, figures in zip(SEEDS, own, strict=True)
        ),
    )


def clips(images: lissom.data.Images, seed: int) -> tuple[Tensor, Tensor]:
    """`(n, 1, 4, 12, 12)` and classes: digit + 10 x way."""
    draws = torch.Generator().manual_seed(seed)
    digits = F.adaptive_avg_pool2d(images.pixels.float() / 255, DIGIT)[:, 0]
    ways = torch.randint(4, (len(digits),), generator=draws)
    made = 0.1 * torch.randn(len(digits), FRAMES, SIDE, SIDE, generator=draws)
    free = SIDE - DIGIT - (FRAMES - 1)
    for index, (digit, way) in enumerate(zip(digits, ways.tolist(), strict=True)):
        start = []
        for step in WAYS[way]:
            room = free if step else SIDE - DIGIT
            start.append(int(torch.randint(room + 1, (1,), generator=draws)) + (FRAMES - 1 if step < 0 else 0))
        for frame in range(FRAMES):
            y, x = (s + frame * step for s, step in zip(start, WAYS[way], strict=True))
            made[index, frame, y : y + DIGIT, x : x + DIGIT] += digit
    return made[:, None], images.labels + 10 * ways


def task_of(sets: list[tuple[Tensor, Tensor]], seed: int) -> Task:
    (x, y), validation, test = sets
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train = list(zip(x[order].split(64), y[order].split(64), strict=True))
    held = [list(zip(a.split(250), b.split(250), strict=True)) for a, b in (validation, test)]
    return Task(
        example_inputs=(x[:1],),
        train=train,
        validation=held[0],
        test=held[1],
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
        name="clips",
    )


def trained(task: Task, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = ClipNet()
    batches = list(task.train or ())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=EPOCHS * len(batches))
    draws = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(batches), generator=draws).tolist():
            x, y = batches[index]
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _trained_on(model: nn.Module, task: Task, seed: int) -> nn.Module:
    return transform(model, task, lissom.Recipe([FINETUNE]), load_target("torch"), work=Work(seed=seed))[-1].model


def _accuracy(model: nn.Module, task: Task, split: str) -> float:
    with torch.no_grad(), evaluation(model):
        right = [model(x).argmax(1) == y for x, y in getattr(task, split)]
    return 100 * float(torch.cat(right).double().mean())


def _cut(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith("conv"))


def _mean(own: list[dict[str, float]]) -> float:
    return float(np.mean([figures["test"] for figures in own]))


def _times(before: dict[str, float], after: dict[str, float], what: str) -> Figure:
    return Figure(
        value=round(before[what] / after[what], 2), unit="x", note=f"{before[what]:,.0f} to {after[what]:,.0f}"
    )


def _latency(context: Context, before: nn.Module, after: nn.Module, task: Task) -> dict[str, Figure]:
    value: dict[str, Figure] = {}
    for target in ("onnxruntime", "openvino"):
        both = [
            exported(model, task, target, Path(context.scratch), name=name)
            for name, model in (("original", before), ("tt", after))
        ]
        samples = race(both, task.example, 1, rounds=context.rounds, threads=context.threads)
        value[f"faster, {target}"] = faster(samples, key(both[0]), key(both[1]), "one clip, a record")
    return value
