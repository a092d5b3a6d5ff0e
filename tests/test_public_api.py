"""What `import lissom` offers, and what it must not load."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

import lissom

NAMES = {
    "Batch", "DataFree", "Factorize", "Finetune", "Fold", "Goal", "Graph", "Lifelong", "LissomError", "Prune",
    "PruneDepth", "QAT", "Quantize", "Recipe", "Result", "Sparsify", "Supernet", "Synthesis",
    "Task",
    "analyze", "compress", "load", "monitor", "plan", "progressive", "recommend", "source", "synthesize",
    "data", "errors", "lifelong", "metrics", "spaces",
}  # fmt: skip
LATE = (
    "torch",
    "openvino",
    "executorch",
    "tensorrt",
    "onnxruntime",
    "torchao",
    "plotly",
    "sklearn",
    "pyarrow",
    "PIL",
    "optuna",
)


def test_the_surface_is_the_one_promised() -> None:
    assert set(dir(lissom)) == NAMES | {"__version__"}
    assert all(
        isinstance(getattr(lissom, name), types.ModuleType)
        for name in ("data", "errors", "lifelong", "metrics", "spaces")
    )
    assert lissom.__version__


def test_a_wrong_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'quantise'\. It offers .*Quantize"):
        _ = lissom.quantise


def test_everything_public_is_documented() -> None:
    assert [name for name in NAMES if not (getattr(lissom, name).__doc__ or "").strip()] == []


def test_runtimes_and_optional_packages_load_late() -> None:
    code = f"import sys, json, lissom; print(json.dumps([m for m in {LATE!r} if m in sys.modules]))"
    loaded = json.loads(subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout)  # fmt: skip
    assert loaded == []
