"""P7: NetAdapt against the same share of channels everywhere, on a MobileNetV2-style network for CIFAR-10.

The network (`lissom.spaces.mbconv`: expansions, depthwise kernels, projections) is trained here from a seed with a
short schedule: far from what 200 epochs give, and what is compared is that of a short schedule. NetAdapt is the search
of the product, `lissom.compress(search="netadapt")` with a wish for latency: blocks, channels, ranks and precision, a
step in one of them at a time. Of the candidates that keep the wish the best on validation data is taken. By hand means:
one share of the channels of every layer, in the precision that NetAdapt chose, so that nothing but the structure
differs; the share is the one with the same latency, timed in turns. Both are then trained alike, taught by the
original. The second control has the narrow structure and fresh weights, and as many epochs as the original and its
recovery together, without a teacher.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import lissom
from benchmarks.answers import difference, percent
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.dense import trained_once
from benchmarks.experiments.n1 import fewer, fresh
from benchmarks.protocol import Contender, Samples, exported, faster, outputs, race, recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.export.base import Artifact
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.search.space import Point, Space
from lissom.settings import Setting
from lissom.spaces import Stage, mbconv
from lissom.target import load_target
from lissom.task import Task
from lissom.training.settings import Training
from lissom.transforms.base import Transform
from lissom.transforms.folding import Fold

TITLE = "NetAdapt against uniform scaling at equal measured latency: MobileNetV2-style network on CIFAR-10"
NEEDS = ("data", "weights")
TARGET = "onnxruntime"
STAGES = (
    Stage(width=16, depth=2, kernel=3, expansion=4.0, stride=2, squeeze=0.0),
    Stage(width=32, depth=3, kernel=3, expansion=4.0, stride=2, squeeze=0.0),
    Stage(width=64, depth=3, kernel=3, expansion=4.0, squeeze=0.0),
)
HEAD = 256
"""10.6 million multiply-accumulates at 32 x 32."""
GAIN, APART = 0.7, 3.0
"""Points, and per cent of the latency."""
LOOKS = 12
"""Shares of channels that are timed at most."""
NEAR = 0.005
"""Latencies this close are equal: nothing nearer is looked for."""
ORIGINAL, OURS, UNIFORM, NARROW = "the original", "netadapt", "uniform", "narrow from scratch"


class Sizes(Setting):
    """How long everything is."""

    images: int = 25_000
    dense: Training = Training(epochs=10, learning_rate=0.1, weight_decay=5e-4)
    faster: float = 2.5
    """Wish of the search."""
    drop: float = 0.02
    budget: str = "15min"
    epochs: int = 6
    """Of recovery."""
    batch: int = 32
    """That latency is measured at: of single images of this size, calls and not products are what takes time."""


def goal() -> Goal:
    return Goal(
        text=(
            f"at least {GAIN:g} points more test accuracy than the same share of channels cut from every layer, last "
            f"epoch, as many epochs of recovery for both, at latencies within {APART:g} %"
        ),
        wishes=(
            Wish(figure="accuracy over uniform scaling", at_least=GAIN),
            Wish(figure="latencies apart", at_most=APART),
        ),
    )


def run(context: Context) -> Outcome:
    _, task = trained(context, 56)
    sizes = Sizes()
    task = fewer(task, sizes.images)
    model = mbconv(10, STAGES, head=HEAD, activation="relu")
    return compared(context, trained_once(context, model, task, sizes.dense), task, sizes)


@dataclass(frozen=True)
class Bench:
    """What all parts work on."""

    context: Context
    model: nn.Module
    task: Task
    sizes: Sizes

    def carry_out(self, name: str, model: nn.Module, recipe: Recipe) -> Contender:
        """The recipe, as a user would have it carried out; one that is finished is read back."""
        place = self.place(name)
        recorded(model, self.task, place, recipe=recipe, target=TARGET, batch_size=self.sizes.batch)
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        return Contender(name, Artifact.model_validate(manifest["artifact"]), place)

    def place(self, name: str) -> Path:
        return self.context.kept / name.replace(" ", "-")

    def answers(self, one: Contender) -> str:
        """`1` for every test example that the file gets right on its runtime, else `0`."""
        batches = list(self.task.batches("test"))
        said = outputs(one, batches, 1).argmax(1).tolist()
        true = [label for batch in batches for label in batch.target.tolist()]
        return "".join(str(int(a == b)) for a, b in zip(said, true, strict=True))


def compared(context: Context, model: nn.Module, task: Task, sizes: Sizes) -> Outcome:
    """The experiment for any network."""
    bench = Bench(context, model, task, sizes)
    context.say("search")
    found = remembered(bench.place("search"), lambda folder: searched(bench, folder))
    point = picked(found["trials"], sizes.faster)
    recipes: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
        ORIGINAL: (lambda: model, Recipe([Fold()])),
        OURS: (lambda: model, recovering(Space().recipe(point).steps, sizes.epochs)),
    }
    context.say(OURS)
    right = {name: _answered(bench, name, *recipes[name]) for name in recipes}
    context.say("equal latency")
    share = remembered(
        bench.place("equal"), lambda _: equal(bench, point, bench.carry_out(OURS, model, recipes[OURS][1]))
    )["share"]
    rounding = Space().recipe(Point(precision=point.precision)).steps
    cut = lissom.Prune(ratio=share, scope="local")
    recipes[UNIFORM] = lambda: model, recovering((cut, *rounding), sizes.epochs)
    recipes[NARROW] = (
        lambda: fresh(structure(bench, (cut,)), 0),
        Recipe([lissom.Finetune(**scratch(sizes).model_dump()), *rounding]),
    )
    for name in (UNIFORM, NARROW):
        context.say(name)
        right[name] = _answered(bench, name, *recipes[name])
    context.say("latency")
    samples = remembered(
        bench.place("latency"),
        lambda _: raced(bench, [bench.carry_out(name, make(), recipe) for name, (make, recipe) in recipes.items()]),
    )
    return outcome(sizes, found, point, share, right, samples)


def searched(bench: Bench, folder: Path) -> dict[str, Any]:
    """The record of the product's own search: every candidate."""
    sizes = bench.sizes
    record = recorded(
        bench.model, bench.task, folder, target=TARGET, search="netadapt", budget=sizes.budget,
        goal=lissom.Goal(latency_ratio=sizes.faster, metric_drop=sizes.drop), batch_size=sizes.batch,
    )  # fmt: skip
    return {name: record["search"][name] for name in ("trials", "space", "explanation")}


def picked(trials: Sequence[Mapping[str, Any]], wish: float) -> Point:
    """Of the candidates that keep the wish for latency the best on validation; without one, the fastest."""
    made = [one for one in trials if one["latency_ratio"] is not None]
    kept = [one for one in made if one["latency_ratio"] >= wish]
    best = max(kept, key=lambda one: one["metric"]) if kept else max(made, key=lambda one: one["latency_ratio"])
    return Point.model_validate({**best["point"], "epochs": 0})


def recovering(steps: Sequence[Transform], epochs: int) -> Recipe:
    """One training, taught by the original, between what changes the structure and what folds and rounds."""
    at = next(index for index, step in enumerate(steps) if isinstance(step, Fold))
    training = lissom.Finetune(epochs=epochs, teacher="original")
    return Recipe([*steps[:at], training, *steps[at:]])


def scratch(sizes: Sizes) -> Training:
    return sizes.dense.model_copy(update={"epochs": sizes.dense.epochs + sizes.epochs})


def _answered(bench: Bench, name: str, make: Callable[[], nn.Module], recipe: Recipe) -> list[int]:
    def answered(_: Path) -> str:
        return bench.answers(bench.carry_out(name, make(), recipe))

    return [int(one) for one in remembered(bench.place(name), answered)]


def structure(bench: Bench, steps: Sequence[Transform]) -> nn.Module:
    return transform(bench.model, bench.task, Recipe(steps), load_target(TARGET))[-1].model


def equal(bench: Bench, point: Point, ours: Contender) -> dict[str, Any]:
    """The share of channels with the latency of `ours`, by halving; the nearest that was timed.

    How many channels are cut from each layer depends on no data, and time not on the numbers in what is left: so
    that a cut by magnitude without recovery stands for the one that is trained.
    """
    precision = Space().recipe(Point(precision=point.precision)).steps
    few = replace(bench.task, train=None, calibration=list(bench.task.batches("calibration", limit=32)))
    few = replace(few, feed=lambda batch: batch)
    low, high, looks = 0.0, 0.9, list[dict[str, float]]()
    while len(looks) < LOOKS:
        share = round((low + high) / 2, 4)
        cut = lissom.Prune(ratio=share, scope="local", criterion="magnitude", recovery="none")
        made = transform(bench.model, few, Recipe([cut, *precision]), load_target(TARGET))[-1].model
        narrow = exported(made, bench.task, TARGET, bench.context.scratch, name=f"narrow-{len(looks)}")
        samples = raced(bench, [ours, narrow])
        times = faster(samples, f"{TARGET}/{narrow.name}", f"{TARGET}/{OURS}").value
        bench.context.say(f"{share:.1%} of the channels: {times:.3f} times the latency")
        looks.append({"share": share, "times": times})
        if abs(times - 1) < NEAR or high - low < NEAR:
            break
        low, high = (share, high) if times > 1 else (low, share)
    return {"share": min(looks, key=lambda one: abs(one["times"] - 1))["share"], "looks": looks}


def raced(bench: Bench, contenders: Sequence[Contender]) -> Samples:
    return race(contenders, bench.task.example, bench.sizes.batch, rounds=bench.context.rounds, threads=1)


def outcome(
    sizes: Sizes,
    found: Mapping[str, Any],
    point: Point,
    share: float,
    right: Mapping[str, list[int]],
    samples: Mapping[str, Sequence[float]],
) -> Outcome:
    note = f"batch {sizes.batch}, one thread"
    ratio = faster(samples, f"{TARGET}/{UNIFORM}", f"{TARGET}/{OURS}", note)
    taken = ", ".join(f"{name} {value}" for name, value in point.model_dump(exclude={"epochs"}).items())
    trained = max((int(one["point"]["epochs"]) for one in found["trials"]), default=0)
    return Outcome(
        goal=goal(),
        value={
            "accuracy over uniform scaling": difference(right[OURS], right[UNIFORM]),
            "latencies apart": Figure(value=round(100 * abs(ratio.value - 1), 2), unit="%", note=note),
            "uniform over NetAdapt, latency": ratio,
            "accuracy over the narrow network from scratch": difference(right[OURS], right[NARROW]),
            "accuracy, NetAdapt": Figure(value=percent(right[OURS]), unit="%", note=taken),
            "speed-up, NetAdapt": faster(samples, f"{TARGET}/{ORIGINAL}", f"{TARGET}/{OURS}", note),
            "candidates": Figure(value=len(found["trials"]), note=f"within {sizes.budget}, up to {trained} epochs"),
        },
        reference=(
            Beside(what="NetAdapt over hand-made rates", value=GAIN, unit="points",
                   source="the claim that the goal starts from"),
        ),
        control=(
            Beside(what=ORIGINAL, value=percent(right[ORIGINAL]), unit="%", source=f"{sizes.dense.epochs} epochs"),
            Beside(what=f"{share:.1%} of the channels of every layer", value=percent(right[UNIFORM]), unit="%",
                   source=f"{sizes.epochs} epochs of recovery"),
            Beside(what="the same widths, fresh weights", value=percent(right[NARROW]), unit="%",
                   source=f"{scratch(sizes).epochs} epochs"),
        ),
        seeds=(0,),
        runs=(
            *(Run(name=f"candidate {one['number']}", figures=_figures(one)) for one in found["trials"]),
            *(Run(name=f"latency of {name}", samples_ms=tuple(own)) for name, own in samples.items()),
        ),
    )  # fmt: skip


def _figures(one: Mapping[str, Any]) -> dict[str, float | str]:
    wanted = {"validation": one["metric"], "times faster": one["latency_ratio"], "MACs": one["macs"]}
    made = {name: value for name, value in wanted.items() if value is not None}
    return {**made, "by": one["by"], **one["point"]}
