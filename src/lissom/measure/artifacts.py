"""Exported models, measured as they ship: outputs, memory."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file
from torch import nn
from torch.utils import _pytree as pytree

from lissom.export.base import Artifact, Runner, Runtime, arrays, ordered, pieces, run
from lissom.export.catalogue import runtime_of
from lissom.graph.trace import evaluation
from lissom.inputs import load_example
from lissom.measure.footprint import peak_of, report_peak, reset_peak, resident_bytes
from lissom.target import load_target
from lissom.task import Batch, repeated


def structure_of(model: nn.Module, example: Batch) -> Callable[[list[torch.Tensor]], Any]:
    """From a runtime's flat outputs back to what the model returns: a tensor, a tuple, a dict."""
    with evaluation(model), torch.no_grad():
        outputs = model(*example.args, **example.kwargs)
    leaves, spec = pytree.tree_flatten(outputs)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def rebuild(flat: list[torch.Tensor]) -> Any:
        filled = list(leaves)
        for index, value in zip(tensors, flat, strict=False):
            filled[index] = value
        return pytree.tree_unflatten(filled, spec)

    return rebuild


def predictor(
    runner: Runner, artifact: Artifact, rebuild: Callable[[list[torch.Tensor]], Any]
) -> Callable[[Batch], Any]:
    """A batch to the outputs that the runtime computes, in the model's structure."""
    return lambda batch: rebuild(run(runner, artifact, batch))


def peak_memory(folder: Path, artifact: Artifact, threads: int, batch_size: int) -> int:
    """Bytes that loading and running the artifact adds to a fresh process with the bare runtime."""
    runtime = runtime_of(load_target(artifact.target))
    if runtime.loads_bare:
        return _bare_peak(folder, artifact, threads, batch_size)
    described = folder / "state" / "memory-artifact.json"
    described.parent.mkdir(exist_ok=True)
    described.write_text(artifact.model_dump_json(), encoding="utf-8")
    try:
        return peak_of(["-m", "lissom.measure.artifacts", str(folder), str(described), str(threads), str(batch_size)])
    finally:
        described.unlink(missing_ok=True)


def _bare_peak(folder: Path, artifact: Artifact, threads: int, batch_size: int) -> int:
    """Without torch, which an application does not import either, and which takes seconds to."""
    batch = ordered(repeated(load_example(folder / "example.safetensors"), batch_size), artifact)
    calls = [arrays(piece) for piece in pieces(batch, artifact)]
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs.safetensors"
        save_file({f"{i}/{j}": array for i, call in enumerate(calls) for j, array in enumerate(call)}, inputs)
        return peak_of(
            [
                *("-m", "lissom.measure.bare", load_target(artifact.target).runtime),
                *(str(folder / artifact.files[0]), str(threads), str(inputs)),
                *(spec.name for spec in artifact.inputs),
            ]
        )


def _child(folder: Path, described: Path, threads: int, batch_size: int) -> None:
    artifact = Artifact.model_validate(json.loads(described.read_text(encoding="utf-8")))
    runtime: Runtime = runtime_of(load_target(artifact.target))
    runtime.availability()  # imports the runtime: its own size is not the model's
    example = repeated(load_example(folder / "example.safetensors"), batch_size)
    reset_peak()
    baseline = resident_bytes()
    runner = runtime.load(artifact, folder, threads)
    for _ in range(3):
        run(runner, artifact, example)
    report_peak(baseline)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
