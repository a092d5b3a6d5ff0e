"""Part of L1: data-aware against plain factors at the same ranks, ResNet-56 on CIFAR-10, before any training.

The network is folded. For `svd` and `tucker`, each of `RATIOS` gives ranks to every 3x3 convolution between the first
and the last layer (`tucker`'s from the plain singular values); plain and data-aware factors are then made for the same
plan, without and with the default recovery, from 512 unlabelled images of the training set. Accuracy is on the first
`IMAGES` of the validation split, which nothing here has looked at; intervals are of the paired difference, by bootstrap
over images. The published weights have been trained on these images: the figures say what is kept, not how good the
network is. The arithmetic of VGG-16 stands beside them.
"""

from __future__ import annotations

import torch
from torch import nn

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.equalranks import compared, figure
from benchmarks.results import Figure, Goal, Outcome, Wish
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.lowrank import Factorize
from lissom.transforms.lowrank.parts import Method

TITLE = "Data-aware and plain factors of ResNet-56 at equal ranks, no training"
NEEDS = ("data", "weights")
METHODS: tuple[Method, ...] = ("svd", "tucker")
RATIOS = (0.3, 0.5, 0.65)
"""Share of the multiplications of every split layer that is saved."""
IMAGES = 2000
ENDS = ("conv1", "linear")
VGG_LEFT = 21_211_944


def goal() -> Goal:
    return Goal(
        text=(
            "data-aware factors keep more accuracy than plain ones, svd and tucker, three ranks, before training; "
            "rank 64 in fc6 and fc7 of VGG-16 leaves 21,211,944 parameters"
        ),
        wishes=(
            *(Wish(figure=figure(m, r), at_least=0.0) for m in METHODS for r in RATIOS),
            Wish(figure="VGG-16 parameters", at_least=VGG_LEFT, at_most=VGG_LEFT),
        ),
    )


def run(context: Context) -> Outcome:
    model, task = folded(context, 56)
    found = compared(
        context,
        model,
        task,
        methods=METHODS,
        ratios=RATIOS,
        exclude=ENDS,
        judged=lambda: task.batches("validation", limit=IMAGES),
        recoveries=("none", "reconstruct"),
    )
    return found.outcome(goal(), _vgg())


def folded(context: Context, depth: int) -> tuple[nn.Module, Task]:
    """The CIFAR-10 ResNet with its normalizations in its convolutions."""
    original, task = trained(context, depth)
    fold, traced = lissom.Fold(), trace(original, task.example)
    return fold.apply(original, fold.plan(traced.graph, None, load_target("torch")), traced, task), task


def _vgg() -> dict[str, Figure]:
    with torch.device("meta"):
        model, x = vgg16(), torch.empty(1, 3, 224, 224)
    traced: Trace = trace(model, Batch((x,)))
    one, target = Factorize(rank=64, exclude=("0.*", "2.6")), load_target("torch")
    task = Task(example_inputs=(torch.zeros(1),))
    plan = one.plan(traced.graph, one.study(model, traced, task, target), target)
    saved = 1 - plan.predicted.macs / traced.graph.macs
    return {
        "VGG-16 parameters": Figure(value=plan.predicted.parameters, note=f"of {traced.graph.parameters:,}"),
        "VGG-16 MACs saved": Figure(value=round(100 * saved, 2), unit="%", note="a size, not a speed"),
    }


def vgg16() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration D."""
    layers: list[nn.Module] = []
    before = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        before = width or before
    fc6, fc7, fc8 = nn.Linear(512 * 49, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)
    head = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), fc8)
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), head).eval()
