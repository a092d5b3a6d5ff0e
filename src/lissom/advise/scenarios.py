"""The scenario matrix: what a model is for, the runtimes it ships on, and the methods that are worth a try there."""

from __future__ import annotations

from typing import Literal

from lissom.errors import UsageError, nearest
from lissom.search.space import Dimension, Precision
from lissom.settings import Setting

Method = Literal[
    "fold",
    "prune-depth",
    "prune",
    "low-rank",
    "tables",
    "sparsify-2:4",
    "distil",
    "int8",
    "dynamic-int8",
    "mixed-precision",
    "weight-only",
    "float16",
    "made-up-inputs",
]
"""In the order in which a recipe applies them."""
ROUNDINGS: tuple[Method, ...] = ("int8", "dynamic-int8", "mixed-precision", "weight-only", "float16")
"""Of which a recipe has one."""


class Scenario(Setting):
    """One row of the matrix."""

    name: str
    title: str
    targets: tuple[str, ...]
    """Runtimes, the usual one first."""
    methods: tuple[Method, ...]
    """What is looked at beyond folding; of the roundings, the first that fits is taken."""
    parameters_ratio: float = 1.0
    """Times fewer parameters, by pruning or factors, where training follows."""
    macs_ratio: float = 1.0
    """Times fewer multiply-accumulates by pruning, where training follows."""
    prefers_dynamic: bool = False
    """Whether transformers, whose activations have outliers, get ranges at run time rather than fixed ones."""
    without_data: bool = False
    """Whether it is for tasks without training data."""


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="mobile",
        title="a phone: a small file, integers, little energy",
        targets=("executorch",),
        methods=("prune", "distil", "int8", "dynamic-int8", "weight-only"),
        parameters_ratio=3.5,
        prefers_dynamic=True,
    ),
    Scenario(
        name="realtime",
        title="an answer in time: latency before size",
        targets=("openvino", "onnxruntime"),
        methods=("prune-depth", "prune", "distil", "int8", "dynamic-int8"),
        macs_ratio=2.5,
    ),
    Scenario(
        name="edge",
        title="a small device: as few bytes as the accuracy allows",
        targets=("onnxruntime", "executorch"),
        methods=("low-rank", "distil", "int8", "dynamic-int8", "weight-only"),
        parameters_ratio=4.5,
        prefers_dynamic=True,
    ),
    Scenario(
        name="server",
        title="a server's processor: throughput, nothing trained",
        targets=("openvino", "onnxruntime"),
        methods=("int8", "dynamic-int8", "weight-only"),
        prefers_dynamic=True,
    ),
    Scenario(
        name="gpu",
        title="an NVIDIA GPU: sparse tensor cores and integers",
        targets=("tensorrt",),
        methods=("sparsify-2:4", "distil", "int8", "float16"),
    ),
    Scenario(
        name="no-data",
        title="no training data: what the weights alone allow",
        targets=("onnxruntime", "openvino"),
        methods=("dynamic-int8", "int8", "weight-only", "float16", "made-up-inputs"),
        without_data=True,
    ),
    Scenario(
        name="memory",
        title="memory and download: weights in few bits, factorized tables",
        targets=("onnxruntime", "openvino"),
        methods=("tables", "distil", "mixed-precision", "weight-only", "float16"),
        parameters_ratio=4.0,
    ),
)


def scenario_of(name: str) -> Scenario:
    """
    Raises:
        UsageError: no such scenario; the message names the nearest.
    """
    found = {one.name: one for one in SCENARIOS}
    if name not in found:
        raise UsageError(f"Unknown scenario {name!r}. {nearest(name, found)}")
    return found[name]


def searched_of(scenario: Scenario) -> tuple[tuple[Dimension, ...], tuple[Precision, ...]]:
    """The dimensions and precisions of a search that carry out the scenario's methods.

    Patterns of zeros, tables and bits of single layers are not searched for.
    """
    dimensions: dict[Method, Dimension] = {"prune-depth": "depth", "prune": "prune", "low-rank": "rank"}
    precisions: dict[Method, tuple[Precision, ...]] = {
        "int8": ("int8",),
        "dynamic-int8": ("dynamic",),
        "mixed-precision": ("float16", "int8", "int4"),
        "float16": ("float16",),
    }
    return (
        tuple(dimensions[method] for method in scenario.methods if method in dimensions),
        tuple(dict.fromkeys(one for method in scenario.methods for one in precisions.get(method, ()))),
    )
