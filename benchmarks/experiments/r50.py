"""R50: the same comparison at ImageNet size, and what quantizing costs in time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

from torch import nn

from benchmarks import peers
from benchmarks.context import Context
from benchmarks.experiments.q2 import contenders
from benchmarks.models import resnet50
from benchmarks.protocol import Contender, Samples, faster, key, made, outputs, race, sqnr_db
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe
from lissom.task import Batch, Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

TITLE = "Static int8 of a ResNet-50 with random weights, 224 x 224"
NEEDS = ()
IMAGE = (3, 224, 224)
CALIBRATION, TRIED = 64, 16
SEED = 0
GIB = 2**30

GOAL = Goal(
    text=(
        "OpenVINO latency within 3 % of NNCF's at batch 1 and 8; quantizing and exporting in under 60 s and under "
        "4 GiB of peak resident memory, in a fresh process, torch included"
    ),
    wishes=(
        Wish(figure="speed beside NNCF, batch 1", at_least=0.97),
        Wish(figure="speed beside NNCF, batch 8", at_least=0.97),
        Wish(figure="quantize and export", at_most=60),
        Wish(figure="peak memory", at_most=4),
    ),
)


def task() -> Task:
    calibration = peers.random_batches(IMAGE, CALIBRATION, SEED + 1)
    return Task(example_inputs=calibration[0].args, calibration=calibration, name="resnet50")


def run(context: Context) -> Outcome:
    context.say("quantize in a fresh process")
    seconds, peak = _fresh(context)
    model, job = resnet50(SEED), task()
    context.say("quantize, ours and the peers'")
    entrants = contenders(model, job, context.scratch)
    tried = peers.random_batches(IMAGE, TRIED, SEED + 2)
    times: dict[int, Samples] = {}
    for batch in (1, 8):
        context.say(f"latency at batch {batch}")
        times[batch] = race(entrants, job.example, batch, rounds=context.rounds, threads=context.threads)
    errors = _errors(entrants, tried, context.threads)
    value = {
        "quantize and export": Figure(value=round(seconds, 2), unit="s"),
        "peak memory": Figure(value=round(peak / GIB, 3), unit="GiB"),
        "size ratio": Figure(value=entrants[0].artifact.size_bytes / entrants[2].artifact.size_bytes, unit="x"),
    }
    for batch, samples in times.items():
        value[f"speed beside NNCF, batch {batch}"] = faster(samples, "openvino/nncf", "openvino/lissom")
        for target in ("openvino", "onnxruntime"):
            value[f"{target} speed-up, batch {batch}"] = faster(samples, f"{target}/float", f"{target}/lissom")
        value[f"speed beside ONNX Runtime's tool, batch {batch}"] = faster(
            samples, "onnxruntime/ort-static", "onnxruntime/lissom"
        )
    return Outcome(
        goal=GOAL,
        value=value,
        reference=tuple(
            Beside(what=f"output SQNR of {k}", value=errors[k], unit="dB", source="the same run")
            for k in ("openvino/nncf", "openvino/nncf-mixed", "onnxruntime/ort-static")
        ),
        control=tuple(
            Beside(
                what=f"output SQNR of ours on {t}, against float",
                value=errors[f"{t}/lissom"],
                unit="dB",
                source="the same run; random weights, so no accuracy",
            )
            for t in ("openvino", "onnxruntime")
        ),
        seeds=(SEED,),
        runs=tuple(
            Run(
                name=f"{key(c)} batch {batch}",
                figures=made(c, errors),
                samples_ms=samples[key(c)],
            )
            for batch, samples in times.items()
            for c in entrants
        ),
    )


def _errors(entrants: list[Contender], tried: list[Batch], threads: int) -> dict[str, float]:
    wanted = outputs(entrants[0], tried, threads)
    return {key(c): round(sqnr_db(wanted, outputs(c, tried, threads)), 2) for c in entrants[1:]}


def _fresh(context: Context) -> tuple[float, int]:
    """Seconds and peak resident bytes of quantizing and exporting, in a process that does nothing else."""
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", str(context.scratch / "cost")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(child.stdout.strip().splitlines()[-1])
    return found["seconds"], found["peak_bytes"]


def quantized(model: nn.Module, folder: str) -> None:
    """What `benchmarks.cost` times."""
    from pathlib import Path

    from benchmarks.protocol import compressed

    compressed(model, task(), Recipe([Fold(), Quantize()]), "openvino", Path(folder))
