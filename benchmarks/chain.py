"""Whole recipes side by side: what P5 and X1 share. The first is ours, the others are controls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.context import Context, remembered
from benchmarks.protocol import Contender, exported, faster, key, race, recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run
from benchmarks.scenario import drop_points
from lissom.export.base import Artifact
from lissom.recipe import Recipe
from lissom.task import Task

TARGET, FLOAT = "openvino", ("openvino", "onnxruntime")
"""Where recipes run, and where the original does in float: the faster one is what they are compared with."""
TRAINED_ONLY = "trained on"
"""A recipe of this name changes no file: it is not timed."""


def compared(
    context: Context,
    model: nn.Module,
    task: Task,
    recipes: Mapping[str, Recipe],
    *,
    goal: Goal,
    unit: str,
    batch: int,
    reference: tuple[Beside, ...] = (),
) -> Outcome:
    """Every recipe carried out as a user would, then all files timed in turns; `unit` names the metric."""
    found: dict[str, dict[str, Any]] = {}
    for name, recipe in recipes.items():
        context.say(name)
        target = "torch" if name == TRAINED_ONLY else TARGET
        found[name] = remembered(
            place_of(context.kept, name),
            lambda place, recipe=recipe, target=target: recorded(
                model, task, place, recipe=recipe, target=target, batch_size=batch
            ),
        )
    context.say("latency")
    timed = [name for name in recipes if name != TRAINED_ONLY]
    racing = [exported(model, task, target, context.scratch, name="float") for target in FLOAT]
    racing += [file_of(context, model, task, name, recipes[name], batch) for name in timed]
    samples = race(racing, task.example, batch, rounds=context.rounds, threads=context.threads)
    middle = {one: sorted(times)[len(times) // 2] for one, times in samples.items()}
    best = min((f"{target}/float" for target in FLOAT), key=lambda one: middle[one])
    speed = {name: faster(samples, best, f"{TARGET}/{name}", f"of {best}, batch {batch}") for name in timed}
    first, *others = recipes
    ours = found[first]
    return Outcome(
        goal=goal,
        value={
            "size": Figure(value=round(ours["ratios"]["size"], 3), unit="x"),
            "drop": Figure(value=drop_points(ours), unit="points"),
            "speed-up": speed[first],
            "MACs": Figure(value=round(ours["ratios"]["macs"], 3), unit="x"),
            "parameters": Figure(value=round(ours["ratios"]["parameters"], 3), unit="x"),
            **{f"{name}, speed-up": speed[name] for name in others if name in speed},
        },
        reference=reference,
        control=(
            Beside(what="the original", value=_percent(ours["before"]), unit="%", source="the same run"),
            *(_control(name, "drop", drop_points(found[name]), "points") for name in others),
            *(
                _control(name, "times smaller", round(found[name]["ratios"]["size"], 3), "x")
                for name in others
                if name in speed
            ),
        ),
        seeds=(0,),
        runs=(
            *(
                Run(
                    name=name,
                    figures={
                        unit: _percent(one["after"]),
                        "bytes": one["after"]["size_bytes"] or 0,
                        "MACs": one["after"]["macs"],
                        "parameters": one["after"]["parameters"],
                        "seconds of the steps": round(sum(step["seconds"] for step in one["steps"]), 1),
                    },
                )
                for name, one in found.items()
            ),
            *(Run(name=f"latency of {key(one)}", samples_ms=samples[key(one)]) for one in racing),
        ),
    )


def place_of(folder: Path, name: str) -> Path:
    return folder / name.replace(", ", "-").replace(" ", "-")


def file_of(context: Context, model: nn.Module, task: Task, name: str, recipe: Recipe, batch: int) -> Contender:
    """What is remembered is a record; the file is made again where its folder is not at hand."""
    place = place_of(context.kept, name)
    if not (place / "result.json").is_file():
        place = place_of(context.scratch, name)
        recorded(model, task, place, recipe=recipe, target=TARGET, batch_size=batch)
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    return Contender(name, Artifact.model_validate(manifest["artifact"]), place)


def _control(name: str, what: str, value: float, unit: str) -> Beside:
    return Beside(what=f"{name}, {what}", value=value, unit=unit, source="the same run")


def _percent(measured: Mapping[str, Any]) -> float:
    return round(100 * measured["metric"]["value"], 2)
