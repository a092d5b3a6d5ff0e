"""Lissom: compress trained PyTorch models, measured on the runtime they ship on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lissom._version import __version__ as __version__

if TYPE_CHECKING:
    from lissom import data as data
    from lissom import errors as errors
    from lissom import lifelong as lifelong
    from lissom import metrics as metrics
    from lissom import spaces as spaces
    from lissom.errors import LissomError as LissomError
    from lissom.goal import Goal as Goal
    from lissom.graph.graph import Graph as Graph
    from lissom.lifelong import Lifelong as Lifelong
    from lissom.pipeline import DataFree as DataFree
    from lissom.pipeline import Result as Result
    from lissom.pipeline import analyze as analyze
    from lissom.pipeline import compress as compress
    from lissom.pipeline import load as load
    from lissom.pipeline import monitor as monitor
    from lissom.pipeline import plan as plan
    from lissom.pipeline import recommend as recommend
    from lissom.progression import progressive as progressive
    from lissom.recipe import Recipe as Recipe
    from lissom.sources import source as source
    from lissom.task import Batch as Batch
    from lissom.task import Task as Task
    from lissom.training.synthesis.settings import Synthesis as Synthesis
    from lissom.training.synthesis.synthesize import synthesize as synthesize
    from lissom.transforms.architecture import Supernet as Supernet
    from lissom.transforms.finetuning import Finetune as Finetune
    from lissom.transforms.folding import Fold as Fold
    from lissom.transforms.lowrank import Factorize as Factorize
    from lissom.transforms.pruning import Prune as Prune
    from lissom.transforms.pruning import PruneDepth as PruneDepth
    from lissom.transforms.quantization import QAT as QAT
    from lissom.transforms.quantization import Quantize as Quantize
    from lissom.transforms.sparsity import Sparsify as Sparsify

# Loaded when first used: `lissom --version`, reports and errors do not wait for torch.
_HOMES = {
    "Batch": "lissom.task",
    "DataFree": "lissom.pipeline",
    "Factorize": "lissom.transforms.lowrank",
    "Finetune": "lissom.transforms.finetuning",
    "Prune": "lissom.transforms.pruning",
    "PruneDepth": "lissom.transforms.pruning",
    "Fold": "lissom.transforms.folding",
    "Goal": "lissom.goal",
    "Graph": "lissom.graph.graph",
    "Lifelong": "lissom.lifelong",
    "LissomError": "lissom.errors",
    "QAT": "lissom.transforms.quantization",
    "Quantize": "lissom.transforms.quantization",
    "Recipe": "lissom.recipe",
    "Result": "lissom.pipeline",
    "Sparsify": "lissom.transforms.sparsity",
    "Supernet": "lissom.transforms.architecture",
    "Synthesis": "lissom.training.synthesis.settings",
    "Task": "lissom.task",
    "analyze": "lissom.pipeline",
    "compress": "lissom.pipeline",
    "load": "lissom.pipeline",
    "monitor": "lissom.pipeline",
    "plan": "lissom.pipeline",
    "progressive": "lissom.progression",
    "recommend": "lissom.pipeline",
    "source": "lissom.sources",
    "synthesize": "lissom.training.synthesis.synthesize",
}
_MODULES = ("data", "errors", "lifelong", "metrics", "spaces")

__all__ = [*_HOMES, *_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"lissom.{name}")
    raise AttributeError(f"module 'lissom' has no attribute {name!r}. It offers {', '.join(sorted(__all__))}.")


def __dir__() -> list[str]:
    return sorted(__all__)
