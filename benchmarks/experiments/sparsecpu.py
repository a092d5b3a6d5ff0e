"""SPARSECPU: what zeros are worth on a CPU, anywhere or in blocks, beside the same network dense.

The feed-forward layers of a BERT-base, `BLOCKS` times 768 to 3072 to 768 with ReLU, random weights, in float and in
static int8, one thread, batch 1 and a sentence of 64 tokens. `Sparsify` by magnitude: `RATIOS` of the weights zero
anywhere, and in blocks of 4 outputs by 1 input. ONNX Runtime has nothing for zeros. OpenVINO can keep sparse int8
weights of linear layers packed and unpack them in the kernel (`CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE`, for AMX): every
sparse int8 file is compiled with and without it, at a fixed shape, and the kernels that were taken are read back. All
contenders of a batch are interleaved in one process, and what counts is the processor time of a call, which neighbours
on the machine lengthen by the caches alone. Where the same kernels run, what differs is the machine's: "dense again"
is the control for that. "packed file": the int8 file through zlib.
"""

from __future__ import annotations

import gc
import itertools
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lissom
from benchmarks.context import Context, remembered
from benchmarks.protocol import Contender, compressed, faster, retarget
from benchmarks.results import Beside, Figure, Goal, Outcome, Run
from lissom.export.base import Array
from lissom.graph.trace import torch_threads
from lissom.recipe import Recipe
from lissom.task import Task

TITLE = "Zeros on a CPU: anywhere and in blocks, float and int8, two runtimes"
NEEDS = ()
WIDTH, INNER, BLOCKS = 768, 3072, 2
RATIOS = (0.8, 0.9)
FORMS: Mapping[str, str | None] = {"anywhere": None, "4x1": "4x1"}
BATCHES = (1, 64)
CALLS = 5
RATE = 0.5
"""Share of zeros from which OpenVINO is to keep a layer's weights packed."""
GOAL = Goal(text="a record: whether 80 or 90 % of zeros make a CPU runtime faster, anywhere or in blocks")


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH), nn.ReLU()) for _ in range(BLOCKS)]
    return nn.Sequential(*itertools.chain(*blocks)).eval()


def task() -> Task:
    draws = torch.Generator().manual_seed(1)
    data = [torch.randn(64, WIDTH, generator=draws).relu() for _ in range(4)]
    return Task(example_inputs=(data[0][:1],), calibration=data)


def variants() -> dict[str, list[Any]]:
    sparse = {
        f"{ratio:.0%} {form}": [lissom.Sparsify(ratio=ratio, pattern=pattern)]
        for ratio in RATIOS
        for form, pattern in FORMS.items()
    }
    return {"dense": [], "dense again": [], **sparse}


def run(context: Context) -> Outcome:
    with torch_threads(1):
        found = remembered(context.kept, lambda _: measured(context))
    value: dict[str, Figure] = {}
    runs: list[Run] = []
    other: list[str] = []
    for batch, samples in found["samples"].items():
        for name, own in samples.items():
            kind, _, variant = name.partition(": ")
            kernel = found["kernels"].get(name, "")
            runs.append(Run(name=f"batch {batch}, {name}", figures={"kernel": kernel}, samples_ms=tuple(own)))
            if variant != "dense":
                # Packed weights are compared with what the runtime does to a dense network by itself.
                slow = f"{kind.removesuffix(', packed weights')}: dense"
                value[f"batch {batch}, {name}: dense / sparse"] = faster(samples, slow, name)
                other += [name] if kernel != found["kernels"].get(slow, "") else []
    compared = [figure.value for figure in value.values()]
    value["least dense / sparse"] = Figure(value=round(min(compared), 3), unit="x", note=f"of {len(compared)}")
    value["most dense / sparse"] = Figure(value=round(max(compared), 3), unit="x", note=f"of {len(compared)}")
    value["other kernels for zeros"] = Figure(value=len(other), note=", ".join(other))
    for variant, bytes_ in found["packed"].items():
        value[f"{variant}: packed file, times smaller than dense"] = Figure(
            value=round(found["packed"]["dense"] / bytes_, 3), unit="x"
        )
    control = (Beside(what="int8 file, dense and sparse", value=found["bytes"], unit="bytes", source="the same run"),)
    return Outcome(goal=GOAL, value=value, reference=(), control=control, seeds=(0,), runs=tuple(runs))


def measured(context: Context) -> dict[str, Any]:
    model, job = network(), task()
    files: dict[str, Contender] = {}
    for variant, steps in variants().items():
        context.say(f"{variant}: write")
        for kind, more in (("float", []), ("int8", [lissom.Quantize(calibration="minmax", corrections=())])):
            place = context.scratch / f"{kind}-{len(files)}"
            files[f"{kind}: {variant}"] = compressed(
                model, job, Recipe([lissom.Fold(), *steps, *more]), "openvino", place
            )
    kernels: dict[str, str] = {}
    samples: dict[str, Any] = {}
    for batch in BATCHES:
        calls: dict[str, Callable[[], object]] = {}
        x = np.random.default_rng(batch).random((batch, WIDTH), dtype=np.float32)
        for name, one in files.items():
            calls[f"ONNX Runtime {name}"] = _onnxruntime(one, x)
            calls[f"OpenVINO {name}"], kernels[f"OpenVINO {name}"] = openvino(one, x, None)
            if name.startswith("int8") and not name.endswith("dense"):
                packed = f"OpenVINO int8, packed weights: {name.partition(': ')[2]}"
                calls[packed], kernels[packed] = openvino(one, x, RATE)
        gc.collect()
        context.say(f"batch {batch}: {len(calls)} contenders in turns")
        samples[str(batch)] = in_turns(calls, context.rounds)
    packed_bytes = {
        name.partition(": ")[2]: len(zlib.compress((one.folder / one.artifact.files[0]).read_bytes(), 6))
        for name, one in files.items()
        if name.startswith("int8")
    }
    return {
        "samples": samples,
        "kernels": kernels,
        "packed": packed_bytes,
        "bytes": files["int8: dense"].artifact.size_bytes,
    }


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of processor time a call; in every round all, in the order of the one before turned round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            calls[name]()  # what the one before left in the caches is not counted
            began = time.process_time()
            for _ in range(CALLS):
                calls[name]()
            found[name].append(1000 * (time.process_time() - began) / CALLS)
    return found


def _onnxruntime(one: Contender, x: Array) -> Callable[[], object]:
    runner = retarget(one, "onnxruntime").load(1)
    return lambda: runner([x])


def openvino(one: Contender, x: Array, rate: float | None) -> tuple[Callable[[], object], str]:
    """A call at this one shape, and the kernels that linear layers run in there."""
    import openvino as runtime

    core = runtime.Core()
    model = core.read_model(str(Path(one.folder) / one.artifact.files[0]))
    model.reshape(list(x.shape))
    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if rate is not None:
        options["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
    compiled = core.compile_model(model, "CPU", options)
    layers = (op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops())
    taken = {str(i["primitiveType"].value) for i in layers if str(i["layerType"].value).startswith("FullyConnected")}
    request = compiled.create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True), ", ".join(sorted(taken))
