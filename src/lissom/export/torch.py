"""PyTorch itself, eager, from a `torch.export` program. Integers are simulated, so nothing runs in integers."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lissom.export.base import Array, Artifact, Availability, Kernel, Runner, Runtime, TensorSpec, artifact_of
from lissom.graph.cost import MACS
from lissom.graph.trace import export_program, op_name
from lissom.task import Batch


class Torch(Runtime):
    """The reference: always there, never faster for integers."""

    def availability(self) -> Availability:
        return Availability(found=True, version=importlib.metadata.version("torch"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        program, dynamic = export_program(model, example)
        path = folder / f"{stem}.pt2"
        part = path.with_name(f".{stem}.part.pt2")
        torch.export.save(program, part)
        os.replace(part, path)
        values = {n.name: n.meta.get("val") for n in program.graph.nodes}

        def spec(name: object) -> TensorSpec:
            value = values.get(str(name))
            shape = tuple("N" if isinstance(s, torch.SymInt) else int(s) for s in getattr(value, "shape", ()))
            dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
            return TensorSpec(name=str(name), shape=shape, dtype=dtype)

        signature = program.graph_signature
        return artifact_of(
            target,
            folder,
            [path.name],
            [spec(name) for name in signature.user_inputs],
            [spec(name) for name in signature.user_outputs],
            batch=None if dynamic else example.size,
            fixed=not dynamic,
        )

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        module = torch.export.load(folder / artifact.files[0]).module(check_guards=False)

        def call(inputs: Sequence[Array]) -> list[Array]:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                with torch.no_grad():
                    found = module(*(torch.from_numpy(a) for a in inputs))
            finally:
                torch.set_num_threads(before)
            leaves = torch.utils._pytree.tree_leaves(found)
            return [t.numpy() for t in leaves if isinstance(t, torch.Tensor)]

        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        program = torch.export.load(folder / artifact.files[0])
        return tuple(
            Kernel(source=node.name, op=op_name(node), precision="float32")
            for node in program.graph.nodes
            if node.op == "call_function" and op_name(node) in MACS
        )
