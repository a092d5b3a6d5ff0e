"""BERT: an encoder of BERT-base's size, 128 tokens, batch 1, int8 static and dynamic, and what bounds the gain."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import peers
from benchmarks.context import Context
from benchmarks.gemm import fully_connected, gemm_ratio
from benchmarks.models import BertEncoder
from benchmarks.protocol import (
    Contender,
    Samples,
    compressed,
    faster,
    folded,
    key,
    made,
    outputs,
    race,
    retarget,
    sqnr_db,
)
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.measure.latency import bootstrap_median
from lissom.recipe import Recipe
from lissom.task import Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

TITLE = "BERT-base-sized encoder with random weights, 128 tokens, batch 1"
NEEDS = ()
TOKENS, VOCABULARY = 128, 30_000
CALIBRATION, TRIED = 32, 8
SEED = 0
TARGETS = ("openvino", "onnxruntime")
NAMES = {"static": "lissom-static", "dynamic": "lissom-dynamic"}

GOAL = Goal(
    text=(
        "the fastest of ours at least 4 times faster than the best fp32 runtime here, or the bound that the "
        "processor's int8 products set, measured; and at least as fast as NNCF (within 3 %)"
    ),
    wishes=(
        Wish(figure="speed-up over the best fp32", at_least=4.0),
        Wish(figure="speed beside NNCF", at_least=0.97),
    ),
)


def run(context: Context) -> Outcome:
    job = task()
    context.say("quantize")
    entrants = contenders(BertEncoder(SEED), job, context)
    tried = peers.random_batches((TOKENS,), TRIED, SEED + 2, vocabulary=VOCABULARY)
    context.say("output errors")
    wanted = outputs(entrants[0], tried, context.threads)
    errors = {key(c): round(sqnr_db(wanted, outputs(c, tried, context.threads)), 2) for c in entrants[1:]}
    context.say("latency")
    samples = race(entrants, job.example, 1, rounds=context.rounds, threads=context.threads, block_ms=200)
    context.say("what bounds it")
    bound = bounded(entrants, job, context)
    return judged(entrants, samples, errors, bound)


def task() -> Task:
    calibration = peers.random_batches((TOKENS,), CALIBRATION, SEED + 1, vocabulary=VOCABULARY)
    return Task(example_inputs=calibration[0].args, calibration=calibration, name="bert-base")


def contenders(model: BertEncoder, job: Task, context: Context) -> list[Contender]:
    folder = context.scratch
    base = folded(model, job, "openvino", folder)
    found = [base, retarget(base, "onnxruntime")]
    for mode, name in NAMES.items():
        for target in TARGETS:
            context.say(f"{name} for {target}")
            recipe = Recipe([Fold(), Quantize(mode="static" if mode == "static" else "dynamic")])
            found.append(compressed(model, job, recipe, target, folder, name=name))
    context.say("peers")
    return [*found, peers.nncf_static(base, job, transformer=True), peers.ort_dynamic(base)]


def bounded(entrants: Sequence[Contender], job: Task, context: Context) -> dict[str, Figure]:
    """Amdahl's law with figures of this machine.

    speed-up <= 1 / (share / ratio + 1 - share)    if only the fully connected layers get faster
    speed-up <= ratio / share                      if everything else cost nothing
    """
    inside = {c.name: fully_connected(c, job.example, context.threads) for c in entrants if _bounded(c)}
    floats, ints = inside["float"], inside[NAMES["static"]]
    ratio, share = floats.ms / ints.ms, floats.share
    times = f"{floats.ms:.1f} ms in float, {ints.ms:.1f} ms in int8"
    return {
        "time in fully connected layers, float": Figure(value=share, unit="share"),
        "time in fully connected layers, int8": Figure(value=ints.share, unit="share"),
        "fully connected layers, float against int8": Figure(value=ratio, unit="x", note=times),
        "one 768 x 3072 layer, float against int8": gemm_ratio(
            TOKENS, 768, 3072, rounds=context.rounds, threads=context.threads
        ),
        "bound if only these layers get faster": Figure(value=1 / (share / ratio + 1 - share), unit="x"),
        "bound if all else cost nothing": Figure(value=ratio / share, unit="x"),
    }


def _bounded(contender: Contender) -> bool:
    return contender.target == "openvino" and contender.name in ("float", NAMES["static"])


def judged(
    entrants: Sequence[Contender], samples: Samples, errors: dict[str, float], bound: dict[str, Figure]
) -> Outcome:
    medians = {k: bootstrap_median(found).median for k, found in samples.items()}
    best = min((k for k in medians if k.endswith("/float")), key=medians.__getitem__)
    ours = min((k for k in medians if "/lissom" in k), key=medians.__getitem__)
    sizes = {key(c): c.artifact.size_bytes for c in entrants}
    value = {
        "speed-up over the best fp32": faster(samples, best, ours, f"{ours} against {best}"),
        "speed beside NNCF": faster(samples, "openvino/nncf", ours, f"{ours} against openvino/nncf"),
        "NNCF over the best fp32": faster(samples, best, "openvino/nncf"),
        "size ratio": Figure(value=sizes[best] / sizes[ours], unit="x"),
    }
    for k in (k for k in medians if "/lissom" in k):
        value[f"{k} over the best fp32"] = faster(samples, best, k)
    value["speed beside ONNX Runtime's tool, dynamic"] = faster(
        samples, "onnxruntime/ort-dynamic", "onnxruntime/lissom-dynamic"
    )
    return Outcome(
        goal=GOAL,
        value=value | bound,
        reference=(
            Beside(
                what="int8 over the best fp32, NNCF + OpenVINO",
                value=4.3,
                unit="x",
                source="GOALS Q1, an earlier run on this machine",
            ),
            *(
                Beside(what=f"output SQNR of {k}", value=errors[k], unit="dB", source="the same run")
                for k in ("openvino/nncf", "onnxruntime/ort-dynamic")
            ),
        ),
        control=tuple(
            Beside(what=f"output SQNR of {k} against float", value=errors[k], unit="dB", source="the same run")
            for k in errors
            if "/lissom" in k
        ),
        seeds=(SEED,),
        runs=tuple(
            Run(
                name=key(c),
                figures=made(c, errors),
                samples_ms=samples[key(c)],
            )
            for c in entrants
        ),
    )
