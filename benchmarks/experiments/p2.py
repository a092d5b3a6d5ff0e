"""P2: every criterion of `Prune` at three ratios and three seeds, ResNet-56 on CIFAR-10, with the random control.

Accuracy on the test split right after surgery and the default recovery (512 unlabelled images; labelled for the
criteria that use gradients). A seed draws the images and, for the control, the channels. Default settings otherwise.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import get_args

import torch
from torch import nn

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import Trace, evaluation, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.pruning.scores import Criterion

TITLE = "Importance criteria on ResNet-56, right after surgery and recovery"
NEEDS = ("data", "weights")
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
RATIOS = (1.5, 2.1, 3.0)
"""Times fewer MACs."""
SEEDS = (0, 1, 2)


def goal() -> Goal:
    return Goal(
        text=(
            "the default criterion is first, or within the spread of the first over seeds, at every ratio; every "
            "criterion beats random at every ratio"
        ),
        wishes=(
            *(Wish(figure=f"default behind the first, {r}x", at_most=0.0) for r in RATIOS),
            *(Wish(figure=f"worst criterion over random, {r}x", at_least=0.0) for r in RATIOS),
        ),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    default = lissom.Prune(macs_ratio=2).criterion_for(task)
    traced = trace(model, task.example)
    done: dict[str, float] = {}
    for ratio in RATIOS:
        for criterion in CRITERIA:
            found = remembered(
                context.kept / f"{ratio}x" / criterion,
                lambda _, r=ratio, c=criterion: [_accuracy(model, traced, task, c, r, seed) for seed in SEEDS],
            )
            context.say(f"{criterion} {ratio}: {', '.join(f'{one:.2f}' for one in found)} %")
            done.update({f"{criterion} {ratio} {seed}": one for seed, one in zip(SEEDS, found, strict=True)})
    value: dict[str, Figure] = {}
    for ratio in RATIOS:
        seen = {c: [done[f"{c} {ratio} {s}"] for s in SEEDS] for c in CRITERIA}
        means = {c: statistics.mean(v) for c, v in seen.items()}
        first = max(means, key=lambda c: means[c])
        # Behind the first by more than the two spreads together.
        spread = sum(statistics.stdev(seen[c]) for c in (first, default))
        value[f"default behind the first, {ratio}x"] = Figure(
            value=round(max(0.0, means[first] - means[default] - spread), 3), unit="points",
            note=f"first {first} {means[first]:.2f} %, {default} {means[default]:.2f} %, spreads {spread:.2f}",
        )  # fmt: skip
        others = {c: m for c, m in means.items() if c != "random"}
        worst = min(others, key=lambda c: others[c])
        value[f"worst criterion over random, {ratio}x"] = Figure(
            value=round(others[worst] - means["random"], 3), unit="points", note=worst
        )
    return Outcome(
        goal=goal(),
        value=value,
        reference=(),
        control=tuple(
            Beside(what=f"random at {r}x", value=round(statistics.mean(done[f"random {r} {s}"] for s in SEEDS), 2),
                   unit="%", source="the same run")
            for r in RATIOS
        ),
        seeds=SEEDS,
        runs=tuple(Run(name=key, figures={"accuracy %": round(found, 2)}) for key, found in done.items()),
    )  # fmt: skip


def _accuracy(model: nn.Module, traced: Trace, task: Task, criterion: Criterion, ratio: float, seed: int) -> float:
    drawn = [(batch.args[0], batch.target) for batch in _draw(task, seed)]
    own = replace(task, calibration=drawn)
    target = load_target("torch")
    one = lissom.Prune(macs_ratio=ratio, criterion=criterion, seed=seed, round_to=1)
    plan = one.plan(traced.graph, one.study(model, traced, own, target), target)
    smaller = one.apply(model, plan, traced, own)
    right = seen = 0
    with torch.no_grad(), evaluation(smaller):
        for batch in task.batches("test"):
            right += int((smaller(*batch.args).argmax(1) == batch.target).sum())
            seen += batch.size
    return 100 * right / seen


def _draw(task: Task, seed: int) -> list[Batch]:
    """512 images that no figure is taken from, others for each seed."""
    if seed == 0:
        return list(task.batches("calibration"))
    found: list[Batch] = []
    for index, batch in enumerate(task.batches("validation")):
        if index >= 8 * seed and sum(b.size for b in found) < 512:
            found.append(batch)
    return found
