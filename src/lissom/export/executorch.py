"""ExecuTorch with the XNNPACK delegate: one `.pte` file for phones and boards, run here through its Python runtime."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from lissom.errors import ExportError
from lissom.export.base import Array, Artifact, Availability, Kernel, Runner, Runtime, TensorSpec, artifact_of
from lissom.export.onnx import quiet
from lissom.graph.trace import export_program
from lissom.task import Batch

MAX_BATCH = 32
"""Memory is planned ahead for the largest batch; larger ones go through in pieces."""

KERNELS = {
    "conv2d": "conv",
    "convolution": "conv",
    "linear": "linear",
    "addmm": "linear",
    "mm": "linear",
    "add": "add",
    "avg_pool2d": "pool",
    "mean": "pool",
}


class ExecuTorch(Runtime):
    """Meta's on-device runtime."""

    def availability(self) -> Availability:
        try:
            import executorch.runtime  # noqa: F401  # pyright: ignore
        except ImportError:
            return Availability(found=False, detail='pip install "lissom[executorch]"')
        return Availability(found=True, version=importlib.metadata.version("executorch"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        largest = max(MAX_BATCH, 2 * example.size)
        program, dynamic = export_program(model, example, max_batch=largest)
        buffer, kernels = _lower(program)
        path = folder / f"{stem}.pte"
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(buffer)
        os.replace(part, path)
        values = {n.name: n.meta.get("val") for n in program.graph.nodes}
        signature = program.graph_signature
        return artifact_of(
            target,
            folder,
            [path.name],
            [_spec(name, values) for name in signature.user_inputs],
            [_spec(name, values) for name in signature.user_outputs],
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

        def call(inputs: Sequence[Array]) -> list[Array]:
            found = method.execute([torch.from_numpy(a) for a in inputs])
            return [t.numpy() if isinstance(t, torch.Tensor) else t for t in found]

        call.program = program  # type: ignore[attr-defined]  the method borrows the program's memory
        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        return artifact.kernels or ()


def _spec(name: Any, values: dict[str, Any]) -> TensorSpec:
    value = values.get(str(name))
    shape = tuple("N" if isinstance(s, torch.SymInt) else int(s) for s in getattr(value, "shape", ()))
    return TensorSpec(name=str(name), shape=shape, dtype=str(getattr(value, "dtype", "")).removeprefix("torch."))


def _lower(program: ExportedProgram) -> tuple[bytes, tuple[Kernel, ...]]:
    with quiet(), _silence_stderr():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            kernels = tuple(_kernels(edge.exported_program()))
            return bytes(edge.to_executorch().buffer), kernels
        except Exception as wrong:  # the lowering raises its own and bare exceptions alike
            reason = str(wrong).strip().splitlines()
            raise ExportError(
                f"ExecuTorch cannot lower the model: {reason[0] if reason else type(wrong).__name__}. Try "
                "target='onnxruntime', or replace the operator named there."
            ) from wrong


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """The native side writes to file descriptor 2 about processors it does not know; nothing there is ours."""
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
    modules = dict(program.graph_module.named_children())
    for name, module in modules.items():
        lowered = getattr(module, "original_module", None)
        if lowered is not None:
            yield from _kernels_in(lowered.graph_module, delegated=True, prefix=name)
    yield from _kernels_in(program.graph_module, delegated=False, prefix="")


def _kernels_in(module: Any, *, delegated: bool, prefix: str) -> Iterable[Kernel]:
    for node in module.graph.nodes:
        op = _op(node)
        if node.op != "call_function" or op not in KERNELS:
            continue
        integer = delegated and _is_restored(node.args[0])
        yield Kernel(
            source=_weight_of(node) or node.name,
            op=f"xnnpack {op}" if delegated else f"portable {op}",
            precision="int8" if integer else "float32",
        )


def _op(node: Any) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).split("::")[-1].removeprefix("_") if schema is not None else ""


def _is_restored(value: Any) -> bool:
    return "dequantize" in str(getattr(value, "target", ""))


def _weight_of(node: Any) -> str | None:
    if len(node.args) < 2 or not hasattr(node.args[1], "target"):
        return None
    weight = node.args[1]
    while "dequantize" in str(weight.target) or "permute" in str(weight.target):
        weight = weight.args[0]
    return str(weight.target) if weight.op in ("placeholder", "get_attr") else None
