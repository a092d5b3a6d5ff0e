"""L4: no layer is emitted that is slower than what it replaces.

Three networks with random weights, whose latency is that of trained ones, on two runtimes, one thread, batch 1:
ResNet-56 and a VGG-16 for images of 32 x 32, and a transformer of the shape of MiniLM (6 layers, 384 wide) for 128
tokens. `Factorize(ratio=0.5)` plans with its guard, as `lissom.compress` does. Then every kind of layer that the plan
splits (class, shapes, ranks) is exported and timed again beside its parts, with longer blocks and other samples than
the guard had. A layer counts as slower if the interval of layer / parts lies below 1. Control: the same setting without
the guard (`break_even="macs"`): how many layers it splits, and what either plan does to the whole network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cifar import project
from benchmarks.context import Context
from benchmarks.experiments.l1 import Vgg16
from benchmarks.models import BertEncoder
from benchmarks.protocol import Contender, exported, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.files import write_text
from lissom.graph.trace import Trace, trace
from lissom.measure.latency import paired_ratio
from lissom.measure.records import Interval
from lissom.pipeline.timing import Stopwatch
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.lowrank import Factorize, Split
from lissom.transforms.lowrank.evidence import Layer, find_layers

TITLE = "Every factorized layer timed beside what it replaces, on two runtimes"
NEEDS = ()
TARGETS = ("onnxruntime", "openvino")
RATIO = 0.5
THREADS, BLOCK_MS = 1, 20.0
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}


def networks() -> Mapping[str, Callable[[], tuple[nn.Module, Task]]]:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(128).unsqueeze(0) + 1000
    return {
        "ResNet-56": lambda: (project().ResNet(56), Task(example_inputs=(image,))),
        "VGG-16": lambda: (Vgg16(), Task(example_inputs=(image,))),
        "MiniLM-shaped": lambda: (BertEncoder(config=MINILM), Task(example_inputs=(tokens,))),
    }


def goal() -> Goal:
    return Goal(
        text="every layer that Factorize emits, of three networks on two runtimes: none slower than what it replaces",
        wishes=(Wish(figure="layers slower than what they replace", at_most=0.0),),
    )


def run(context: Context) -> Outcome:
    found = [at(context, name, make, target) for name, make in networks().items() for target in TARGETS]
    emitted = [row for one in found for row in one["layers"]]
    slower = [row for row in emitted if row["high"] < 1.0]
    value = {
        "layers slower than what they replace": Figure(
            value=sum(row["count"] for row in slower), note=f"of {sum(row['count'] for row in emitted)} emitted"
        ),
        "layers that the guard put back": Figure(value=sum(one["put back"] for one in found)),
    }
    for one in found:
        where = f"{one['network']}, {one['target']}"
        for kind in ("with the guard", "without it"):
            ratio = one[kind]
            value[f"{where}, whole network {kind}"] = Figure(
                value=ratio["median"], low=ratio["low"], high=ratio["high"], unit="x"
            )
        if one["layers"]:
            least = min(one["layers"], key=lambda row: row["median"])
            value[f"{where}, least gain of a layer"] = Figure(
                value=least["median"], low=least["low"], high=least["high"], unit="x", note=least["layer"]
            )
    return Outcome(
        goal=goal(),
        value=value,
        reference=(
            Beside(what="a factorized layer", value=71.0, unit="times slower", source="tensorly/torch issue 35"),
        ),
        control=tuple(
            Beside(
                what=f"{one['network']}, {one['target']}: layers split by counting",
                value=one["counted"],
                source=f"the same run; {one['emitted']} with the guard",
            )
            for one in found
        ),
        seeds=(0,),
        runs=tuple(row_run(one, row) for one in found for row in one["layers"]),
    )


def row_run(one: Mapping[str, Any], row: Mapping[str, Any]) -> Run:
    return Run(
        name=f"{one['network']}, {one['target']}, {row['layer']}",
        figures={
            "times faster": round(row["median"], 3),
            "low": round(row["low"], 3),
            "high": round(row["high"], 3),
            "layers alike": row["count"],
            "ranks": f"{row['method']} {'x'.join(map(str, row['ranks']))}",
            "whole ms": round(row["whole ms"], 4),
        },
        samples_ms=tuple(row["samples"]),
    )


def at(context: Context, name: str, make: Callable[[], tuple[nn.Module, Task]], target_name: str) -> dict[str, Any]:
    """One network on one runtime; what was measured is kept."""
    memory = context.kept / f"{name}-{target_name}.json"
    memory.parent.mkdir(parents=True, exist_ok=True)
    if memory.is_file():
        return json.loads(memory.read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, task = make()
    model = model.eval()
    target, traced = load_target(target_name), trace(model, task.example)
    watch = Stopwatch(model, task, target, THREADS, 1, context.scratch / "timed")
    guarded, counted = Factorize(ratio=RATIO), Factorize(ratio=RATIO, break_even="macs")
    study = guarded.study(model, traced, task, target, Work(race=watch.race))
    plan = guarded.plan(traced.graph, study, target)
    bare = counted.plan(traced.graph, counted.study(model, traced, task, target), target)
    context.say(f"{name}, {target_name}: {len(plan.actions)} of {len(bare.actions)} layers split")
    split, free = guarded.apply(model, plan, traced, task), counted.apply(model, bare, traced, task)
    found: dict[str, Any] = {
        "network": name,
        "target": target_name,
        "emitted": len(plan.actions),
        "counted": len(bare.actions),
        "put back": sum(" times as fast" in skip.reason for skip in plan.skipped),
        "layers": layers_of(context, model, split, plan, traced, target_name),
    }
    whole = {"original": model, "with the guard": split, "without it": free}
    made = {
        kind: exported(one, task, target_name, context.scratch, name=f"{name}-{kind.replace(' ', '-')}")
        for kind, one in whole.items()
    }
    samples = race(list(made.values()), task.example, 1, rounds=context.rounds, threads=THREADS)
    for kind in ("with the guard", "without it"):
        ratio = paired_ratio(samples[key(made["original"])], samples[key(made[kind])])
        found[kind] = vars_of(ratio)
        context.say(f"{name}, {target_name}, {kind}: {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    write_text(memory, json.dumps(found))
    return found


def layers_of(
    context: Context, model: nn.Module, split: nn.Module, plan: Plan, traced: Trace, target: str
) -> list[dict[str, Any]]:
    """Each kind of split layer beside its parts, timed anew."""
    layers = {one.name: one for one in find_layers(model, traced.graph).layers}
    kinds: dict[tuple[Any, ...], list[Split]] = {}
    for action in plan.of(Split):
        kinds.setdefault((layers[action.layer].signature, action.method, action.ranks), []).append(action)
    found: list[dict[str, Any]] = []
    for actions in kinds.values():
        action = actions[0]
        before, after = model.get_submodule(action.layer), split.get_submodule(action.layer)
        samples = side_by_side(context, layers[action.layer], before, after, target)
        ratio = paired_ratio(samples["whole"], samples["parts"])
        context.say(f"{action.layer}: {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
        found.append(
            {
                "layer": action.layer,
                "count": len(actions),
                "method": action.method,
                "ranks": action.ranks,
                "whole ms": sorted(samples["whole"])[len(samples["whole"]) // 2],
                "samples": samples["parts"],
                **vars_of(ratio),
            }
        )
    return found


def side_by_side(
    context: Context, layer: Layer, before: nn.Module, after: nn.Module, target: str
) -> dict[str, tuple[float, ...]]:
    (shape,) = set(layer.calls)
    task = Task(example_inputs=(torch.randn(shape, generator=torch.Generator().manual_seed(1)),))
    folder: Path = context.scratch
    made: dict[str, Contender] = {
        name: exported(one, task, target, folder, name=name) for name, one in (("whole", before), ("parts", after))
    }
    samples = race(
        list(made.values()), task.example, shape[0], rounds=context.rounds, threads=THREADS, block_ms=BLOCK_MS
    )
    return {name: samples[key(one)] for name, one in made.items()}


def vars_of(ratio: Interval) -> dict[str, float]:
    return {"median": ratio.median, "low": ratio.low, "high": ratio.high}
