"""L3: user and item tables of a trained recommender five times smaller, MovieLens 100K.

The recommender of `examples/movielens.py`: matrix factorization with biases, 64 numbers for each of 943 users and 1682
items, trained on 80 % of the ratings, three seeds (of weights and order; the split is one). `Factorize` makes the whole
model five times smaller by each of `WAYS`; `, trained` adds `Finetune` of five epochs. The way is chosen by the mean
RMSE on 10 % for validation, the other 10 % are reported once. The penalty of the training and the learning rate of
`Finetune` were chosen on the validation ratings of seed 0 before.

Controls: the original trained on by the same `Finetune`, and a recommender of the same size from scratch (12 numbers
for each, 34,125 parameters), 25 epochs in place of 20 + 5, whose penalty is chosen on validation as well. Bytes and
latency are of the exported files: all items for one user.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lissom
from benchmarks.cifar import PROJECT, project
from benchmarks.context import Context
from benchmarks.protocol import exported, faster, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.pipeline.transforming import transform
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Work

TITLE = "Tables of a recommender five times smaller, MovieLens 100K"
NEEDS = ("data",)
SEEDS = (0, 1, 2)
SMALLER = 5
WAYS: Mapping[str, Mapping[str, Any]] = {
    "svd, plain": {"data_aware": False, "recovery": "none"},
    "svd, aware": {"samples": 20_000},
    "tt": {"method": "tt"},
    "ring": {"method": "ring"},
    "kronecker": {"method": "kronecker"},
}
FINETUNE = lissom.Finetune(epochs=5, learning_rate=0.01)
WIDTH = 12
PENALTIES = (0.06, 0.08, 0.1, 0.12)


def goal() -> Goal:
    return Goal(
        text="RMSE at most 0.01 above the original's, at least 80 % of the tables' memory saved",
        wishes=(Wish(figure="RMSE rise", at_most=0.01), Wish(figure="memory saved", at_least=80.0)),
    )


def run(context: Context) -> Outcome:
    movielens = project(PROJECT.with_name("movielens.py"))
    folder = context.folder("data", "ml-100k")
    found: dict[str, list[tuple[float, float]]] = {}
    kept: dict[str, dict[int, nn.Module]] = {}
    originals: list[tuple[nn.Module, Task]] = []
    for seed in SEEDS:
        model, task = movielens.build(folder, seed=seed)
        originals.append((model, task))
        made: dict[str, nn.Module] = {"original": model, "original, trained": _carried_out(model, task, None, seed)[1]}
        for name, way in WAYS.items():
            made[name], made[f"{name}, trained"] = _carried_out(model, task, way, seed)
        ratings = movielens.read(folder)
        count = len(ratings[0])
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: count - 2 * (count // 10)]
        for penalty in PENALTIES:
            made[f"from scratch, penalty {penalty}"] = movielens.train(ratings, rows, WIDTH, 25, seed, penalty)
        for name, one in made.items():
            found.setdefault(name, []).append((_rmse(one, task, "validation"), _rmse(one, task, "test")))
            kept.setdefault(name, {})[seed] = one
            context.say(f"seed {seed}, {name}: {found[name][-1][0]:.4f} on validation")
    chosen = min((n for n in found if n.split(", trained")[0] in WAYS), key=lambda n: _mean(found[n], 0))
    scratch = min((n for n in found if n.startswith("from scratch")), key=lambda n: _mean(found[n], 0))
    untrained = min(WAYS, key=lambda n: _mean(found[n], 0))
    rises = [b[1] - a[1] for a, b in zip(found["original"], found[chosen], strict=True)]
    saved = [100 * (1 - _tables(kept[chosen][s]) / _tables(kept["original"][s])) for s in SEEDS]
    whole = [_parameters(kept["original"][s]) / _parameters(kept[chosen][s]) for s in SEEDS]
    value = {
        "RMSE rise": _figure(rises, note=f"{chosen}; {_mean(found['original'], 1):.4f} before"),
        "RMSE rise without training": _figure(
            [b[1] - a[1] for a, b in zip(found["original"], found[untrained], strict=True)], note=untrained
        ),
        "memory saved": Figure(value=round(min(saved), 2), unit="%", note="of both tables, least of three seeds"),
        "whole model smaller": Figure(value=round(min(whole), 3), unit="x", note="parameters, least of three seeds"),
        **_served(context, kept["original"][0], kept[chosen][0], originals[0][1], movielens.read(folder)[1]),
    }
    return Outcome(
        goal=goal(),
        value=value,
        reference=(
            Beside(
                what="RMSE rise at 78 % less memory", value=0.03, source="claim for Tucker that the goal starts from"
            ),
        ),
        control=(
            _beside("RMSE of the original", found["original"]),
            _beside("RMSE of the original, five more epochs", found["original, trained"]),
            _beside(f"RMSE of {WIDTH} numbers {scratch}", found[scratch]),
            _beside(f"RMSE of ours ({chosen})", found[chosen]),
        ),
        seeds=SEEDS,
        runs=tuple(
            Run(
                name=f"{name}, seed {seed}",
                figures={
                    "validation RMSE": round(found[name][index][0], 5),
                    "test RMSE": round(found[name][index][1], 5),
                    "parameters": _parameters(kept[name][seed]),
                },
            )
            for name in found
            for index, seed in enumerate(SEEDS)
        ),
    )


def _carried_out(model: nn.Module, task: Task, way: Mapping[str, Any] | None, seed: int) -> tuple[nn.Module, nn.Module]:
    """The model as `Factorize` leaves it, and trained on."""
    first = [] if way is None else [lissom.Factorize(parameters_ratio=SMALLER, **way)]
    steps = transform(model, task, lissom.Recipe([*first, FINETUNE]), load_target("torch"), work=Work(seed=seed))
    return (steps[0].model if first else model), steps[-1].model


def _rmse(model: nn.Module, task: Task, split: str) -> float:
    total = count = 0.0
    with torch.no_grad():
        for user, item, rating in getattr(task, split):
            total += float((model(user, item) - rating).square().sum())
            count += len(rating)
    return (total / count) ** 0.5


def _mean(pairs: list[tuple[float, float]], which: int) -> float:
    return float(np.mean([pair[which] for pair in pairs]))


def _figure(values: list[float], note: str = "") -> Figure:
    every = ", ".join(f"{value:+.4f}" for value in values)
    return Figure(value=round(float(np.mean(values)), 5), note=f"{note}; by seed {every}")


def _beside(what: str, pairs: list[tuple[float, float]]) -> Beside:
    return Beside(what=what, value=round(_mean(pairs, 1), 5), source="the same run, mean of three seeds on test")


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _tables(model: nn.Module) -> int:
    return sum(_parameters(model.get_submodule(name)) for name in ("user", "item"))


def _served(
    context: Context, before: nn.Module, after: nn.Module, task: Task, items: torch.Tensor
) -> dict[str, Figure]:
    """Files of seed 0, and the time for all items of one user."""
    every = torch.arange(int(items.max()) + 1)
    pair = Batch((torch.full_like(every, 7), every))
    both = [
        exported(model, task, "onnxruntime", Path(context.scratch), name=name)
        for name, model in (("original", before), ("factorized", after))
    ]
    samples = race(both, pair, len(every), rounds=context.rounds, threads=context.threads)
    sizes = [one.artifact.size_bytes for one in both]
    return {
        "file smaller": Figure(
            value=round(sizes[0] / sizes[1], 3), unit="x", note=f"{sizes[0]:,} to {sizes[1]:,} bytes"
        ),
        "all items of a user, faster": faster(samples, key(both[0]), key(both[1]), "ONNX Runtime, a record"),
    }
