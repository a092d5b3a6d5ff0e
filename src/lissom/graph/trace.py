"""The only tracer: `torch.export`, non-strict, on the example inputs.

A batch axis is left free where the model allows it. torch.export specializes sizes 0 and 1, so the example is
repeated to a batch of two before tracing; a model that refuses another batch size is traced as it is, and
`Graph.dynamic_batch` says so. In-place operators are rewritten to their functional twins, so that every value of the
graph keeps its meaning after its node ran; where an operator writes into a view of a value that is read
later, torch.export's own functionalization is used.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import ExportError
from lissom.graph.describe import describe, hint_of, is_free
from lissom.graph.functionalize import drop_identities_, functionalize_, hides_values, restore_batch_norms_
from lissom.graph.graph import Graph
from lissom.task import Batch, contiguous, repeated

TRACE_BATCH = 2


@dataclass(frozen=True, eq=False)
class Trace:
    """A traced model: the program, its runnable functional graph, and the same as data."""

    program: ExportedProgram
    module: GraphModule
    graph: Graph

    @property
    def nodes(self) -> dict[str, FxNode]:
        return {node.name: node for node in self.module.graph.nodes}


def trace(model: nn.Module, example: Batch) -> Trace:
    """Trace `model` in evaluation mode; its own mode is restored.

    Raises:
        ExportError: torch.export refuses; the message names the reason and the user's source line.
    """
    program, dynamic = export_program(model, example)
    module = _module_of(program)
    if hides_values(module):
        drop_identities_(program)
        try:
            # An empty table decomposes nothing: this functionalizes, and inlines sub-graphs.
            with quiet():
                program = program.run_decompositions({})
        except Exception as wrong:  # as undocumented as torch.export.export
            raise ExportError(_explain(wrong)) from wrong
        module = _module_of(program)
        restore_batch_norms_(module)
    functionalize_(module)
    return Trace(program, module, describe(module, dynamic))


def _module_of(program: ExportedProgram) -> GraphModule:
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """torch.export remarks on its own and torch's internals; what a user can act on is an `ExportError`."""
    talkative = logging.getLogger("torch._subclasses.fake_tensor")
    level = talkative.level
    talkative.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talkative.setLevel(level)


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Generator[None]:
    """Evaluation mode inside; afterwards every submodule has the mode it had. Exported programs have none."""
    modes = [(module, module.training) for module in model.modules()]
    if not isinstance(model, GraphModule):
        model.eval()
    try:
        yield
    finally:
        if not isinstance(model, GraphModule):
            # First by way of the model's own train(), which may do more than set the flag.
            model.train(modes[0][1])
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def torch_threads(count: int) -> Generator[None]:
    """What torch computes inside, it computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def export_program(model: nn.Module, example: Batch, *, max_batch: int | None = None) -> tuple[ExportedProgram, bool]:
    """The `torch.export` program and whether its batch axis is free.

    `max_batch` bounds a free axis, for runtimes that plan memory ahead.

    Raises:
        ExportError: torch.export refuses; the message names the reason and the user's source line.
    """
    example = contiguous(example)
    with evaluation(model):
        if _batch_axis_leaves(example):
            wide = repeated(example, max((max_batch or 0) // 2, TRACE_BATCH, example.size))
            try:
                program = _export(model, wide, free_batch=True, max_batch=max_batch)
            except Exception:  # noqa: BLE001  whatever the reason, the fixed-size attempt below reports its own
                program = None
            if program is not None and _batchis_free(program, wide.size):
                return program, True
        try:
            return _export(model, example, free_batch=False), False
        except Exception as wrong:  # torch.export raises dozens of types, none of them documented
            raise ExportError(_explain(wrong)) from wrong


def _batch_axis_leaves(example: Batch) -> bool:
    return any(t.ndim and t.shape[0] == example.size for t in example.tensors())


def _export(model: nn.Module, example: Batch, *, free_batch: bool, max_batch: int | None = None) -> ExportedProgram:
    size = example.size
    axis = Dim("N", min=1, max=max_batch) if max_batch else Dim.AUTO

    def dims(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return {0: axis} if leaf.ndim and leaf.shape[0] == size else None
        return None

    kwargs = dict(example.kwargs)
    dynamic: dict[str, Any] | None = None
    if free_batch:
        args_shapes, kwargs_shapes = pytree.tree_map(dims, (example.args, kwargs))
        # torch.export wants the shapes by argument name, bound as the call itself would be.
        dynamic = inspect.signature(model.forward).bind(*args_shapes, **kwargs_shapes).arguments
    with torch.no_grad(), quiet():
        program = torch.export.export(model, example.args, kwargs, dynamic_shapes=dynamic, strict=False)
    _let_go(program)
    return program


def _let_go(program: ExportedProgram) -> None:
    """Let the symbols of the program's shapes die with it, which torch keeps alive for good.

    They record the fake inputs of the trace, and those hold them by way of C++, where Python's collector sees no cycle.
    Caches of their methods hold them too, whichever trace they are of. Neither is read again once the trace is there.
    """
    for node in program.graph.nodes:
        symbols: Any = getattr(getattr(node.meta.get("val"), "fake_mode", None), "shape_env", None)
        if symbols is not None:
            if symbols.tracked_fakes is not None:
                symbols.tracked_fakes.clear()
            for method in vars(type(symbols)).values():
                if clear := getattr(method, "cache_clear", None):
                    clear()
            return


def _batchis_free(program: ExportedProgram, size: int) -> bool:
    """Whether every input whose first axis had the example's size may have another one."""
    names = set(program.graph_signature.user_inputs)
    free: list[bool] = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or node.name not in names or not isinstance(value, torch.Tensor):
            continue
        if value.ndim and is_free(value.shape[0]):
            free.append(True)
        elif value.ndim and hint_of(value.shape[0]) == size:
            free.append(False)
    return bool(free) and all(free)


def _explain(wrong: BaseException) -> str:
    """The reason and the user's own source line out of a torch.export failure."""
    frames = traceback.extract_tb(wrong.__traceback__)
    own = [frame for frame in frames if not _is_foreign(frame.filename)]
    reason = next((line for line in str(wrong).splitlines() if line.strip()), type(wrong).__name__)
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}: `{own[-1].line}`" if own else ""
    return (
        f"The model does not export: {reason.strip()}{place}. torch.export must be able to follow forward() "
        "without looking at tensor values; rewrite that line with torch operators (torch.where, masks), or "
        "compress a submodule that does export."
    )


def _is_foreign(file: str) -> bool:
    """Whether a frame is torch's, ours, Python's own or generated: no line that the user could change."""
    if file.startswith(("<", str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))):
        return True
    return file.startswith(sysconfig.get_path("stdlib")) and "-packages" not in file
