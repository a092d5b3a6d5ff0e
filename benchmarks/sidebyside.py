"""What the comparisons of BESIDE and BESIDECUT share: contenders, clocks, one table for each section."""

from __future__ import annotations

import functools
import json
import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import usercode
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.peers import quiet
from benchmarks.protocol import Contender, accuracy, compressed, exported, faster, foreign, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run
from lissom.export.base import Artifact
from lissom.graph.trace import torch_threads, trace
from lissom.recipe import Recipe
from lissom.task import Task
from lissom.transforms.base import Transform

COLUMNS = {
    "accuracy": "%",
    "size": "bytes",
    "latency": "ms",
    "seconds": "s",
    "making": "s",
    "lines": "",
    "MACs ratio": "x",
}

Section = Callable[[Context], dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """One contender; `seconds` and `lines` are of its snippets, None for what nobody writes (the original)."""

    contender: Contender
    seconds: float | None = None
    lines: int | None = None
    macs: float | None = None
    making: float | None = None


def side_by_side(context: Context, goal: Goal, sections: Sequence[Section]) -> Outcome:
    """Every section, as found in an earlier call or now."""
    value: dict[str, Figure] = {}
    runs: list[Run] = []
    with torch_threads(1):
        for section in sections:
            part = section.__name__
            context.say(part)
            found = remembered(context.kept / part, lambda _, one=section: one(context))
            for row in found["rows"]:
                name = f"{part}, {row['name']}"
                shown = {column: row[column] for column in COLUMNS if row[column] is not None}
                value |= {f"{name}: {column}": Figure(value=v, unit=COLUMNS[column]) for column, v in shown.items()}
                runs.append(Run(name=name, figures=shown, samples_ms=tuple(row["samples"])))
            value |= {f"{part}, {name}": Figure.model_validate(one) for name, one in found["ratios"].items()}
    control = tuple(
        Beside(what=one.name, value=float(one.figures["accuracy"]), unit="%", source="the same run")
        for one in runs
        if "original" in one.name
    )
    return Outcome(goal=goal, value=value, reference=(), control=control, seeds=(0,), runs=tuple(runs))


@functools.cache
def network(context: Context) -> tuple[nn.Module, Task]:
    return trained(context, 20)


def clocked(snippet: Callable[..., Any], **given: Any) -> tuple[Any, float]:
    """What it hands back, and seconds of processor time, those of processes that it started included."""
    before = os.times()
    with quiet(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        made = snippet(**given)
    after = os.times()
    return made, round(sum(after[:4]) - sum(before[:4]), 2)


def place_for(context: Context, name: str) -> Path:
    place = context.scratch / str(len(list(context.scratch.iterdir()))) / name.replace(" ", "-")
    place.mkdir(parents=True)
    return place


def ours(context: Context, name: str, snippet: Callable[..., Path], **given: Any) -> Arm:
    place = place_for(context, name)
    _, seconds = clocked(snippet, **{**given, "folder": place})
    held = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    ratio = json.loads((place / "result.json").read_text(encoding="utf-8"))["ratios"]["macs"]
    contender = Contender(name, Artifact.model_validate(held["artifact"]), place)
    context.say(f"{name}, {contender.target}: {seconds} s")
    return Arm(contender, seconds, usercode.lines_of(snippet), ratio)


def file_of(
    context: Context, name: str, target: str, like: Contender, snippet: Callable[..., Path], **given: Any
) -> Arm:
    """A tool that hands back a file."""
    path, seconds = clocked(snippet, **given, folder=place_for(context, name))
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    context.say(f"{name}: {seconds} s")
    return Arm(foreign(name, target, files, like.artifact, seconds), seconds, usercode.lines_of(snippet))


def module_of(
    context: Context, name: str, model: nn.Module, task: Task, seconds: float, *snippets: Callable[..., Any]
) -> Arm:
    """A tool that hands back a module; it is exported as all are."""
    contender = exported(model, task, "onnxruntime", place_for(context, name), name=name)
    whole, now = (trace(one, task.example).graph.macs for one in (network(context)[0], model))
    return Arm(contender, seconds, usercode.lines_of(*snippets), whole / now)


def making(context: Context, model: nn.Module, task: Task, steps: Sequence[Transform], target: str) -> float:
    """Processor seconds of the recipe and the export, without anything measured."""
    place = place_for(context, "making")
    return clocked(compressed, model=model, task=task, recipe=Recipe(steps), target=target, folder=place)[1]


def judged(
    context: Context,
    arms: Sequence[Arm],
    model: nn.Module,
    task: Task,
    ratios: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Accuracy of every contender, latencies of all, and how many times faster the second of each pair is."""
    right = {key(arm.contender): accuracy(arm.contender, model, task, 1) for arm in arms}
    samples = race([arm.contender for arm in arms], task.example, 1, rounds=context.rounds, threads=1)
    several = len({arm.contender.target for arm in arms}) > 1
    return {
        "rows": [
            {
                "name": f"{arm.contender.name} on {arm.contender.target}" if several else arm.contender.name,
                "accuracy": round(right[key(arm.contender)], 2),
                "size": arm.contender.artifact.size_bytes,
                "latency": round(statistics.median(samples[key(arm.contender)]), 4),
                "seconds": arm.seconds,
                "making": arm.making,
                "lines": arm.lines,
                "MACs ratio": None if arm.macs is None else round(arm.macs, 3),
                "samples": samples[key(arm.contender)],
            }
            for arm in arms
        ],
        "ratios": {name: faster(samples, slow, fast).model_dump(mode="json") for name, (slow, fast) in ratios.items()},
    }
