"""Q2: static int8 after training, ResNet-20 and ResNet-56 on CIFAR-10, beside NNCF and ONNX Runtime's own tool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from benchmarks import peers
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.protocol import Contender, Samples, accuracy, compressed, faster, folded, key, race, retarget
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe
from lissom.task import Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

TITLE = "Static int8 after training: ResNet-20 and ResNet-56 on CIFAR-10"
NEEDS = ("data", "weights")
DEPTHS = (20, 56)
TARGETS = ("openvino", "onnxruntime")
BATCHES = (1, 64)
DROP_PT, SIZE, SPEED = 0.1, 3.3, 0.97


def run(context: Context) -> Outcome:
    value: dict[str, Figure] = {}
    reference: list[Beside] = list(PUBLISHED)
    control: list[Beside] = []
    runs: list[Run] = []
    for depth in DEPTHS:
        found = _network(context, depth)
        value |= found.value
        reference += found.reference
        control += found.control
        runs += found.runs
    return Outcome(
        goal=goal(),
        value=value,
        reference=tuple(reference),
        control=tuple(control),
        seeds=(0,),
        runs=tuple(runs),
    )


def goal() -> Goal:
    return Goal(
        text=(
            f"accuracy drop of at most {DROP_PT} points on each runtime (final goal 0.05), ResNet-20 at least {SIZE} "
            f"times smaller, OpenVINO latency within 3 % of NNCF's (ratio >= {SPEED}) at batch 1 and 64"
        ),
        wishes=(
            *(Wish(figure=f"resnet{d} {t} drop", at_most=DROP_PT) for d in DEPTHS for t in TARGETS),
            Wish(figure="resnet20 size ratio", at_least=SIZE),
            *(Wish(figure=f"resnet{d} speed beside NNCF, batch {b}", at_least=SPEED) for d in DEPTHS for b in BATCHES),
        ),
    )


PUBLISHED = (
    Beside(what="resnet20 float accuracy", value=91.73, unit="%", source="akamaster/pytorch_resnet_cifar10"),
    Beside(what="resnet56 float accuracy", value=93.39, unit="%", source="akamaster/pytorch_resnet_cifar10"),
)


def _network(context: Context, depth: int) -> Outcome:
    name = f"resnet{depth}"
    context.say(f"{name}: quantize")
    model, task = trained(context, depth)
    folder = context.scratch / name
    entrants = contenders(model, task, folder)
    right = {}
    for one in entrants:
        context.say(f"{name}: accuracy of {key(one)}")
        right[key(one)] = accuracy(one, model, task, context.threads)
    times: dict[int, Samples] = {}
    for batch in BATCHES:
        context.say(f"{name}: latency at batch {batch}")
        times[batch] = race(entrants, task.example, batch, rounds=context.rounds, threads=context.threads)
    return judged(name, entrants, right, times)


def contenders(model: nn.Module, task: Task, folder: Path) -> list[Contender]:
    """Float, ours and the peers, all from the same folded float model."""
    recipe = Recipe([Fold(), Quantize()])
    base = folded(model, task, "openvino", folder)
    ours = [compressed(model, task, recipe, target, folder) for target in TARGETS]
    rivals = [
        peers.nncf_static(base, task),
        peers.nncf_static(base, task, preset="mixed"),
        peers.ort_static(base, task),
    ]
    return [base, retarget(base, "onnxruntime"), *ours, *rivals]


def judged(name: str, entrants: list[Contender], right: dict[str, float], times: dict[int, Samples]) -> Outcome:
    """Figures of one network from what was measured."""
    sizes = {key(c): c.artifact.size_bytes for c in entrants}
    value: dict[str, Figure] = {
        f"{name} {t} drop": Figure(value=round(right[f"{t}/float"] - right[f"{t}/lissom"], 4), unit="points")
        for t in TARGETS
    }
    value[f"{name} size ratio"] = Figure(value=sizes["openvino/float"] / sizes["openvino/lissom"], unit="x")
    for batch, samples in times.items():
        value[f"{name} speed beside NNCF, batch {batch}"] = faster(samples, "openvino/nncf", "openvino/lissom")
        for target in TARGETS:
            value[f"{name} {target} speed-up, batch {batch}"] = faster(samples, f"{target}/float", f"{target}/lissom")
        value[f"{name} speed beside ONNX Runtime's tool, batch {batch}"] = faster(
            samples, "onnxruntime/ort-static", "onnxruntime/lissom"
        )
    return Outcome(
        goal=goal(),
        value=value,
        reference=tuple(_rivals(name, right)),
        control=tuple(
            Beside(what=f"{name} float accuracy on {t}", value=right[f"{t}/float"], unit="%", source="the same run")
            for t in TARGETS
        ),
        seeds=(),
        runs=tuple(
            Run(
                name=f"{name} {key(c)} batch {batch}",
                figures={"accuracy %": right[key(c)], "bytes": sizes[key(c)], "seconds to make": round(c.seconds, 2)},
                samples_ms=samples[key(c)],
            )
            for batch, samples in times.items()
            for c in entrants
        ),
    )


def _rivals(name: str, right: dict[str, float]) -> Iterator[Beside]:
    for rival in ("openvino/nncf", "openvino/nncf-mixed", "onnxruntime/ort-static"):
        target = rival.split("/")[0]
        drop = round(right[f"{target}/float"] - right[rival], 4)
        yield Beside(what=f"{name} drop with {rival}", value=drop, unit="points", source="the same run")
