"""P6PLAN: how long planning takes, beside Torch-Pruning, on networks that are large or deeply coupled.

Planning is everything from the traced model to the list of channels to cut, half of them by magnitude, ranked over the
whole network; nothing is cut.

- Ours: `find_channels`, scores, selection, the plan (`Prune.study` and `Prune.plan`).
- Torch-Pruning: `MagnitudePruner(..., global_pruning=True)` built, which makes the dependency graph and walks all
  groups once, then `step(interactive=True)` exhausted, which walks them again with their scores; the classifier is
  ignored and the heads are named to it, as its own examples do.

Tracing is timed apart: `torch.export` here, a forward pass and a walk through `grad_fn` there (`_trace`). Both plan in
one process on one thread, in turns, after one call each that is not counted; medians over rounds.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import lissom
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import torch_threads, trace
from lissom.measure.latency import paired_ratio
from lissom.sources.optional import ready_torchvision
from lissom.target import load_target
from lissom.task import Task

TITLE = "Planning time beside Torch-Pruning"
NEEDS = ()
ROUNDS = 7
DEEP = "vit-small, 48 blocks"
SHALLOW = "vit-small, 12 blocks"
WANTED = {"resnet50": 1.0, "densenet121": 2.0, DEEP: 2.0}
"""How many times faster than Torch-Pruning, at least."""
GROWTH = 5.0

GOAL = Goal(
    text=(
        "planning no slower than Torch-Pruning's on ResNet-50, at most half its time on DenseNet-121 and on ViT-small "
        f"with 48 blocks; four times the blocks cost at most {GROWTH:g} times the planning"
    ),
    wishes=(
        *(Wish(figure=f"{name}, times faster", at_least=least) for name, least in WANTED.items()),
        Wish(figure="12 to 48 blocks, times slower", at_most=GROWTH),
    ),
)


def networks() -> dict[str, Callable[[], nn.Module]]:
    ready_torchvision()
    import timm

    return {
        "resnet50": lambda: timm.create_model("resnet50"),
        "densenet121": lambda: timm.create_model("densenet121"),
        SHALLOW: lambda: timm.create_model("vit_small_patch16_224", depth=12),
        DEEP: lambda: timm.create_model("vit_small_patch16_224", depth=48),
    }


def run(context: Context) -> Outcome:
    with torch_threads(1):
        return compare(context)


def compare(context: Context) -> Outcome:
    value: dict[str, Figure] = {}
    runs: list[Run] = []
    reference: list[Beside] = []
    medians: dict[str, float] = {}
    for name, make in networks().items():
        torch.manual_seed(0)
        model, example = make().eval(), torch.randn(1, 3, 224, 224)
        mine, theirs = Ours(model, example), Theirs(model, example)
        for one in (mine, theirs):
            one.plan()
            one.forget()
        for _ in range(ROUNDS):
            mine.plan()
            theirs.plan()
        medians[name] = statistics.median(mine.seconds)
        value[f"{name}, times faster"] = Figure.of(paired_ratio(theirs.seconds, mine.seconds))
        for who, one in (("lissom", mine), ("Torch-Pruning", theirs)):
            figures = {"tracing s": round(statistics.median(one.tracing), 3), "groups cut": one.groups}
            runs.append(Run(name=f"{name}, {who}", figures=figures, samples_ms=_ms(one.seconds)))
        reference.append(
            Beside(
                what=f"{name}, planning",
                value=round(statistics.median(theirs.seconds), 3),
                unit="s",
                source="Torch-Pruning 1.6.1, the same run",
            )
        )
        value[f"{name}, planning"] = Figure(value=round(medians[name], 4), unit="s")
        context.say(f"{name}: {medians[name]:.3f} s, Torch-Pruning {reference[-1].value:.3f} s")
    value["12 to 48 blocks, times slower"] = Figure(value=round(medians[DEEP] / medians[SHALLOW], 2), unit="x")
    return Outcome(goal=GOAL, value=value, reference=tuple(reference), control=(), seeds=(0,), runs=tuple(runs))


def _ms(seconds: list[float]) -> tuple[float, ...]:
    return tuple(round(1000 * one, 2) for one in seconds)


class Ours:
    def __init__(self, model: nn.Module, example: torch.Tensor) -> None:
        self.model = model
        self.task = Task(example_inputs=(example,))
        self.one = lissom.Prune(ratio=0.5, recovery="none", round_to=1)
        self.target = load_target("onnxruntime")
        self.seconds: list[float] = []
        self.tracing: list[float] = []
        self.groups = 0
        started = time.perf_counter()
        self.traced = trace(model, self.task.example)
        self.tracing.append(time.perf_counter() - started)

    def plan(self) -> None:
        started = time.perf_counter()
        study = self.one.study(self.model, self.traced, self.task, self.target)
        made = self.one.plan(self.traced.graph, study, self.target)
        self.seconds.append(time.perf_counter() - started)
        self.groups = len({group for action in made.actions for group in getattr(action, "groups", ())})

    def forget(self) -> None:
        self.seconds.clear()


class Theirs:
    def __init__(self, model: nn.Module, example: torch.Tensor) -> None:
        import torch_pruning

        self.tool: Any = torch_pruning
        self.model, self.example = model, example
        self.seconds: list[float] = []
        self.tracing: list[float] = []
        self.groups = 0

    def plan(self) -> None:
        """Its tracing is the inner part of building: taken off."""
        graph = self.tool.DependencyGraph
        whole, inside = graph._trace, 0.0

        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            started = time.perf_counter()
            try:
                return whole(*args, **kwargs)
            finally:
                inside += time.perf_counter() - started

        graph._trace = timed
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                started = time.perf_counter()
                groups = list(self._pruner().step(interactive=True))
                took = time.perf_counter() - started
        finally:
            graph._trace = whole
        self.groups = len(groups)
        self.seconds.append(took - inside)
        self.tracing.append(inside)

    def forget(self) -> None:
        self.seconds.clear()
        self.tracing.clear()

    def _pruner(self) -> Any:
        classifier = self.model.get_classifier()  # pyright: ignore
        heads = {m.qkv: m.num_heads for m in self.model.modules() if hasattr(m, "qkv") and hasattr(m, "num_heads")}
        return self.tool.pruner.MagnitudePruner(
            self.model,
            self.example,
            importance=self.tool.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=0.5,
            ignored_layers=[classifier],
            num_heads=heads,
        )
