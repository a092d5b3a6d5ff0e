"""L1: a VGG-16 for CIFAR-10 with 85 % fewer parameters, and data-aware against plain SVD before any training.

The network has the thirteen convolutions and three linear layers of configuration D (Simonyan and Zisserman 2015), an
eighth to a quarter as wide, with batch normalization. It is trained here from a seed for `DENSE.epochs`: some ten
minutes of one core, and some points below what two hundred epochs give; everything goes on where it was killed. Every
factorization leaves 15 % of the parameters, first and last layer included in the count and left whole. `svd` alone is
compared plain and data-aware at the same ranks, without recovery; the product's own choice (`auto`, data-aware, fitted
again) is then fine-tuned with the dense network as its teacher.
Control: the dense network trained for as many epochs more. Last epoch, on the test split.

Size is not speed, so the same is done once more for speed: `macs_ratio=FASTER`, layers that are not measured faster
left whole. Both networks are then timed beside the dense one on two runtimes, interleaved, at the accuracy they have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.experiments.d1 import percent
from benchmarks.protocol import exported, faster, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.files import load_tensors, save_tensors, write_text
from lissom.graph.trace import trace
from lissom.pipeline.timing import Stopwatch
from lissom.target import load_target
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training
from lissom.transforms.base import Plan, Work
from lissom.transforms.lowrank import Factorize

WIDTHS = (8, 8, 0, 24, 24, 0, 64, 64, 64, 0, 128, 128, 128, 0, 128, 128, 128, 0)
"""Channels of the convolutions; 0 is a pooling."""
HIDDEN = 512
LEFT = 0.15
DROP_PT = 0.5
FASTER = 2.5
"""MACs before / after of the network that is factorized for speed."""
DENSE = Training(epochs=8, learning_rate=0.1, weight_decay=5e-4, precision="float32")
AFTER = Training(epochs=3, weight_decay=5e-4, clip_norm=1.0, precision="float32")
TAUGHT: dict[str, Any] = {"teacher": "original", "temperature": 4.0}
ENDS = ("features.0", "classifier.6")
TITLE = f"85 % of the parameters of a VGG-16 for CIFAR-10 factorized away, {AFTER.epochs} epochs"
NEEDS = ("data", "weights")


class Vgg16(nn.Module):
    """`(b, 3, 32, 32)` to `(b, 10)`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Linear(before, HIDDEN), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(0.2)),
            nn.Linear(HIDDEN, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def goal() -> Goal:
    return Goal(
        text=(
            f"{1 - LEFT:.0%} of the parameters of a VGG-16 for CIFAR-10 gone, accuracy on the test split falls by at "
            f"most {DROP_PT} points after {AFTER.epochs} epochs; data-aware SVD better than plain SVD before them"
        ),
        wishes=(
            Wish(figure="parameters gone", at_least=100 * (1 - LEFT)),
            Wish(figure="drop", at_most=DROP_PT),
            Wish(figure="aware over plain SVD, no training", at_least=0.0),
        ),
    )


def run(context: Context) -> Outcome:
    _, task = trained(context, 20)
    task = replace(task, validation=None, name="vgg16-cifar10")
    context.kept.mkdir(parents=True, exist_ok=True)

    def kept(name: str, like: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
        """The model of that name; made if it is not there yet."""
        context.say(name)
        file = context.kept / f"{name}.safetensors"
        if not file.is_file():
            save_tensors(file, make().state_dict())
        like.load_state_dict(load_tensors(file))
        return like.eval()

    def train(name: str, model: nn.Module, settings: Training, original: nn.Module | None = None) -> nn.Module:
        folder = context.kept / name
        return kept(
            name, model, lambda: finetune(model, task, settings, folder=folder, seed=0, original=original).model
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = Vgg16()
    dense = train("dense", fresh, DENSE)
    found = {"dense": percent(dense, task)}
    split = {name: factorized(dense, task, one) for name, one in settings().items()}
    found |= {name: percent(model, task) for name, (model, _) in split.items()}
    ours, plan = split["auto, aware, recovered"]
    taught = Training.model_validate({**AFTER.model_dump(), **TAUGHT})
    ours = train("factorized-trained", ours, taught, original=dense)
    control = train("dense-trained", copied(dense), AFTER)
    quick, quick_plan = for_speed(context, dense, task)
    quick = train("faster-trained", quick, taught, original=dense)
    found |= {
        "factorized and trained": percent(ours, task),
        "factorized for speed and trained": percent(quick, task),
        "dense, trained on": percent(control, task),
    }
    write_text(context.kept / "found.json", json.dumps(found))
    traced = trace(dense, task.example).graph
    timed = {"dense": dense, "for size": ours, "for speed": quick}
    latencies, records = raced(context, timed, task)
    drop = found["dense"] - found["factorized for speed and trained"]
    return Outcome(
        goal=goal(),
        value={
            "parameters gone": Figure(
                value=round(100 * (1 - plan.predicted.parameters / traced.parameters), 2),
                unit="%",
                note=f"{plan.predicted.parameters:,} of {traced.parameters:,} left",
            ),
            "MACs": Figure(value=round(traced.macs / plan.predicted.macs, 3), unit="x", note="beside the size"),
            "drop": Figure(value=round(found["dense"] - found["factorized and trained"], 2), unit="points"),
            "drop from the dense network trained on": Figure(
                value=round(found["dense, trained on"] - found["factorized and trained"], 2), unit="points"
            ),
            "aware over plain SVD, no training": Figure(
                value=round(found["svd, aware"] - found["svd, plain"], 2), unit="points"
            ),
            "for speed: MACs": Figure(
                value=round(traced.macs / trace(quick, task.example).graph.macs, 3),
                unit="x",
                note=f"{len(quick_plan.actions)} layers split, {len(quick_plan.skipped)} whole",
            ),
            "for speed: drop": Figure(value=round(drop, 2), unit="points"),
            **latencies,
        },
        reference=(),
        control=(
            Beside(what="the dense network", value=found["dense"], unit="%", source="the same run"),
            Beside(what="trained on", value=found["dense, trained on"], unit="%", source="the same run"),
        ),
        seeds=(0,),
        runs=(*(Run(name=name, figures={"accuracy %": value}) for name, value in found.items()), *records),
    )


def for_speed(context: Context, model: nn.Module, task: Task) -> tuple[nn.Module, Plan]:
    """Split where that is measured faster on ONNX Runtime; what was measured is kept."""
    target, traced = load_target("onnxruntime"), trace(model, task.example)
    one, kept = Factorize(macs_ratio=FASTER, exclude=ENDS), context.kept / "faster.json"
    if not kept.is_file():
        watch = Stopwatch(model, task, target, context.threads, 1, context.scratch / "timed")
        study = one.study(model, traced, task, target, Work(race=watch.race))
        write_text(kept, one.plan(traced.graph, study, target).model_dump_json())
    plan = one.read_plan(json.loads(kept.read_text(encoding="utf-8")))
    return one.apply(model, plan, traced, task), plan


def raced(context: Context, models: Mapping[str, nn.Module], task: Task) -> tuple[dict[str, Figure], tuple[Run, ...]]:
    """How many times faster than the dense one, one image at a time, on two runtimes; and the samples."""
    value: dict[str, Figure] = {}
    runs: list[Run] = []
    for target in ("onnxruntime", "openvino"):
        made = {name: exported(one, task, target, context.scratch, name=name) for name, one in models.items()}
        samples = race(list(made.values()), task.example, 1, rounds=context.rounds, threads=context.threads)
        runs += [Run(name=f"{name}, {target}", samples_ms=samples[key(one)]) for name, one in made.items()]
        for name in ("for size", "for speed"):
            value[f"{name}: faster, {target}"] = faster(samples, key(made["dense"]), key(made[name]), "one image")
    return value, tuple(runs)


def settings() -> dict[str, Factorize]:
    budget = Factorize(parameters_ratio=1 / LEFT, exclude=ENDS)
    plain = budget.model_copy(update={"method": "svd", "data_aware": False, "recovery": "none"})
    return {
        "svd, plain": plain,
        "svd, aware": plain.model_copy(update={"data_aware": True}),
        "auto, aware, recovered": budget,
    }


def factorized(model: nn.Module, task: Task, one: Factorize) -> tuple[nn.Module, Any]:
    """`svd` has the ranks of the plain singular values whether the factors see data or not."""
    target, traced = load_target("onnxruntime"), trace(model, task.example)
    ranks = one if one.method == "auto" else one.model_copy(update={"data_aware": False})
    plan = ranks.plan(traced.graph, ranks.study(model, traced, task, target), target)
    return one.apply(model, plan, traced, task), plan


def copied(model: nn.Module) -> nn.Module:
    copy = Vgg16()
    copy.load_state_dict(model.state_dict())
    return copy
