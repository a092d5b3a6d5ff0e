"""H1: 2:4 sparsity. ResNet-20 on CIFAR-10 by every criterion, in the given order of channels and in a searched one; a
short training of what is chosen and, as controls, of the simplest way and of the dense network; the search for an order
beside the published greedy one. Speed on a GPU is no part of it yet."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lissom.data
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.experiments.d1 import percent
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.stripes import stripes
from lissom.functional.nm import Pattern, kept
from lissom.functional.permutation import best_order
from lissom.graph.trace import torch_threads, trace
from lissom.target import load_target
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training
from lissom.transforms.sparsity import Sparsify, ZeroWeights

TITLE = "2:4 sparsity: ResNet-20 on CIFAR-10, and the search for an order of channels"
NEEDS = ("data", "weights")
DEPTH, PATTERN, DROP_PT = 20, Pattern(2, 4), 0.3
EPOCHS = 5
CRITERIA = ("magnitude", "wanda", "sparsegpt")
CHOSEN, SIMPLEST = "sparsegpt, searched order", "magnitude, given order"
"""What is trained after its cut."""
TRAINING = Training(epochs=EPOCHS, learning_rate=0.01, teacher="original")
ROWS, COLUMNS, MATRICES = 128, 64, 4
PUBLISHED_SECONDS = 60.65
Found = dict[str, Any]


def goal() -> Goal:
    return Goal(
        text=(
            f"accuracy on the test split at most {DROP_PT} points below dense after {EPOCHS} epochs, last epoch; an "
            f"order for {ROWS} x {COLUMNS} weights at least 100 times faster than the {PUBLISHED_SECONDS:g} s that "
            "apex publishes for its search on a CPU, keeping at least what the published greedy search keeps"
        ),
        wishes=(
            Wish(figure="drop", at_most=DROP_PT),
            Wish(figure="published seconds / ours", at_least=100),
            Wish(figure="kept, ours / greedy", at_least=1),
        ),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, DEPTH)
    return compared(context, model, task, TRAINING)


def compared(context: Context, model: nn.Module, task: Task, training: Training, seed: int = 0) -> Outcome:
    """The experiment for any classifier."""
    if isinstance(task.train, lissom.data.Batches):
        task = replace(task, train=replace(task.train, seed=seed))
    before = percent(model, task)
    rows: list[Run] = []
    right: dict[str, Found] = {}
    for criterion in CRITERIA:
        for permute in (False, True):
            name = f"{criterion}, {'searched' if permute else 'given'} order"
            context.say(name)
            one = Sparsify(pattern=str(PATTERN), criterion=criterion, permute=permute)  # pyright: ignore[reportArgumentType]
            folder = context.kept / name.replace(", ", "-").replace(" ", "-")
            then = training if name in (CHOSEN, SIMPLEST) else None
            right[name] = remembered(
                folder, lambda place, one=one, then=then: judged(model, task, one, then, place, seed)
            )
            rows.append(Run(name=name, figures=dict(right[name])))
    context.say("dense, trained")
    dense = remembered(context.kept / "dense", lambda place: tuned(model, model, task, training, place, seed))
    context.say("orders")
    orders = searches()
    return Outcome(
        goal=goal(),
        value={
            **{
                name: Figure(value=round(before - right[CHOSEN][of], 3), unit="points", note=CHOSEN)
                for name, of in (("drop", "trained %"), ("drop, not trained", "accuracy %"))
            },
            **orders,
        },
        reference=(
            Beside(
                what="apex, optimize_stripe_groups,8,0 on a CPU, 128 x 64",
                value=PUBLISHED_SECONDS,
                unit="s",
                source="apex's README of its permutation search",
            ),
        ),
        control=(
            Beside(what="dense", value=before, unit="%", source="the same run"),
            Beside(what="dense, the same training", value=dense["trained %"], unit="%", source="the same run"),
            *(
                Beside(what=f"{SIMPLEST}, {name}", value=right[SIMPLEST][of], unit="%", source="the same run")
                for name, of in (("not trained", "accuracy %"), ("trained", "trained %"))
            ),
        ),
        seeds=(seed,),
        runs=tuple(rows),
    )


def judged(model: nn.Module, task: Task, one: Sparsify, training: Training | None, folder: Path, seed: int) -> Found:
    """Accuracy with the pattern, before and after training; what is left of the sum of the scores' weights."""
    target, traced = load_target("onnxruntime"), trace(model, task.example)
    started = time.perf_counter()
    plan = one.plan(traced.graph, one.study(model, traced, task, target), target)
    sparse = one.apply(model, plan, traced, task)
    seconds = time.perf_counter() - started
    names = [action.parameter for action in plan.of(ZeroWeights)]
    if not all(PATTERN.held_by(sparse.get_parameter(name)) for name in names):
        raise AssertionError(f"{one} left more than {PATTERN.n} of {PATTERN.m}")
    found: Found = {"accuracy %": percent(sparse, task), "layers": len(names), "seconds": round(seconds, 2)}
    return found if training is None else {**found, **tuned(sparse, model, task, training, folder, seed)}


def tuned(
    model: nn.Module, original: nn.Module, task: Task, training: Training, folder: Path, seed: int
) -> dict[str, Any]:
    made = finetune(model, task, training, folder=folder / "training", seed=seed, original=original)
    return {"trained %": percent(made.model, task)}


def searches() -> dict[str, Figure]:
    """Orders of random matrices: time on one core, and what is kept of what lies between the given order and the best
    of every row by itself."""
    seconds: dict[str, list[float]] = {"ours": [], "greedy": []}
    sums: dict[str, list[float]] = {"ours": [], "greedy": []}
    shares: dict[str, list[float]] = {"ours": [], "greedy": []}
    with torch_threads(1):
        for number in range(MATRICES):
            scores = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(number)).abs()
            given, best = kept(scores, PATTERN), float(scores.topk(COLUMNS // 2, dim=1).values.double().sum())
            for name, search in (("ours", _ours), ("greedy", _greedy)):
                started = time.process_time()
                order = search(scores)
                seconds[name].append(time.process_time() - started)
                sums[name].append(kept(scores[:, order], PATTERN))
                shares[name].append((sums[name][-1] - given) / (best - given))
    ours = float(np.median(seconds["ours"]))
    note = f"{ROWS} x {COLUMNS}, normal, {MATRICES} of them, time of the processor on one core"
    return {
        "seconds, ours": Figure(value=round(ours, 3), unit="s", note=note),
        "seconds, greedy in NumPy": Figure(value=round(float(np.median(seconds["greedy"])), 3), unit="s", note=note),
        "published seconds / ours": Figure(value=round(PUBLISHED_SECONDS / ours, 1), unit="x", note=note),
        "kept, ours / greedy": Figure(value=round(min(np.divide(sums["ours"], sums["greedy"])), 5), note="the least"),
        "gained, ours": Figure(value=round(100 * float(np.mean(shares["ours"])), 2), unit="%", note=note),
        "gained, greedy": Figure(value=round(100 * float(np.mean(shares["greedy"])), 2), unit="%", note=note),
    }


def _ours(scores: Tensor) -> Tensor:
    return best_order(scores, PATTERN).columns


def _greedy(scores: Tensor) -> Tensor:
    return torch.tensor(stripes(scores.double().numpy(), PATTERN))
