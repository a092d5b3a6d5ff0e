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
from torch.export.graph_signature import InputKind, TensorArgument

from lissom.errors import ExportError, RunFolderError
from lissom.export.base import (
    Array,
    Artifact,
    Availability,
    Kernel,
    Kind,
    Runner,
    Runtime,
    TensorSpec,
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
        constants = [
            spec.arg.name
            for spec in program.graph_signature.input_specs
            if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, TensorArgument)
        ]
        if constants:
            raise ExportError(
                f"ExecuTorch takes tensors only, and {', '.join(constants)} of forward() is none. Give it a default "
                "value and leave it out of the example inputs."
            )
        outputs = output_specs(program)
        mark_(program)
        buffer, kernels, size = _lower(program)
        if dynamic and size is not None:
            # A pass of ExecuTorch asked for the number behind the symbol: the program now takes that batch only.
            inputs, outputs = _pinned(inputs, size), _pinned(outputs, size)
        with writing(folder) as scratch:
            (scratch / f"{stem}.pte").write_bytes(buffer)
        return artifact_of(
            target,
            folder,
            [f"{stem}.pte"],
            inputs,
            outputs,
            batch=size or (largest if dynamic else example.size),
            fixed=size is not None,
            kernels=kernels,
        )

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        return _Method(folder / artifact.files[0], threads)

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        return artifact.kernels or ()


class _Pool:
    """The threads that ExecuTorch computes with: one pool for the whole process, as the runtime has it.

    Methods keep a pointer to the pool that they were loaded under. Once it has been replaced they must not run again:
    the process would crash, or read freed memory.
    """

    def __init__(self) -> None:
        self.replaced = 0

    def sized_(self, threads: int) -> int:
        """Gives the pool that size; a number that changes whenever the pool was replaced."""
        from executorch.extension.pybindings import portable_lib  # pyright: ignore

        library: Any = portable_lib
        if library._threadpool_get_thread_count() != threads:
            library._unsafe_reset_threadpool(threads)
            self.replaced += 1
        return self.replaced


_POOL = _Pool()


class _Method:
    """`forward` of one file, loaded again whenever another method has changed the number of threads."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self._load_()

    def _load_(self) -> None:
        from executorch.runtime import Runtime as Loader

        self.pool = _POOL.sized_(self.threads)
        # The method borrows the program's memory.
        self.program = Loader.get().load_program(self.path)
        method = self.program.load_method("forward")
        if method is None:
            raise RunFolderError(f"{self.path.name} holds no forward method: export the model again.")
        self.method = method

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        if _POOL.sized_(self.threads) != self.pool:
            self._load_()
        found = self.method.execute([torch.from_numpy(a) for a in inputs])
        return [t.numpy() for t in found if isinstance(t, torch.Tensor)]


def _pinned(specs: Sequence[TensorSpec], size: int) -> list[TensorSpec]:
    return [
        spec.model_copy(update={"shape": tuple(size if extent == "N" else extent for extent in spec.shape)})
        for spec in specs
    ]


def _lower(program: ExportedProgram) -> tuple[bytes, tuple[Kernel, ...], int | None]:
    """The file, what runs where, and the only batch that the lowered program takes (None for any up to its bound)."""
    with quiet(), _silence_stderr():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        # Its checker takes len() of the first piece of a split, which fixes a free batch axis at the example's size.
        unchecked = EdgeCompileConfig(_check_ir_validity=False)
        try:
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], compile_config=unchecked)
            lowered = edge.exported_program()
            made = edge.to_executorch()
        except Exception as wrong:  # the lowering raises its own and bare exceptions alike
            raise ExportError(
                f"ExecuTorch cannot lower the model: {explain(wrong, program)} Replace that operator, or try "
                "target='onnxruntime'."
            ) from wrong
        missing = _missing(made.executorch_program)
        if missing:
            raise ExportError(
                f"ExecuTorch cannot run the model: operator {', '.join(missing)}: its runtime has no kernel for it. "
                "Replace that operator, or try target='onnxruntime'."
            )
        return bytes(made.buffer), tuple(_kernels(lowered)), _fixed_batch(lowered)


def _missing(program: Any) -> list[str]:
    """Operators of a finished program, outside the delegates, that the runtime here does not have."""
    from executorch.extension.pybindings.portable_lib import _get_operator_names  # pyright: ignore

    known = set(_get_operator_names())
    wanted = {
        (f"{op.name}.{op.overload}" if op.overload else op.name): op.name.replace("::", ".")
        for plan in program.execution_plan
        for op in plan.operators
    }
    return [name for full, name in wanted.items() if full not in known]


def _fixed_batch(program: ExportedProgram) -> int | None:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    shapes: list[Any] = [getattr(values.get(str(n)), "shape", ()) for n in program.graph_signature.user_inputs]
    sizes = [shape[0] for shape in shapes if len(shape)]
    free = any(isinstance(size, torch.SymInt) and not size.node.expr.is_number for size in sizes)
    return None if free or not sizes else int(sizes[0])


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
