"""ExecuTorch with the XNNPACK delegate: one `.pte` file for phones and boards, run here through Python."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from lissom.errors import ExportError, RunFolderError
from lissom.export.base import (
    Array,
    Artifact,
    Availability,
    Kernel,
    Kind,
    Runner,
    Runtime,
    artifact_of,
    input_specs,
    output_specs,
    writing,
)
from lissom.export.onnx import quiet
from lissom.export.origin import explain, mark_, origin
from lissom.graph.trace import export_program
from lissom.task import Batch

MAX_BATCH = 32
"""Memory is planned ahead for the largest batch; larger ones go through in pieces."""

KERNELS: dict[str, Kind] = {
    "convolution": "product",
    "conv2d": "product",
    "linear": "product",
    "addmm": "product",
    "mm": "product",
    "bmm": "product",
    "scaled_dot_product_attention": "product",
    "add": "add",
    "avg_pool2d": "pool",
    "mean": "pool",
}
FUSED = frozenset({"relu", "hardtanh", "clamp"})
"""What XNNPACK computes inside the operator before it."""


class ExecuTorch(Runtime):
    """Meta's on-device runtime."""

    def availability(self) -> Availability:
        try:
            with quiet():
                import executorch.runtime  # noqa: F401  # pyright: ignore
        except ImportError:
            return Availability(found=False, detail='pip install "lissom[executorch]"')
        return Availability(found=True, version=importlib.metadata.version("executorch"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        largest = max(MAX_BATCH, 2 * example.size)
        program, dynamic = export_program(model, example, max_batch=largest)
        inputs = input_specs(program)
        constants = {str(name) for name in program.graph_signature.user_inputs} - {spec.name for spec in inputs}
        if constants:
            raise ExportError(
                f"ExecuTorch takes tensors only, and {', '.join(sorted(constants))} of forward() are none. Give them "
                "default values and leave them out of the example inputs."
            )
        mark_(program)
        buffer, kernels = _lower(program)
        with writing(folder) as scratch:
            (scratch / f"{stem}.pte").write_bytes(buffer)
        return artifact_of(
            target,
            folder,
            [f"{stem}.pte"],
            inputs,
            output_specs(program),
            batch=largest if dynamic else example.size,
            fixed=not dynamic,
            kernels=kernels,
        )

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool  # pyright: ignore
        from executorch.runtime import Runtime as Loader

        # One pool serves the whole process; loading sets its size, and runs look it up anew each time.
        _unsafe_reset_threadpool(threads)
        program = Loader.get().load_program(folder / artifact.files[0])
        method = program.load_method("forward")
        if method is None:
            raise RunFolderError(f"{artifact.files[0]} holds no forward method: export the model again.")

        def call(inputs: Sequence[Array], kept: object = program) -> list[Array]:
            # `kept`: the method borrows the program's memory.
            found = method.execute([torch.from_numpy(a) for a in inputs])
            return [t.numpy() for t in found if isinstance(t, torch.Tensor)]

        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        return artifact.kernels or ()


def _lower(program: ExportedProgram) -> tuple[bytes, tuple[Kernel, ...]]:
    with quiet(), _silence_stderr():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            kernels = tuple(_kernels(edge.exported_program()))
            return bytes(edge.to_executorch().buffer), kernels
        except Exception as wrong:  # the lowering raises its own and bare exceptions alike
            raise ExportError(
                f"ExecuTorch cannot lower the model: {explain(wrong, program)} Replace that operator, or try "
                "target='onnxruntime'."
            ) from wrong


@contextlib.contextmanager
def _silence_stderr() -> Generator[None]:
    """The native side writes to file descriptor 2 about processors it does not know: nothing of ours."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:  # noqa: PTH123  a descriptor is needed
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _kernels(program: ExportedProgram) -> Iterable[Kernel]:
    """What the delegate took, from the graphs handed to it; the runtime itself cannot be asked."""
    for module in program.graph_module.children():
        lowered = getattr(module, "original_module", None)
        if lowered is not None:
            yield from _kernels_in(lowered.graph_module, delegated=True)
    yield from _kernels_in(program.graph_module, delegated=False)


def _kernels_in(module: Any, *, delegated: bool) -> Iterable[Kernel]:
    for node in module.graph.nodes:
        kind = KERNELS.get(_op(node))
        if kind is None:
            continue
        traced = origin(node)
        yield Kernel(
            source=_weight_of(node) or traced,
            op=f"{'xnnpack' if delegated else 'portable'} {_op(node)}",
            precision=_precision(node) if delegated else "float32",
            node=traced,
            kind=kind,
        )


def _precision(node: Any) -> str:
    """XNNPACK runs an operator in integers where its inputs are restored from integers and its result is rounded.

    The one exception is a product whose input is rounded at run time: it takes integers and gives floats.
    """
    values = [node.args[0], node.args[1]] if _op(node) == "add" else [node.args[0]]
    if not all(_is(value, "dequantize") for value in values):
        return "float32"
    if any(_is(part, "getitem") and _is(part.args[0], "choose_qparams") for part in values[0].args):
        return "int8 dynamic"
    last = node
    while len(last.users) == 1 and _op(next(iter(last.users))) in FUSED:
        last = next(iter(last.users))
    return "int8" if all(_is(user, "quantize") for user in last.users) else "float32"


def _op(node: Any) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).split("::")[-1].removeprefix("_") if schema is not None else ""


def _is(value: Any, name: str) -> bool:
    target = getattr(value, "target", None)
    return (_op(value) or str(getattr(target, "__name__", ""))).startswith(name) if target is not None else False


def _weight_of(node: Any) -> str | None:
    if len(node.args) < 2 or not hasattr(node.args[1], "target"):
        return None
    weight = node.args[1]
    while _is(weight, "dequantize") or _is(weight, "permute") or _is(weight, "t_copy"):
        weight = weight.args[0]
    return str(weight.target) if weight.op in ("placeholder", "get_attr") else None
