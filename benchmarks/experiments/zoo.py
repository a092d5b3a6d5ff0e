"""ZOO: many architectures through the whole chain, with default settings and no code for any of them."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.zoo_models import Net, build, nets
from lissom.errors import LissomError
from lissom.export.base import run as run_artifact
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.trace import trace
from lissom.measure.quality import parity
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task, repeated
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize, planned_precision

TITLE = "Fold, quantize, export and run small architectures, no code for any of them"
NEEDS = ()
TARGETS = ("openvino", "onnxruntime")
SHARE = 0.95
STEPS = 1.0
"""Mean difference of torch and runtime, in int8 steps of the output's range, that counts as the same. An untrained
network amplifies every rounding tie, so one that quantizing itself moved further may differ by as much."""
LIMIT = 1e6

GOAL = Goal(
    text=(
        f"at least {SHARE:.0%} of the networks run on both runtimes as torch simulated them; every other one is "
        "refused with a reason, none ends in an unexpected error"
    ),
    wishes=(
        Wish(figure="share that runs", at_least=SHARE),
        Wish(figure="unexpected errors", at_most=0),
        Wish(figure="runs that differ from torch", at_most=0),
    ),
)


def run(context: Context) -> Outcome:
    found: list[Run] = []
    todo = nets()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(context.threads, mp_context=spawn) as pool:
        waiting = {pool.submit(attempt, net, context.scratch / net.source / net.name): net for net in todo}
        for index, done in enumerate(concurrent.futures.as_completed(waiting)):
            runs = done.result()
            found += runs
            context.say(
                f"{index + 1}/{len(todo)} {waiting[done].name}: {', '.join(str(r.figures['status']) for r in runs)}"
            )
    found.sort(key=lambda one: one.name)
    return judged(found)


def judged(found: list[Run]) -> Outcome:
    states = Counter(str(one.figures["status"]) for one in found)
    by_net: dict[str, list[str]] = {}
    for one in found:
        by_net.setdefault(one.name.rsplit(" ", 1)[0], []).append(str(one.figures["status"]))
    fine = sum(all(state == "ok" for state in group) for group in by_net.values())
    value = {
        "networks": Figure(value=len(by_net)),
        "share that runs": Figure(value=fine / len(by_net), unit="share"),
        "refused with a reason": Figure(value=states["refused"], unit="runs"),
        "unexpected errors": Figure(value=states["error"], unit="runs"),
        "runs that differ from torch": Figure(value=states["differs"], unit="runs"),
        "layers planned in integers that run in float": Figure(
            value=sum(float(one.figures.get("float", 0)) for one in found), unit="layers"
        ),
        "layers the runtime does not tell of": Figure(
            value=sum(float(one.figures.get("not told", 0)) for one in found), unit="layers"
        ),
    }
    return Outcome(
        goal=GOAL,
        value=value,
        reference=(
            Beside(
                what="networks pruned to a working forward by autograd-graph tracing, generic set-up (109 tried)",
                value=52,
                unit="networks",
                source="an earlier run on this machine",
            ),
        ),
        control=(),
        seeds=(0,),
        runs=tuple(found),
    )


def attempt(net: Net, folder: Path) -> list[Run]:
    """The chain for one network, on each runtime; whatever goes wrong is the result."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return [_one(net, target, folder) for target in TARGETS]


def _one(net: Net, target: str, folder: Path) -> Run:
    started = time.perf_counter()
    try:
        figures = _chain(net, target, folder)
    except LissomError as refused:
        figures = {"status": "refused", "reason": _short(refused)}
    except Exception as wrong:  # noqa: BLE001  an unexpected error is what the zoo looks for
        figures = {"status": "error", "reason": f"{type(wrong).__name__}: {_short(wrong)}"}
    figures["seconds"] = round(time.perf_counter() - started, 1)
    return Run(name=f"{net.source}/{net.name} {target}", figures=figures)


def _chain(net: Net, target: str, folder: Path) -> dict[str, float | str]:
    model, example = build(net)
    task = Task(example_inputs=example, calibration=_calibration(example), name=net.name)
    steps = transform(model, task, Recipe([Fold(), Quantize()]), load_target(target))
    last, runtime = steps[-1], runtime_of(load_target(target))
    artifact = runtime.export(last.model, task.example, target, folder, f"model-{target}")
    traced = trace(last.model, task.example)
    batch = task.example if traced.graph.fixed_batch else repeated(task.example, 2)
    with torch.no_grad():
        wanted = pytree.tree_leaves(traced.module(*batch.args))
    got = run_artifact(runtime.load(artifact, folder, 1), artifact, batch)
    with torch.no_grad():
        floats = pytree.tree_leaves(last.trace.module(*batch.args))
    gap = min(LIMIT, parity(_tensors(wanted), _tensors(got)).mean_steps)
    error = min(LIMIT, parity(_tensors(floats), _tensors(wanted)).mean_steps)
    ran = match_kernels(artifact, runtime.kernels(artifact, folder), traced.graph)
    planned = [node for node, precision in planned_precision(last.plan).items() if precision == "int8" and node in ran]
    precisions = Counter(ran[node] for node in planned)
    return {
        "status": "ok" if gap <= max(STEPS, error) else "differs",
        "steps from torch": round(gap, 4),
        "steps from float": round(error, 4),
        "layers": len(last.trace.graph.layers),
        "planned": len(planned),
        "integers": precisions["int8"],
        "float": precisions["float32"],
        "not told": precisions["unknown"],
        "skipped": len(last.plan.skipped),
        "bytes": artifact.size_bytes,
    }


def _tensors(leaves: list[Any]) -> list[np.ndarray]:
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _calibration(example: tuple[torch.Tensor, ...]) -> list[Batch]:
    torch.manual_seed(1)
    if example[0].is_floating_point():
        return [Batch(tuple(torch.randn_like(x) for x in example)) for _ in range(4)]
    return [Batch(tuple(torch.randint_like(x, 3, 99) for x in example)) for _ in range(4)]


def _short(wrong: Exception) -> str:
    return " ".join(str(wrong).split())[:240]
