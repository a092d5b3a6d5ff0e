"""D1: ResNet-56 teaches a ResNet at least four times smaller on CIFAR-10; a control learns without it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy import stats
from torch import nn

import lissom.data
from benchmarks.cifar import project, trained
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.files import write_text
from lissom.graph.trace import evaluation
from lissom.measure.quality import evaluate
from lissom.metrics import accuracy
from lissom.task import Batch, Task
from lissom.training.finetune import Trained, finetune
from lissom.training.settings import Training

TITLE = "Distillation on CIFAR-10: ResNet-56 to ResNet-14, T = 4, with a control without a teacher"
NEEDS = ("data", "weights")
DEPTH, SEEDS = 14, (0, 1, 2)
BASE = Training(epochs=30, learning_rate=0.1, weight_decay=5e-4)
VIEWS = 10
KINDS: Mapping[str, Mapping[str, Any]] = {
    "alone": {},
    "taught": {"teacher": "original", "temperature": 4.0, "views": VIEWS},
}
"""The control sees new crops in every epoch, the student those of ten: no advantage of the student."""


def goal() -> Goal:
    return Goal(
        text=(
            f"ResNet-{DEPTH} after {BASE.epochs} epochs, last epoch on the test split, three seeds: better with the "
            "teacher than without, significant at 95 % (t interval of the differences); an epoch with kept answers "
            "takes at most 1.15 times one without a teacher"
        ),
        wishes=(
            Wish(figure="lower end of the gain", at_least=0.0),
            Wish(figure="epoch with kept answers", at_most=1.15),
        ),
    )


def run(context: Context) -> Outcome:
    teacher, task = trained(context, 56)
    return compared(context, teacher, task, seeds=SEEDS, base=BASE)


def compared(context: Context, teacher: nn.Module, task: Task, *, seeds: Sequence[int], base: Training) -> Outcome:
    """The experiment for any task of the same images."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    for seed in seeds:
        for name, more in KINDS.items():
            context.say(f"{name}, seed {seed}")
            settings = Training.model_validate({**base.model_dump(), **more})
            found[name].append(one(context, name, seed, settings, teacher, task))
    gain = [b["accuracy %"] - a["accuracy %"] for a, b in zip(found["alone"], found["taught"], strict=True)]
    low, high = interval(gain)
    again = statistics.median(s for each in found["taught"] for s in each["seconds"][VIEWS:])
    ratio = again / statistics.median(s for each in found["alone"] for s in each["seconds"][VIEWS:])
    before = percent(teacher, task)
    return Outcome(
        goal=goal(),
        value={
            "gain": Figure(
                value=round(statistics.mean(gain), 3), low=round(low, 3), high=round(high, 3), unit="points"
            ),
            "lower end of the gain": Figure(value=round(low, 3), unit="points"),
            "epoch with kept answers": Figure(value=round(ratio, 3), unit="x", note="of one without a teacher"),
            "parameters": Figure(value=round(count(teacher) / count(student(0)), 2), unit="x"),
            "kept answers": Figure(value=found["taught"][0]["kept bytes"] / VIEWS, unit="bytes a view"),
        },
        reference=(),
        control=(
            Beside(what="the teacher", value=before, unit="%", source="the same run"),
            Beside(
                what="without a teacher, mean",
                value=round(statistics.mean(one["accuracy %"] for one in found["alone"]), 3),
                unit="%",
                source="the same run",
            ),
        ),
        seeds=tuple(seeds),
        runs=tuple(
            Run(
                name=f"{name}, seed {seed}",
                figures={
                    "accuracy %": each["accuracy %"],
                    "seconds": round(sum(each["seconds"]), 1),
                    "kept bytes": each["kept bytes"],
                },
            )
            for name, many in found.items()
            for seed, each in zip(seeds, many, strict=True)
        ),
    )


def one(context: Context, name: str, seed: int, settings: Training, teacher: nn.Module, task: Task) -> dict[str, Any]:
    """One training, which goes on where it was killed; what came of it is kept."""
    folder = context.kept / f"{name}-{seed}"
    done = folder / "found.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    assert isinstance(task.train, lissom.data.Batches)
    shuffled = replace(task, train=replace(task.train, seed=seed), validation=None)
    made: Trained = finetune(student(seed), shuffled, settings, folder=folder, seed=seed, original=teacher)
    lesson = made.history.lesson
    found = {
        "accuracy %": percent(made.model, task),
        "seconds": [epoch.seconds for epoch in made.history.epochs],
        "kept bytes": lesson.kept_bytes if lesson else 0,
        "replaced": lesson.replaced if lesson else 0,
    }
    write_text(done, json.dumps(found))
    return found


def student(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return project().ResNet(DEPTH)


def percent(model: nn.Module, task: Task) -> float:
    def predict(batch: Batch) -> Any:
        return model(*batch.args)

    with evaluation(model):
        return round(100 * evaluate(predict, task.batches("test"), accuracy, split="test").value, 3)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Of the mean, 95 %, by Student's t."""
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * spread / math.sqrt(len(differences))
    return mean - reach, mean + reach


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
