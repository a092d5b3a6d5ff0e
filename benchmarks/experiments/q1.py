"""Q1: int8 of two encoders against the best float runtime, static and dynamic, beside the field's quantizers.

`BERT`: the size of BERT-base with random weights, 128 tokens, so no accuracy; what its answers lose is an SQNR.
`MiniLM`: fine-tuned on SST-2 (`benchmarks.minilm`), 32 tokens, accuracy of every file on the test split, sentence by
sentence, in the runtime itself. Of four files (static and dynamic, for OpenVINO and ONNX Runtime) the fastest is ours;
its size and its accuracy are judged, so that no file is the fast one and another one the small one. All figures are at
batch 1. Controls: the float files on both runtimes. The dynamic files of MiniLM are the other half of Q4, beside the
LSTM, and are judged by its bounds too.

Parity: how far the runtime's outputs are from torch's simulation of the same file, in steps of 1/255 of their range.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks import minilm, peers, protocol
from benchmarks.answers import difference, percent
from benchmarks.context import Context
from benchmarks.experiments import bert, q4
from benchmarks.models import BertEncoder
from benchmarks.protocol import (
    Contender,
    Samples,
    answers,
    exported,
    faster,
    folded,
    key,
    outputs,
    race,
    retarget,
    sqnr_db,
)
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.export.base import Artifact
from lissom.files import write_text
from lissom.graph.trace import evaluation
from lissom.measure.latency import bootstrap_median
from lissom.measure.quality import parity
from lissom.measure.records import Parity
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.settings import Setting
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

TITLE = "Int8 of an encoder of BERT-base's size (random weights), and of MiniLM on SST-2 (its dynamic part is Q4's)"
NEEDS = minilm.NEEDS
NETWORKS = ("BERT", "MiniLM")
TRIED = 64
"""Sentences that the runtimes and their simulations are compared on."""
RECIPES = {
    bert.NAMES["static"]: Recipe([Fold(), Quantize()]),
    bert.NAMES["dynamic"]: Recipe([Fold(), Quantize(mode="dynamic")]),
}
PEERS = ("openvino/nncf", "onnxruntime/ort-dynamic")
SMALLER, FASTER, BESIDE, DROP_PT, STEPS = 3.9, 4.3, 0.97, 0.3, 1.0
DYNAMIC = tuple(f"{target}/{bert.NAMES['dynamic']}" for target in bert.TARGETS)


def goal() -> Goal:
    return Goal(
        text=(
            f"the fastest of ours at least {FASTER:g} times faster than the best fp32 runtime here and "
            f"{SMALLER:g} times smaller, as fast as NNCF within {1 - BESIDE:.0%}, at most {DROP_PT:g} points of "
            f"accuracy lost on the test split, every file of ours within {STEPS:g} step of its simulation in the mean; "
            f"MiniLM with ranges at run time at most {q4.DROP_PT:g} points lower and {q4.SMALLER:g} times smaller (Q4)"
        ),
        wishes=(
            *(Wish(figure=f"{net} speed-up over the best fp32", at_least=FASTER) for net in NETWORKS),
            *(Wish(figure=f"{net} speed beside NNCF", at_least=BESIDE) for net in NETWORKS),
            *(Wish(figure=f"{net} size", at_least=SMALLER) for net in NETWORKS),
            Wish(figure="MiniLM drop", at_most=DROP_PT),
            *(Wish(figure=f"{net} steps from the simulation", at_most=STEPS) for net in NETWORKS),
            *(Wish(figure=f"MiniLM drop, {k}", at_most=q4.DROP_PT) for k in DYNAMIC),
            *(Wish(figure=f"MiniLM size, {k}", at_least=q4.SMALLER) for k in DYNAMIC),
        ),
    )


class Files(Setting):
    """Of one network: the files, and all that was found of them but their latency, by the contender's key.

    Kept with the files, so that a killed experiment goes on: making them takes longer than timing them.
    """

    artifacts: dict[str, tuple[str, Artifact, float]]
    """Name, file, and the seconds that it took."""
    errors: dict[str, float]
    """SQNR in dB against the float file."""
    parities: dict[str, Parity]
    right: dict[str, list[int]]
    """Answers of the test split; empty where there is none."""

    def entrants(self, folder: Path) -> list[Contender]:
        return [Contender(name, artifact, folder, seconds) for name, artifact, seconds in self.artifacts.values()]


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured of one network."""

    files: Files
    entrants: Sequence[Contender]
    samples: Samples


def run(context: Context) -> Outcome:
    nets = {"MiniLM": _minilm(context), "BERT": _bert()}
    files = {name: made(context, name, *net) for name, net in nets.items()}
    found = {name: timed(context, name, files[name], net[1].example) for name, net in nets.items()}
    context.say("BERT: what bounds it")
    bound = bert.bounded(found["BERT"].entrants, nets["BERT"][1], context)
    return outcome({name: found[name] for name in NETWORKS}, {f"BERT, {what}": one for what, one in bound.items()})


def _bert() -> tuple[nn.Module, Task, list[Batch]]:
    tried = peers.random_batches((bert.TOKENS,), bert.TRIED, bert.SEED + 2, vocabulary=bert.VOCABULARY)
    return BertEncoder(bert.SEED), bert.task(), tried


def _minilm(context: Context) -> tuple[nn.Module, Task, list[Batch]]:
    model, train, test = minilm.trained(context)
    # Of the training split: what the runtimes agree on is no test of the network.
    apart = train.ids[minilm.CALIBRATION : minilm.CALIBRATION + TRIED]
    return model, minilm.task(train, test), [Batch((one,)) for one in apart.split(1)]


def made(context: Context, name: str, model: nn.Module, task: Task, tried: Sequence[Batch]) -> Files:
    folder = context.kept / name
    record = folder / "files.json"
    if not record.is_file():
        write_text(record, _made(context, name, folder, model, task, tried).model_dump_json())
    return Files.model_validate_json(record.read_text(encoding="utf-8"))


def _made(context: Context, name: str, folder: Path, model: nn.Module, task: Task, tried: Sequence[Batch]) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    context.say(f"{name}: float")
    base = folded(model, task, "openvino", folder)
    entrants = [base, retarget(base, "onnxruntime")]
    parities: dict[str, Parity] = {}
    for kind, recipe in RECIPES.items():
        for target in bert.TARGETS:
            context.say(f"{name}: {kind} for {target}")
            ours, found = simulated(model, task, recipe, target, folder, kind, tried)
            entrants.append(ours)
            parities[key(ours)] = found
    context.say(f"{name}: peers")
    entrants += [peers.nncf_static(base, task, transformer=True), peers.ort_dynamic(base)]
    context.say(f"{name}: outputs")
    wanted = outputs(base, tried, 1)
    errors = {key(c): round(sqnr_db(wanted, outputs(c, tried, 1)), 2) for c in entrants[1:]}
    right: dict[str, list[int]] = {}
    for one in entrants if task.has("test") else ():
        context.say(f"{name}: accuracy of {key(one)}")
        right[key(one)] = answers(one, model, task, 1)
    artifacts = {key(one): (one.name, one.artifact, one.seconds) for one in entrants}
    return Files(artifacts=artifacts, errors=errors, parities=parities, right=right)


def timed(context: Context, name: str, files: Files, example: Batch) -> Found:
    context.say(f"{name}: latency")
    entrants = files.entrants(context.kept / name)
    samples = race(entrants, example, 1, rounds=context.rounds, threads=context.threads, block_ms=200)
    return Found(files, entrants, samples)


def simulated(
    model: nn.Module, task: Task, recipe: Recipe, target: str, folder: Path, name: str, tried: Sequence[Batch]
) -> tuple[Contender, Parity]:
    """A file of ours, and how far its runtime is from the simulation it was written from."""
    started = time.perf_counter()
    rounded = transform(model, task, recipe, load_target(target))[-1].model
    ours = exported(rounded, task, target, folder, name=name, started=started)
    with torch.no_grad(), evaluation(rounded):
        foretold = torch.cat([rounded(*batch.args) for batch in tried]).numpy()
    return ours, parity([foretold], [outputs(ours, tried, 1)])


def outcome(parts: Mapping[str, Found], more: Mapping[str, Figure]) -> Outcome:
    value: dict[str, Figure] = {}
    reference: list[Beside] = []
    control: list[Beside] = []
    runs: list[Run] = []
    for name, found in parts.items():
        value |= figures(name, found)
        besides = list(_besides(name, found))
        reference += [one for one, ours in besides if not ours]
        control += [one for one, ours in besides if ours]
        runs += _runs(name, found)
    return Outcome(
        goal=goal(),
        value={**value, **more},
        reference=tuple(reference),
        control=tuple(control),
        seeds=(bert.SEED,),
        runs=tuple(runs),
    )


def figures(name: str, found: Found) -> dict[str, Figure]:
    samples = found.samples
    medians = {k: bootstrap_median(times).median for k, times in samples.items()}
    best = min((k for k in medians if k.endswith("/float")), key=medians.__getitem__)
    ours = min((k for k in medians if "/lissom" in k), key=medians.__getitem__)
    sizes = {key(c): c.artifact.size_bytes for c in found.entrants}
    worst = max(found.files.parities, key=lambda k: found.files.parities[k].mean_steps)
    value = {
        f"{name} speed-up over the best fp32": faster(samples, best, ours, f"{ours} against {best}"),
        f"{name} speed beside NNCF": faster(samples, "openvino/nncf", ours, f"{ours} against openvino/nncf"),
        f"{name} size": Figure(value=round(sizes[best] / sizes[ours], 3), unit="x", note=ours),
        f"{name} steps from the simulation": Figure(
            value=round(found.files.parities[worst].mean_steps, 4),
            unit="steps",
            note=f"mean of the worst, {worst}; the largest difference {found.files.parities[worst].max_steps:.2g}",
        ),
        f"{name} speed beside ONNX Runtime's tool, dynamic": faster(
            samples, "onnxruntime/ort-dynamic", "onnxruntime/lissom-dynamic"
        ),
    }
    for k in (k for k in medians if not k.endswith("/float")):
        value[f"{name}, {k} over the best fp32"] = faster(samples, best, k)
        value[f"{name} size, {k}"] = Figure(value=round(sizes[best] / sizes[k], 3), unit="x")
    if found.files.right:
        value[f"{name} drop"] = _lost(found, ours)
        for k in (k for k in found.files.right if not k.endswith("/float")):
            value[f"{name} drop, {k}"] = _lost(found, k)
    return value


def _lost(found: Found, k: str) -> Figure:
    """Points of accuracy, paired by sentence, below the float file on the same runtime."""
    whole = k.split("/")[0] + "/float"
    return difference(found.files.right[whole], found.files.right[k]).model_copy(
        update={"note": f"{k} against {whole}"}
    )


def _besides(name: str, found: Found) -> list[tuple[Beside, bool]]:
    """Errors of ours and of the peers, accuracies in float; whether each is ours."""
    same = "the same run"
    errors = [
        (Beside(what=f"{name}: output SQNR of {k} against float", value=db, unit="dB", source=same), k not in PEERS)
        for k, db in found.files.errors.items()
        if not k.endswith("/float")
    ]
    floats = [k for k in found.files.right if k.endswith("/float")]
    return errors + [
        (Beside(what=f"{name}: accuracy of {k}", value=percent(found.files.right[k]), unit="%", source=same), True)
        for k in floats
    ]


def _runs(name: str, found: Found) -> list[Run]:
    runs: list[Run] = []
    for one in found.entrants:
        k = key(one)
        more: dict[str, float | str] = {}
        if k in found.files.right:
            more["accuracy %"] = percent(found.files.right[k])
        if k in found.files.parities:
            more["steps from the simulation, mean"] = round(found.files.parities[k].mean_steps, 4)
        runs.append(
            Run(
                name=f"{name}: {k}",
                figures={**protocol.made(one, found.files.errors), **more},
                samples_ms=found.samples[k],
            )
        )
    return runs
