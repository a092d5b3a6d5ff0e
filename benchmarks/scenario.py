"""A scenario on a trained network beside int8 alone on the same runtime: what S1 and S2 share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.protocol import recorded
from benchmarks.results import Run
from lissom.recipe import Recipe
from lissom.task import Task

INT8 = Recipe([lissom.Fold(), lissom.Quantize()])
Networks = Mapping[str, tuple[nn.Module, Task]]
"""By name; the first is the one that the goal is about."""


def in_scenario(model: nn.Module, task: Task, scenario: str, target: str, place: Path) -> dict[str, Any]:
    """`result.json` of a run that starts from the scenario's recipe; a killed one goes on in `place`."""
    return recorded(model, task, place, scenario=scenario, target=target)


def int8_alone(model: nn.Module, task: Task, target: str, place: Path) -> dict[str, Any]:
    """The control: the same runtime, rounding alone."""
    return recorded(model, task, place, recipe=INT8, target=target)


def networks(context: Context) -> Networks:
    return {f"ResNet-{depth}": trained(context, depth) for depth in (56, 20)}


def place_of(context: Context, network: str, what: str) -> Path:
    return context.kept / f"{network}-{what}".lower().replace(" ", "-")


def drop_points(found: Mapping[str, Any]) -> float:
    """Of the metric on the test split, in points."""
    return round(100 * (found["before"]["metric"]["value"] - found["after"]["metric"]["value"]), 4)


def as_run(name: str, found: Mapping[str, Any]) -> Run:
    return Run(
        name=name,
        figures={
            "accuracy %": round(100 * found["after"]["metric"]["value"], 2),
            "times smaller": round(found["ratios"]["size"], 3),
            "bytes": found["after"]["size_bytes"],
            "MACs": found["after"]["macs"],
            "parameters": found["after"]["parameters"],
            "seconds of the steps": round(sum(step["seconds"] for step in found["steps"]), 1),
            "recipe": " > ".join(next(iter(step)) for step in found["recipe"]),
        },
    )
