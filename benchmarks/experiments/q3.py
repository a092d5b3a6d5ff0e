"""Q3: ranges of activations with outliers, beside ONNX Runtime's "Entropy", and what the choice among methods gains.

- Range and time of the entropy search on single tensors with heavy tails. ONNX Runtime's is called as `quantize_static`
  calls it (128 bins, 128 levels), and with 2,048 bins, which is what ours has, in turns on one thread.
- Output error over all calibration examples when one value is rounded: `calibration="auto"` beside min-max, for every
  rounded value of ResNet-20 and ResNet-56 (CIFAR-10), and of two linear layers that read Student's t with three degrees
  of freedom. `auto` itself compared them on a few of the examples.
- Scales after shuffling and batching the data otherwise.
- Peak memory of tracing ResNet-20 and `Quantize.study` on 10,000 images beside 100, each in a process of its own; the
  images are made when they are asked for.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.cifar import project, trained
from benchmarks.context import Context
from benchmarks.peers import quiet
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.functional.calibration import Grid, by_entropy
from lissom.functional.histogram import Histogram, Tally
from lissom.graph.trace import Trace, trace
from lissom.graph.trials import trial_errors
from lissom.measure.footprint import peak_of, report_peak, reset_peak, resident_bytes
from lissom.measure.latency import interleave, paired_ratio
from lissom.target import load_target
from lissom.task import Task, sliced
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize, calibrating, placement
from lissom.transforms.quantization.actions import RoundActivation

TITLE = "Calibration of activations with outliers, beside ONNX Runtime's entropy"
NEEDS = ("data", "weights")
BINS, LEVELS, DEFAULT_BINS = 2048, 128, 128
ROUNDS = 12
FEW, MANY = 100, 10_000
TARGET = "openvino"

GOAL = Goal(
    text=(
        "the entropy range is really narrower than min-max on heavy tails; the automatic choice never makes more "
        f"output error than min-max; the search is at least 100 times faster per tensor than ONNX Runtime's at "
        f"{BINS:,} bins; "
        "10,000 images need at most 1.1 times the memory of 100; order and batches of the data change no scale"
    ),
    wishes=(
        Wish(figure="entropy range / min-max range, widest", at_most=0.9),
        Wish(figure="output error, auto / min-max, worst value", at_most=1.0),
        Wish(figure="entropy search, times faster, worst tensor", at_least=100.0),
        Wish(figure=f"peak memory, {MANY:,} / {FEW} images", at_most=1.1),
        Wish(figure="scales changed by order or batches", at_most=0),
    ),
)


def run(context: Context) -> Outcome:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = [searches(context), choices(context), batching(context), memory(context)]
    finally:
        torch.set_num_threads(threads)
    return Outcome(
        goal=GOAL,
        value={name: figure for part in parts for name, figure in part.value.items()},
        reference=tuple(one for part in parts for one in part.reference),
        control=tuple(one for part in parts for one in part.control),
        seeds=(0,),
        runs=tuple(one for part in parts for one in part.runs),
    )


def _part(value: dict[str, Figure], **more: Any) -> Outcome:
    return Outcome(goal=GOAL, value=value, **{"reference": (), "control": (), "seeds": (), "runs": (), **more})


# Single tensors


def tensors() -> dict[str, Tensor]:
    """Heavy tails, with the signs that activations come in, and a normal distribution with one outlier."""
    made = np.random.default_rng(0)
    tails = torch.from_numpy(made.standard_t(3, 500_000)).float()
    outlier = torch.from_numpy(made.standard_normal(500_000)).float()
    outlier[0] = 50.0
    return {
        "Student's t": tails,
        "Student's t, ReLU": tails.relu(),
        "Student's t, SiLU": torch.nn.functional.silu(tails),
        "normal, one outlier": outlier,
    }


def searches(context: Context) -> Outcome:
    grid = Grid(dtype="int8", symmetric=True)
    widths: list[float] = []
    theirs: list[float] = []
    ratios = []
    runs: list[Run] = []
    for name, values in tensors().items():
        seen = _histogram(values)
        low, high = by_entropy(seen, grid)
        widths.append(_width(low, high, seen))
        theirs.append(_width(*_ort_range(values, DEFAULT_BINS), seen))
        collector, histogram = _ort(values, BINS)
        samples = interleave(
            {
                "lissom": lambda seen=seen: by_entropy(seen, grid),
                "onnxruntime": lambda c=collector, h=histogram: c.get_entropy_threshold(h, LEVELS),
            },
            rounds=ROUNDS,
        )
        ratios.append(paired_ratio(samples["onnxruntime"], samples["lissom"]))
        context.say(f"{name}: [{low:.2f}, {high:.2f}] of [{seen.low:.2f}, {seen.high:.2f}], {ratios[-1].median:.0f} x")
        for who, range_ in (("lissom", (low, high)), ("onnxruntime", _ort_range(values, BINS))):
            figures: dict[str, float | str] = {"low": round(range_[0], 3), "high": round(range_[1], 3)}
            runs.append(Run(name=f"{name}, {who}, {BINS} bins", figures=figures, samples_ms=samples[who]))
    worst = min(ratios, key=lambda one: one.median)
    return _part(
        {
            "entropy range / min-max range, widest": Figure(value=round(max(widths), 4)),
            "entropy search, times faster, worst tensor": Figure.of(worst),
            "entropy search, one tensor": Figure(
                value=round(max(statistics.median(r.samples_ms) for r in runs if "lissom" in r.name), 3), unit="ms"
            ),
        },
        reference=(
            Beside(
                what="entropy range / min-max range, narrowest, ONNX Runtime's default of 128 bins",
                value=round(min(theirs), 4),
                source="the same tensors",
            ),
            Beside(
                what=f"entropy search at {BINS:,} bins, one tensor",
                value=round(max(statistics.median(r.samples_ms) for r in runs if "onnxruntime" in r.name), 1),
                unit="ms",
                source="ONNX Runtime, the same run",
            ),
        ),
        runs=tuple(runs),
    )


def _histogram(values: Tensor) -> Histogram:
    tally = Tally()
    tally.add_(values)
    return tally.histogram()


def _width(low: float, high: float, seen: Histogram) -> float:
    return (high - low) / (seen.high - seen.low)


def _ort(values: Tensor, bins: int) -> tuple[Any, Any]:
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector: Any = HistogramCollector("entropy", False, bins, LEVELS, 99.999, "same")
    with quiet():
        collector.collect({"x": [values.numpy()]})
    return collector, collector.histogram_dict["x"]


def _ort_range(values: Tensor, bins: int) -> tuple[float, float]:
    collector, histogram = _ort(values, bins)
    low, high = collector.get_entropy_threshold(histogram, LEVELS)[:2]
    return float(low), float(high)


# The choice among methods


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def networks(context: Context) -> Iterator[tuple[str, nn.Module, Task]]:
    torch.manual_seed(0)
    x = torch.from_numpy(np.random.default_rng(1).standard_t(3, (512, 8, 64))).float()
    yield "linear layers", Layers().eval(), Task(example_inputs=(x[:1],), calibration=list(x.split(64)))
    for depth in (20, 56):
        yield f"resnet{depth}", *trained(context, depth)


def choices(context: Context) -> Outcome:
    table = load_target(TARGET)
    worst: dict[str, float] = {}
    mean: dict[str, list[float]] = {}
    chosen: dict[str, int] = {}
    runs: list[Run] = []
    for name, model, task in networks(context):
        made = _folded(model, task)
        quantize = Quantize(corrections=())
        study = quantize.study(made.module, made, task, table)
        plan = quantize.plan(made.graph, study, table)
        actions: dict[str, str] = {a.value: a.method for a in plan.of(RoundActivation)}
        points = placement.points(made.graph, placement.partition(made.graph, table.integers.ops, table, ())[0], table)
        ways = calibrating.ways(study, points, table.integers, quantize.percentile)
        found = trial_errors(made, _singles(task, quantize.samples), calibrating.probes(made.graph, points), ways)
        for point in points:
            errors = {
                way: trial.outputs / found[point.root]["minmax"].outputs for way, trial in found[point.root].items()
            }
            errors["auto"] = errors[actions[point.value]]
            chosen[actions[point.value]] = chosen.get(actions[point.value], 0) + 1
            for way, error in errors.items():
                worst[way] = max(worst.get(way, 0.0), error)
                mean.setdefault(way, []).append(error)
            figures: dict[str, float | str] = {"chosen": actions[point.value]}
            figures |= {f"{way} / min-max": round(error, 4) for way, error in errors.items() if way != "minmax"}
            runs.append(Run(name=f"{name}, {point.value}", figures=figures))
        context.say(f"{name}: worst so far {worst['auto']:.4f}")
    others = [way for way in worst if way not in ("auto", "minmax")]
    source = "the same networks, that method for every value"
    return _part(
        {
            "output error, auto / min-max, worst value": Figure(value=round(worst["auto"], 6)),
            "output error, auto / min-max, geometric mean": Figure(value=_geometric(mean["auto"])),
            "values with another range than min-max": Figure(
                value=sum(n for way, n in chosen.items() if way != "minmax"), note=f"of {sum(chosen.values())}"
            ),
        },
        control=tuple(
            Beside(what=f"output error, {way} / min-max, {what}", value=figure, source=source)
            for way in others
            for what, figure in (("worst value", round(worst[way], 4)), ("geometric mean", _geometric(mean[way])))
        ),
        runs=tuple(runs),
    )


def _geometric(ratios: list[float]) -> float:
    return round(statistics.geometric_mean(max(one, 1e-12) for one in ratios), 4)


def _folded(model: nn.Module, task: Task) -> Trace:
    plain = trace(model, task.example)
    plan = Fold().plan(plain.graph, None, load_target(TARGET))
    return trace(Fold().apply(model, plan, plain, task), task.example)


def _singles(task: Task, count: int) -> Iterator[list[Any]]:
    for batch in task.batches("calibration", limit=count):
        for index in range(batch.size):
            yield pytree.tree_leaves(sliced(batch, index, index + 1).args)


# What must not matter


def batching(context: Context) -> Outcome:
    model, task = trained(context, 20)
    made, table, quantize = _folded(model, task), load_target(TARGET), Quantize(corrections=())
    images = torch.cat([batch.args[0] for batch in task.batches("calibration", limit=quantize.samples)])
    found: list[list[Any]] = []
    for size in (len(images), 1, 7, 64):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(size))
        again = Task(example_inputs=task.example_inputs, calibration=list(images[order].split(size)))
        plan = quantize.plan(made.graph, quantize.study(made.module, made, again, table), table)
        found.append([action.numbers for action in plan.of(RoundActivation)])
    changed = sum(one != first for other in found[1:] for one, first in zip(other, found[0], strict=True))
    context.say(f"batches: {changed} scales changed")
    return _part({"scales changed by order or batches": Figure(value=changed, note="four orders and batch sizes")})


class Images:
    """Batches of random images, made when they are asked for: the data themselves take no memory."""

    def __init__(self, count: int, size: int = 50) -> None:
        self.count, self.size = count, size

    def __iter__(self) -> Iterator[Tensor]:
        made = torch.Generator().manual_seed(0)
        for _ in range(self.count // self.size):
            yield torch.randn(self.size, 3, 32, 32, generator=made)


def memory(context: Context) -> Outcome:
    taken: dict[int, int] = {}
    for count in (FEW, MANY):
        context.say(f"memory: {count:,} images")
        taken[count] = peak_of(["-m", __name__, str(count)], timeout_s=3600)
    ratio = taken[MANY] / taken[FEW]
    return _part(
        {
            f"peak memory, {MANY:,} / {FEW} images": Figure(
                value=round(ratio, 4), note="tracing ResNet-20 and calibrating, above a process with all imports"
            ),
            f"peak memory, {MANY:,} images": Figure(value=round(taken[MANY] / 2**20, 1), unit="MiB"),
        },
        runs=tuple(Run(name=f"study, {n:,} images", figures={"bytes": float(b)}) for n, b in taken.items()),
    )


def calibrate(count: int) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build, table = project().ResNet, load_target(TARGET)
    reset_peak()
    baseline = resident_bytes()
    task = Task(example_inputs=(torch.randn(1, 3, 32, 32),), calibration=Images(count))
    made = _folded(build(20).eval(), task)
    Quantize(samples=count, corrections=()).study(made.module, made, task, table)
    report_peak(baseline)


if __name__ == "__main__":
    calibrate(int(sys.argv[1]))
