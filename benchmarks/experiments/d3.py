"""D3: LeNet-5 teaches half a LeNet-5 the digits of MNIST without an image: none is seen in training, none decides
when it ends. A second student is shown noise.

The teacher is trained on the real training images, the student on strokes at random, of which the teacher sees every
class about as often. The test split is read once for each network, after the last epoch. How images are made up was
chosen in short runs, by the accuracy on 5,000 or 10,000 of the teacher's training images; no run ends or is kept by it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lissom.data
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.files import write_text
from lissom.graph.trace import evaluation
from lissom.measure.quality import evaluate
from lissom.metrics import accuracy
from lissom.task import Batch, Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training

TITLE = "Distillation without data on MNIST: LeNet-5 to half LeNet-5, with noise as the control"
NEEDS = ("data",)
SEEDS = (0, 1, 2)
MEAN, STD = 0.1307, 0.3081
"""Of the pixels, as MNIST is usually normalized: part of the network's input format."""
PLAIN: Mapping[str, Any] = {"precision": "float32", "channels_last": True}
LEARNED = Training(epochs=8, optimizer="adamw", learning_rate=2e-3, weight_decay=0.01, crop=2, **PLAIN)
TAUGHT = Training(
    epochs=96, optimizer="adamw", learning_rate=4e-3, teacher="original", temperature=4.0, synthesis="noise",
    **PLAIN,
)  # fmt: skip
KINDS: Mapping[str, Mapping[str, Any]] = {
    "made up": {
        "method": "drawings", "batch_size": 64, "steps": 420, "memory": 25_600, "replays": 6, "warp": 0.2,
        "low": (0 - MEAN) / STD, "high": (1 - MEAN) / STD,
    },
    "noise": {"method": "noise", "batch_size": 64, "steps": 420},
}  # fmt: skip


class LeNet(nn.Module):
    """LeNet-5 as DAFL (Chen et al. 2019) has it, 61,706 parameters; half of its channels, 15,738.

    `(b, 1, 28, 28)` to `(b, 10)`; the padding stands for images of 32 x 32.
    """

    def __init__(self, *, half: bool = False) -> None:
        super().__init__()
        first, second, third, hidden = (3, 8, 60, 42) if half else (6, 16, 120, 84)
        self.conv1 = nn.Conv2d(1, first, 5, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.conv3 = nn.Conv2d(second, third, 5)
        self.fc1 = nn.Linear(third, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x)).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def goal() -> Goal:
    return Goal(
        text=(
            "half LeNet-5 after the last epoch, on the test split, no real image in training or stopping: 98.7 % in "
            "the mean of three seeds"
        ),
        wishes=(Wish(figure="accuracy", at_least=98.7),),
    )


def run(context: Context) -> Outcome:
    folder = context.folder("data", "mnist")
    train, test = (lissom.data.parquet(folder, split) for split in ("train", "test"))
    real = Task(
        example_inputs=(torch.zeros(1, 1, 28, 28),),
        train=lissom.data.Batches(train, mean=MEAN, std=STD, shuffle=True),
        test=lissom.data.Batches(test, mean=MEAN, std=STD, batch_size=500),
        loss=F.cross_entropy,
    )
    context.say("teacher")
    return compared(context, teacher(context.kept, real), real, seeds=SEEDS, base=TAUGHT, kinds=KINDS)


def teacher(kept: Path, real: Task) -> nn.Module:
    """Trained on real images; goes on where it was killed."""
    made, path = network(0, half=False), kept / "teacher.safetensors"
    if path.is_file():
        made.load_state_dict(load_file(path))
        return made
    trained = finetune(made, real, LEARNED, folder=kept / "teacher").model
    save_file(trained.state_dict(), path)
    return trained


def compared(
    context: Context,
    large: nn.Module,
    real: Task,
    *,
    seeds: Sequence[int],
    base: Training,
    kinds: Mapping[str, Mapping[str, Any]],
) -> Outcome:
    """Both students for every seed. They get a task without data; `real` is what everything is judged by."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for seed in seeds:
        for name, synthesis in kinds.items():
            context.say(f"{name}, seed {seed}")
            settings = Training.model_validate({**base.model_dump(), "synthesis": synthesis})
            found[name].append(one(context.kept / f"{name.replace(' ', '-')}-{seed}", seed, settings, large, real))
    reached = {name: [each["accuracy %"] for each in many] for name, many in found.items()}
    return Outcome(
        goal=goal(),
        value={
            "accuracy": Figure(value=round(statistics.mean(reached["made up"]), 3), unit="%", note="mean of the seeds"),
            "worst seed": Figure(value=min(reached["made up"]), unit="%"),
        },
        reference=(
            Beside(what="DAFL, best test epoch", value=98.20, unit="%", source="Chen et al. 2019, arXiv:1904.01186"),
            Beside(what="noise, DAFL's control", value=88.01, unit="%", source="Chen et al. 2019, arXiv:1904.01186"),
        ),
        control=(
            Beside(what="noise, mean", value=round(statistics.mean(reached["noise"]), 3), unit="%", source="same run"),
            Beside(what="the teacher", value=percent(large, real), unit="%", source="same run"),
        ),
        seeds=tuple(seeds),
        runs=tuple(
            Run(name=f"{name}, seed {seed}", figures=dict(each))
            for name, many in found.items()
            for seed, each in zip(seeds, many, strict=True)
        ),
    )


def one(folder: Path, seed: int, settings: Training, large: nn.Module, real: Task) -> dict[str, float]:
    """One student, which goes on where it was killed; what came of it is kept."""
    done = folder / "found.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    nothing = Task(example_inputs=real.example_inputs)
    made, history = finetune(network(seed, half=True), nothing, settings, folder=folder, seed=seed, original=large)
    assert history.synthesis is not None
    signs = history.synthesis.signs
    assert signs.balance is not None
    found = {
        "accuracy %": percent(made, real),
        "seconds": round(sum(epoch.seconds for epoch in history.epochs), 1),
        "balance": round(signs.balance, 3),
        "spread": round(signs.spread, 3),
    }
    write_text(done, json.dumps(found))
    return found


def network(seed: int, *, half: bool) -> LeNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LeNet(half=half)


def percent(model: nn.Module, task: Task) -> float:
    def predict(batch: Batch) -> Any:
        with torch.no_grad():
            return model(*batch.args)

    with evaluation(model):
        return round(100 * evaluate(predict, task.batches("test"), accuracy, split="test").value, 3)
