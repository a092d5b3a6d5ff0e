"""From a target to the runtime that drives it; a runtime is imported only when it is asked for."""

from __future__ import annotations

import importlib

from lissom.export.base import Availability, Runtime
from lissom.target import Target, known_targets, load_target

CLASSES = {
    "onnxruntime": "OnnxRuntime",
    "openvino": "OpenVino",
    "executorch": "ExecuTorch",
    "tensorrt": "TensorRt",
    "torch": "Torch",
}


def runtime_of(target: Target) -> Runtime:
    """The runtime of a target, whether it is installed or not."""
    module = importlib.import_module(f"lissom.export.{target.runtime}")
    return getattr(module, CLASSES[target.runtime])()


def survey() -> dict[str, tuple[Target, Availability]]:
    """Every target with what was found here."""
    targets = {name: load_target(name) for name in known_targets()}
    return {name: (target, runtime_of(target).availability()) for name, target in targets.items()}
