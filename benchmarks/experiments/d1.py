"""D1: ResNet-56 teaches a ResNet at least four times smaller on CIFAR-10; a control learns without it.

The schedule is short, for one processor core: both are far from what they would reach in 200 epochs, and the gain is
that of a short schedule. Both of a seed train in the precision that is faster where they are trained.
"""

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
from lissom.data import Images
from lissom.files import write_text
from lissom.graph.trace import evaluation
from lissom.measure.latency import paired_ratio
from lissom.measure.quality import evaluate
from lissom.measure.records import Interval
from lissom.metrics import accuracy
from lissom.task import Batch, Task
from lissom.training.finetune import Trained, finetune
from lissom.training.settings import Training

TITLE = "Distillation on CIFAR-10: ResNet-56 to ResNet-8, T = 4, with a control without a teacher"
NEEDS = ("data", "weights")
DEPTH, SEEDS = 8, (0, 1, 2)
BASE = Training(epochs=10, learning_rate=0.1, weight_decay=5e-4, channels_last=True)
VIEWS = 3
TIMED, ROUNDS = 5000, 7
"""Training images, and pairs of epochs timed in turns: what a teacher adds to an epoch once its answers are kept."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    "alone": {},
    "taught": {"teacher": "original", "temperature": 4.0, "views": VIEWS},
}
"""The control sees new crops in every epoch, the student those of three: no advantage of the student."""


def goal() -> Goal:
    return Goal(
        text=(
            f"ResNet-{DEPTH} after {BASE.epochs} epochs, last epoch on the test split, three seeds: better with the "
            "teacher than without, significant at 95 % (t interval of the differences); an epoch with kept answers "
            "takes at most 1.15 times one without a teacher, and a view of the training images at most 5 MB"
        ),
        wishes=(
            Wish(figure="lower end of the gain", at_least=0.0),
            Wish(figure="epoch with kept answers", at_most=1.15),
            Wish(figure="kept answers", at_most=5e6),
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
    cost = epoch_cost(context, teacher, task, base)
    before = percent(teacher, task)
    return Outcome(
        goal=goal(),
        value={
            "gain": Figure(
                value=round(statistics.mean(gain), 3), low=round(low, 3), high=round(high, 3), unit="points"
            ),
            "lower end of the gain": Figure(value=round(low, 3), unit="points"),
            "epoch with kept answers": Figure.of(
                cost, "x", f"of one without a teacher; {ROUNDS} pairs in turns, {TIMED} images"
            ),
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
                    "precision": each["precision"],
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
        "precision": made.history.pace.precision,
    }
    write_text(done, json.dumps(found))
    return found


def epoch_cost(context: Context, teacher: nn.Module, task: Task, base: Training) -> Interval:
    """Seconds of an epoch whose answers are kept over those of one without a teacher."""
    done = context.kept / "seconds.json"
    if not done.is_file():
        assert isinstance(task.train, lissom.data.Batches)
        train = task.train
        if isinstance(train.data, Images):
            train = replace(train, data=train.data.take(torch.arange(min(TIMED, len(train.data)))))
        few = replace(task, train=train, validation=None)
        found: dict[str, list[float]] = {name: [] for name in KINDS}
        for each in range(ROUNDS):
            context.say(f"epochs timed in turns, {each + 1} of {ROUNDS}")
            for name, more in KINDS.items():
                views = {"views": 1} if more else {}
                settings = Training.model_validate({**base.model_dump(), **more, **views, "epochs": 2})
                history = finetune(student(0), few, settings, original=teacher).history
                found[name].append(history.epochs[-1].seconds)
        write_text(done, json.dumps(found))
    seconds = json.loads(done.read_text(encoding="utf-8"))
    return paired_ratio(seconds["taught"], seconds["alone"])


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
