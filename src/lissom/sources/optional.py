"""Libraries that only some sources need, imported when they do."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import torch

from lissom.errors import UsageError


def needed(package: str, given: str) -> Any:
    """The package that opens `given`. `Any`: what comes from it is checked where it is used.

    Raises:
        UsageError: it is not installed, or cannot be imported.
    """
    way_out = f'pip install "lissom[{package}]"'
    if not importlib.util.find_spec(package):
        raise UsageError(f"{given} needs {package}, which is not installed. {way_out}")
    ready_torchvision()
    try:
        return importlib.import_module(package)
    except ImportError as wrong:
        raise UsageError(f"{given} needs {package}, which cannot be imported: {wrong}. {way_out}") from wrong


def ready_torchvision() -> None:
    """Make torchvision importable, where it is installed: timm and transformers import it.

    Its wheel looks for two C++ operators that a CPU build of torch cannot load; their schemas are all it needs.
    """
    if not importlib.util.find_spec("torchvision"):
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        importlib.import_module("torchvision")


_LIBRARIES: list[torch.library.Library] = []
"""Definitions live as long as their library object."""
