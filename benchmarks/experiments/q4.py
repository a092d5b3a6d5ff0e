"""Q4, its part with speech: dynamic int8 of an LSTM that hears spoken digits.

Spoken digits (fsdd, the sounds and spectra of S3) reach an LSTM of two layers frame by frame. It is trained here from a
seed. `Quantize(mode="dynamic")` needs no data: its matrices are stored in int8 and restored by the runtime, the linear
layer behind it multiplies integers. Control: the float network on the same runtimes. Beside it, ONNX Runtime's own
`quantize_dynamic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from benchmarks import peers
from benchmarks.context import Context
from benchmarks.dense import trained_once
from benchmarks.experiments import s3
from benchmarks.protocol import Contender, Samples, accuracy, compressed, exported, faster, key, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import torch_threads
from lissom.recipe import Recipe
from lissom.task import Task
from lissom.training.settings import Training

TITLE = "Dynamic int8 of an LSTM on spoken digits (part of Q4)"
NEEDS = ("data",)
TARGETS = ("onnxruntime", "openvino")
DROP_PT, SMALLER = 0.2, 3.0
TRAINING = Training(
    epochs=20, optimizer="adamw", learning_rate=2e-3, weight_decay=1e-3, clip_norm=1.0, precision="float32"
)
RECIPE = Recipe([lissom.Quantize(mode="dynamic")])


class Listener(nn.Module):
    """`(b, 1, 40, frames)` log-mel spectra to `(b, 10)`."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.cell = nn.LSTM(s3.speech.BANDS, width, 2, batch_first=True)
        self.hidden = nn.Linear(width, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        heard, _ = self.cell(x[:, 0].transpose(1, 2))
        return self.out(F.relu(self.hidden(F.dropout(heard.mean(1), 0.3, self.training))))


def goal() -> Goal:
    return Goal(
        text=(
            f"on each runtime an accuracy at most {DROP_PT} points lower on the test split, and a file at least "
            f"{SMALLER:g} times smaller"
        ),
        wishes=(
            *(Wish(figure=f"{target} drop", at_most=DROP_PT) for target in TARGETS),
            *(Wish(figure=f"{target} size", at_least=SMALLER) for target in TARGETS),
        ),
    )


def run(context: Context) -> Outcome:
    task = s3.speech.task(context.folder("data", "fsdd"))
    with torch_threads(1):
        model = trained(context, task, TRAINING)
    return compared(context, model, task)


def trained(context: Context, task: Task, training: Training, width: int = 128) -> nn.Module:
    """Trained once; a killed training goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Listener(width)
    return trained_once(context, model, task, training)


def compared(context: Context, model: nn.Module, task: Task) -> Outcome:
    entrants = contenders(context, model, task, context.scratch)
    right = {}
    for one in entrants:
        context.say(f"accuracy of {key(one)}")
        right[key(one)] = accuracy(one, model, task, context.threads)
    context.say("latency")
    times = race(entrants, task.example, 1, rounds=context.rounds, threads=context.threads)
    return judged(entrants, right, times)


def contenders(context: Context, model: nn.Module, task: Task, folder: Path) -> list[Contender]:
    found: list[Contender] = []
    for target in TARGETS:
        context.say(f"export for {target}")
        found.append(exported(model, task, target, folder, name="float"))
        found.append(compressed(model, task, RECIPE, target, folder))
    return [*found, peers.ort_dynamic(found[0])]


def judged(entrants: Sequence[Contender], right: dict[str, float], times: Samples) -> Outcome:
    sizes = {key(one): one.artifact.size_bytes for one in entrants}
    value: dict[str, Figure] = {}
    for target in TARGETS:
        whole, small = f"{target}/float", f"{target}/lissom"
        value[f"{target} drop"] = Figure(value=round(right[whole] - right[small], 4), unit="points")
        value[f"{target} size"] = Figure(value=round(sizes[whole] / sizes[small], 2), unit="x")
        value[f"{target} speed-up"] = faster(times, whole, small)
    peer = "onnxruntime/ort-dynamic"
    drop = right["onnxruntime/float"] - right[peer]
    return Outcome(
        goal=goal(),
        value=value,
        reference=(
            Beside(
                what="drop with ONNX Runtime's quantize_dynamic",
                value=round(drop, 4),
                unit="points",
                source="the same run",
            ),
            Beside(
                what="times smaller with it",
                value=round(sizes["onnxruntime/float"] / sizes[peer], 2),
                unit="x",
                source="the same run",
            ),
        ),
        control=tuple(
            Beside(what=f"float accuracy on {t}", value=right[f"{t}/float"], unit="%", source="the same run")
            for t in TARGETS
        ),
        seeds=(0,),
        runs=tuple(
            Run(
                name=key(one),
                figures={"accuracy %": round(right[key(one)], 2), "bytes": sizes[key(one)]},
                samples_ms=times[key(one)],
            )
            for one in entrants
        ),
    )
