"""Part of L1: chains fitted to the outputs against plain chains at the same ranks, ResNet-20, before any training.

The network is folded. For Tensor-Train, tensor ring and Kronecker products, each of `RATIOS` gives ranks to every 3x3
convolution between the first and the last layer; plain cores and cores fitted to what the layers make of 512 unlabelled
training images are then made for the same plan, without recovery. Accuracy is on the first `IMAGES` of the validation
split, which nothing here has looked at; intervals are of the paired difference, by bootstrap over images. The published
weights have been trained on these images: the figures say what is kept, not how good the network is.
"""

from __future__ import annotations

from benchmarks.context import Context
from benchmarks.equalranks import compared, figure
from benchmarks.experiments.l1ranks import ENDS, folded
from benchmarks.results import Goal, Outcome, Wish
from lissom.transforms.lowrank.parts import Method

TITLE = "Chains fitted to outputs and plain chains of ResNet-20 at equal ranks, no training"
NEEDS = ("data", "weights")
METHODS: tuple[Method, ...] = ("tt", "ring", "kronecker")
RATIOS = (0.3, 0.5)
IMAGES = 1000


def goal() -> Goal:
    return Goal(
        text="chains fitted to outputs keep more accuracy than plain ones, three formats, two ranks, before training",
        wishes=tuple(Wish(figure=figure(method, ratio), at_least=0.0) for method in METHODS for ratio in RATIOS),
    )


def run(context: Context) -> Outcome:
    model, task = folded(context, 20)
    found = compared(
        context,
        model,
        task,
        methods=METHODS,
        ratios=RATIOS,
        exclude=ENDS,
        judged=lambda: task.batches("validation", limit=IMAGES),
    )
    return found.outcome(goal())
