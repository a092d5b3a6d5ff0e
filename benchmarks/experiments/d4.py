"""D4: what a teacher costs in an epoch once its answers are kept, and what the answers take on disk.

ResNet-20 teaches ResNet-8. Epochs with and without a teacher are taken in turns, and their cost is the processor time
of this process, which neighbours on the machine do not stretch as they stretch the clock. Only an epoch whose answers
are all kept is counted; the first, in which the teacher answers, stands beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import lissom.data
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.experiments.d1 import student
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.data import Images
from lissom.files import write_text
from lissom.graph.trace import torch_threads
from lissom.measure.latency import paired_ratio
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training

TITLE = "Kept answers of a teacher: cost of an epoch and bytes on disk, ResNet-20 to ResNet-8 on CIFAR-10"
NEEDS = ("data", "weights")
IMAGES, ROUNDS, WHOLE = 1280, 5, 50_000
"""Images of an epoch; epochs of each kind, in turns; images of a view of the whole training set."""
PLAIN: Mapping[str, Any] = {"precision": "float32", "channels_last": False, "crop": 4, "flip": True}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "alone": {},
    "kept answers": {"teacher": "original", "temperature": 4.0, "views": 1},
}


def goal() -> Goal:
    return Goal(
        text=(
            "an epoch with kept answers takes at most 1.15 times one without a teacher, in processor time of one "
            "thread, and a view of CIFAR-10's training images at most 5 MB on disk"
        ),
        wishes=(Wish(figure="epoch with kept answers", at_most=1.15), Wish(figure="kept answers", at_most=5e6)),
    )


def run(context: Context) -> Outcome:
    teacher, task = trained(context, 20)
    return compared(context, teacher, task, rounds=ROUNDS)


def compared(context: Context, teacher: nn.Module, task: Task, *, rounds: int) -> Outcome:
    """The experiment for any task of the same images."""
    assert isinstance(task.train, lissom.data.Batches)
    train = task.train
    if isinstance(train.data, Images):
        train = replace(train, data=train.data.take(torch.arange(min(IMAGES, len(train.data)))))
    few = replace(task, train=train, validation=None)
    done = context.kept / "epochs.json"
    context.kept.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else []
    for each in range(len(found), rounds):
        context.say(f"epochs in turns, {each + 1} of {rounds}")
        with torch_threads(1):
            found.append({name: _epochs(more, teacher, few) for name, more in KINDS.items()})
        write_text(done, json.dumps(found))
    later = {name: [one[name]["second"] for one in found] for name in KINDS}
    first = [one["kept answers"]["first"] for one in found]
    kept = found[0]["kept answers"]["bytes"] / train.examples * WHOLE
    return Outcome(
        goal=goal(),
        value={
            "epoch with kept answers": Figure.of(
                paired_ratio(later["kept answers"], later["alone"]),
                "x",
                f"of one without a teacher; {rounds} pairs in turns, {train.examples} images, processor time",
            ),
            "kept answers": Figure(
                value=round(kept), unit="bytes a view", note=f"of {WHOLE:,} images, from those of {train.examples}"
            ),
        },
        reference=(),
        control=(
            Beside(
                what="epoch in which the teacher answers",
                value=round(paired_ratio(first, later["alone"]).median, 3),
                unit="x",
                source="the same run",
            ),
        ),
        seeds=(0,),
        runs=tuple(
            Run(
                name=f"{name}, round {number}",
                figures={
                    "first epoch, s": round(one[name]["first"], 3),
                    "second epoch, s": round(one[name]["second"], 3),
                },
            )
            for number, one in enumerate(found, start=1)
            for name in KINDS
        ),
    )


def _epochs(more: Mapping[str, Any], teacher: nn.Module, task: Task) -> dict[str, Any]:
    """Processor seconds of two epochs; the second reads the answers of the first."""
    settings = Training.model_validate({"epochs": 2, "learning_rate": 0.1, **PLAIN, **more})
    marks: list[tuple[float, float]] = [(0.0, time.process_time())]

    def tick(share: float) -> None:
        marks.append((share, time.process_time()))

    history = finetune(student(0), task, settings, original=teacher, tick=tick).history
    # The first step of a training pays for what is set up once: both epochs begin after one.
    one, half = marks[1][1], max(at for share, at in marks if share <= 0.5)
    steps = sum(0 < share <= 0.5 for share, _ in marks)
    whole = max(at for _, at in marks)
    lesson = history.lesson
    return {
        "first": (half - one) * steps / max(1, steps - 1),
        "second": whole - half,
        "bytes": lesson.kept_bytes if lesson else 0,
    }
