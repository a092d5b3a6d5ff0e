"""LATENCY: how well the search foretells the latency of candidates that it has not measured.

Two networks; of each a table is measured from the search's own probes, and corrected by a few candidates drawn by
chance; then 25 others, drawn by the same seed over width, depth and bits, are foretold first and measured afterwards.
Nothing of those 25 is in the fit. Control: latency proportional to MACs; beside it the model of the whole network that
the search uses where no runtime tells the time of a layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import vit
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import trace
from lissom.measure.environment import environment, machine
from lissom.pipeline.evaluating import Evaluator
from lissom.pipeline.quiet import Quiet
from lissom.runfolder import StageFolder
from lissom.search import Measurement, Point, Space, Timed
from lissom.search.costs import fit_costs
from lissom.search.history import Probe
from lissom.search.latency import fit_layers, left_out, samples_of
from lissom.search.opening import open_space, restricted
from lissom.search.probing import probed
from lissom.target import load_target
from lissom.task import Task

TITLE = "Latency of candidates foretold from a table of layers"
NEEDS = ("data", "weights")
TARGET = "onnxruntime"
BATCH = 16
SEED = 0
FITTED, HELD_OUT = 12, 25
"""Candidates of each network that are drawn for the fit, beside the probes, and to be foretold."""
MOST_OFF, LEAST_RANKED = 0.10, 0.95
WIDTHS = tuple(round(1.0 + 0.25 * step, 2) for step in range(21))
"""MACs before / after by pruning: finer than the search's, so that most lie between two probes."""
MEASURED = "the same candidates"


@dataclass(frozen=True)
class Net:
    """`step`: channels that the target computes together."""

    space: Space
    original: Measurement
    measure: Callable[[Point], Timed]
    step: int


@dataclass(frozen=True)
class Judged:
    """Held-out candidates of one network: shares of the original's latency."""

    points: tuple[Point, ...]
    shares: np.ndarray
    """Measured, as the others are foretold."""
    foretold: np.ndarray
    unsure: np.ndarray
    whole: np.ndarray
    macs: np.ndarray
    told: float
    """The relative error that the model gives itself, by leaving out."""


def goal() -> Goal:
    return Goal(
        text=(
            f"{HELD_OUT} held-out candidates of each of two networks, over width, depth and bits: mean relative error "
            f"of the predicted latency at most {MOST_OFF:.0%}, Spearman's correlation at least {LEAST_RANKED}, "
            "the worse of both networks"
        ),
        wishes=(
            Wish(figure="mean relative error", at_most=MOST_OFF),
            Wish(figure="Spearman's correlation", at_least=LEAST_RANKED),
        ),
    )


def run(context: Context) -> Outcome:
    found: dict[str, Judged] = {}
    for name, make in NETS.items():
        net = opened(context, name, *make(context))
        found[name] = judged(net, say=lambda text, name=name: context.say(f"{name}: {text}"))
    return outcome(found)


def _vit(context: Context) -> tuple[nn.Module, Task]:
    """Latency does not depend on the weights: those of the seed."""
    torch.manual_seed(SEED)
    return vit.VisionTransformer().eval(), vit.task_of(context)


NETS: dict[str, Callable[[Context], tuple[nn.Module, Task]]] = {
    "ResNet-56": lambda context: trained(context, 56),
    "ViT": _vit,
}


def opened(context: Context, name: str, model: nn.Module, task: Task) -> Net:
    """A network whose candidates are measured as the search measures its probes, each kept as soon as it is done."""
    target, kept = load_target(TARGET), context.kept / name
    scratch = context.scratch / name
    scratch.mkdir(parents=True, exist_ok=True)
    evaluator = Evaluator(
        model, task, target, StageFolder(scratch, SEED), Quiet(Path(tempfile.gettempdir()) / "lissom-quiet-latency"),
        context.threads, BATCH, SEED, False, machine(environment(context.threads)), layers=True,
    )  # fmt: skip
    space = open_space(trace(model, task.example), task, target)
    space = restricted(space, ("depth", "prune"), ("int8", "float16", "dynamic"), "not asked here")
    space = space.model_copy(update={"prune": WIDTHS, "epochs": (0,)})

    def measure(point: Point) -> Timed:
        place = kept / "-".join(f"{name}-{value}" for name, value in point.model_dump().items() if name != "epochs")
        done = remembered(place, lambda _: evaluator.probe(space.recipe(point)).model_dump(mode="json"))
        return Timed.model_validate(done)

    original = remembered(kept / "original", lambda _: evaluator.original().model_dump(mode="json"))
    return Net(space, Measurement.model_validate(original), measure, target.channel_multiple)


def drawn(space: Space, fitted: int, held_out: int) -> tuple[list[Point], list[Point]]:
    """Every point alike; none of them is a probe or the original."""
    taken = {Point(), *probed(space)}
    points = [p for p in space.points() if p not in taken]
    order = np.random.default_rng(SEED).permutation(len(points))
    chosen = [points[i] for i in order[: fitted + held_out]]
    return chosen[:fitted], chosen[fitted:]


def judged(
    net: Net, *, fitted: int = FITTED, held_out: int = HELD_OUT, say: Callable[[str], None] = lambda _: None
) -> Judged:
    more, asked = drawn(net.space, fitted, held_out)
    known = [*probed(net.space), *more]
    probes: list[Probe] = []
    for index, point in enumerate(known):
        say(f"fit {index + 1} of {len(known)}")
        probes.append(Probe(point=point, timed=net.measure(point)))
    samples = samples_of(net.original, [], probes)
    predicted = fit_layers(samples, net.original.latency_ms, net.step).predict(asked)
    told = float(np.mean(np.abs(left_out(samples, net.original.latency_ms, net.step))))
    whole = fit_costs("latency", known, [1 / net.measure(p).latency_ratio for p in known]).predict(asked)
    timed: list[Timed] = []
    for index, point in enumerate(asked):
        say(f"held out {index + 1} of {len(asked)}")
        timed.append(net.measure(point))
    products = sum(one.macs for one in net.original.layers)
    return Judged(
        points=tuple(asked),
        shares=np.array([1 / one.latency_ratio for one in timed]),
        foretold=predicted.shares,
        unsure=predicted.unsure,
        whole=whole,
        macs=np.array([sum(layer.macs for layer in one.layers) / products for one in timed]),
        told=told,
    )


def off(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean |predicted / measured - 1|."""
    return float(np.mean(np.abs(predicted / measured - 1.0)))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Of ranks, equal values at the mean of theirs."""
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([np.sum(values < one) + (np.sum(values == one) - 1) / 2 for one in values])


def outcome(found: dict[str, Judged]) -> Outcome:
    value: dict[str, Figure] = {}
    control: list[Beside] = []
    for name, one in found.items():
        inside = np.abs(np.log(one.foretold / one.shares)) <= 2 * np.log1p(one.unsure)
        value[f"{name}, mean relative error"] = Figure(value=round(off(one.foretold, one.shares), 4))
        value[f"{name}, Spearman's correlation"] = Figure(value=round(spearman(one.foretold, one.shares), 4))
        value[f"{name}, error that the model gives itself"] = Figure(value=round(one.told, 4))
        value[f"{name}, inside two standard deviations"] = Figure(value=round(100 * float(inside.mean()), 1), unit="%")
        for what, other in (("proportional to MACs", one.macs), ("foretold of the whole network", one.whole)):
            control += [
                Beside(what=f"{name}, {what}: error", value=round(off(other, one.shares), 4), source=MEASURED),
                Beside(what=f"{name}, {what}: Spearman", value=round(spearman(other, one.shares), 4), source=MEASURED),
            ]
    both = found.values()
    worst = max(off(one.foretold, one.shares) for one in both)
    ranked = min(spearman(one.foretold, one.shares) for one in both)
    value["mean relative error"] = Figure(value=round(worst, 4), note="the worse of both networks")
    value["Spearman's correlation"] = Figure(value=round(ranked, 4), note="the worse of both networks")
    return Outcome(
        goal=goal(),
        value=value,
        reference=(),
        control=tuple(control),
        seeds=(SEED,),
        runs=tuple(run for name, one in found.items() for run in _runs(name, one)),
    )


def _runs(name: str, one: Judged) -> Sequence[Run]:
    return [
        Run(
            name=f"{name}, {point.precision}, prune {point.prune:g}, depth {point.depth:.3g}",
            figures={
                "measured, share of the original": round(float(measured), 4),
                "foretold": round(float(foretold), 4),
                "MACs": round(float(macs), 4),
            },
        )
        for point, measured, foretold, macs in zip(one.points, one.shares, one.foretold, one.macs, strict=True)
    ]
