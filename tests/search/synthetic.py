"""A search without a model: what each recipe would measure, in closed form, with an interaction that no single
dimension shows; and processes that can be killed while they search."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from lissom.errors import ExportError
from lissom.goal import Goal
from lissom.recipe import Recipe
from lissom.search import Found, Limits, Measurement, Search, Space, opened, searchers_of, workers_of

SPACE = Space(
    precision=("float32", "float16", "int8"),
    depth=(0.0, 0.25),
    prune=(1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0),
    rank=(1.0, 1.2, 1.5, 2.0),
    epochs=(0, 1, 4),
)
ORIGINAL = Measurement(
    metric=0.93, examples=1000, latency_ms=10.0, latency_ratio=1.0, latency_low=1.0, latency_high=1.0,
    size_bytes=4_000_000, macs=1_000_000, parameters=1_000_000,
)  # fmt: skip


def evaluate(recipe: Recipe) -> Measurement:
    prune, rank, depth, epochs, precision = 1.0, 1.0, 0.0, 0, "float32"
    for step in recipe.to_data():
        ((name, settings),) = step.items()
        match name:
            case "Prune":
                prune *= settings["macs_ratio"]
            case "Factorize":
                rank *= settings["macs_ratio"]
            case "PruneDepth":
                depth = settings["ratio"]
            case "Finetune":
                epochs += settings["epochs"]
            case "Quantize":
                precision = "float16" if settings.get("precision") == 16 else "int8"
    if rank == 2.0 and depth > 0.0:
        raise ExportError("layers that are gone cannot be split")
    share = 1.0 / (prune * rank) * (1.0 - depth)
    lost = 0.12 * (1 - 1 / prune) ** 2 + 0.1 * (1 - 1 / rank) ** 2 + 0.15 * depth**2
    lost += 0.1 * (1 - 1 / prune) * (1 - 1 / rank) + (0.004 if precision == "int8" else 0.0)
    lost *= {0: 1.0, 1: 0.5}.get(epochs, 0.25)
    speed = {"float32": 1.0, "float16": 1.0, "int8": 2.0}[precision]
    latency = 10.0 * (0.1 + 0.9 * share**0.8 / speed)
    size = 4_000_000 * share**0.9 / {"float32": 1.0, "float16": 2.0, "int8": 3.8}[precision]
    return Measurement(
        metric=0.93 - lost,
        examples=1000,
        latency_ms=latency,
        latency_ratio=10.0 / latency,
        latency_low=9.9 / latency,
        latency_high=10.1 / latency,
        size_bytes=round(size),
        macs=round(1_000_000 * share),
        parameters=round(1_000_000 * share),
        epoch_seconds=0.001 if epochs else None,
    )


def search(
    storage: str, *, name: str = "random", goal: Goal | None = None, call=evaluate, machine="", now=time.time, **changed
) -> Found:
    """A whole search of the synthetic space."""
    given = {"limits": Limits(trials=30), "space": SPACE, **changed}
    with opened(storage, "bars", {"model": "m", "space": "s"}, place="here", machine=machine, now=now) as study:
        return Search(
            call, study=study, goal=goal or Goal(), original=ORIGINAL, searchers=searchers_of(name), **given
        ).run()


def told(found: Found) -> list[object]:
    """What does not depend on the clock."""
    front = {t.recipe for t in found.trials if t.number in found.front}
    return [sorted(front), round(found.hypervolume, 12), found.chosen.recipe if found.chosen else None]


class Slow:
    """Counts what it evaluates in a file, each line a process and a recipe, and takes its time; begins when as many
    processes as there are to be have come."""

    def __init__(self, log: Path, seconds: float, party: int = 1) -> None:
        self.log, self.seconds, self.party = log, seconds, party

    def __call__(self, recipe: Recipe) -> Measurement:
        self.log.with_name(f"here-{os.getpid()}").touch()
        while len(list(self.log.parent.glob("here-*"))) < self.party:
            time.sleep(0.01)
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {recipe.id}\n")
        return evaluate(recipe)


if __name__ == "__main__":
    storage, log, name, trials, seconds, party, many = sys.argv[1:8]
    with workers_of(many).ready(1) as workers:
        found = search(
            storage,
            name=name,
            call=Slow(Path(log), float(seconds), int(party)),
            limits=Limits(trials=int(trials)),
            workers=workers,
        )
    print(json.dumps(told(found)), workers.count)
