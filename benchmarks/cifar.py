"""The CIFAR-10 ResNets of the example project, with weights and data, for experiments on a trained network."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from benchmarks.context import Context
from lissom.task import Task

PROJECT = Path(__file__).parents[1] / "examples" / "cifar10_resnet.py"


def trained(context: Context, depth: int) -> tuple[nn.Module, Task]:
    """The network with published weights and its task.

    Raises:
        MissingDataError: data or weights are not here.
    """
    return project().build(
        data=context.folder("data", "cifar10"),
        weights=context.folder("weights", f"resnet{depth}-cifar10.safetensors").parent,
        depth=depth,
    )


def project(file: Path = PROJECT) -> ModuleType:
    """An example project, which users run as a file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
