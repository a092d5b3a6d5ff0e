"""`pip install lissom` is enough: what is optional is imported late, by its own file, and named where it is missing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import lissom

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lissom"
IMPORTED_AS = {"pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn"}
BROUGHT = {
    "pydantic_core": "pydantic",
    "markupsafe": "jinja2",
    "click": "typer",
    "sympy": "torch",
    "sqlalchemy": "optuna",
    "onnx_ir": "onnxscript",
    "ml_dtypes": "onnx",
    "google": "onnx",
}
"""What a dependency of the core always brings and the code uses by itself."""
HIDDEN = """
import importlib.machinery

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition('.')[0] in {names!r} else super().find_spec(name, path, target)

import sys
sys.meta_path[:] = [Finder if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
"""
"""As if they were not installed."""


def packages(requirements: list[str]) -> set[str]:
    names = {match[0].lower() for text in requirements if (match := re.match(r"[\w.-]+", text))}
    return {IMPORTED_AS.get(name, name) for name in names}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = packages(PROJECT["dependencies"])
OPTIONAL = packages(
    [text for extra, held in PROJECT["optional-dependencies"].items() if extra not in ("dev", "docs") for text in held]
)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Packages from elsewhere that a file imports, and whether it does so as soon as it is imported itself."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, first: bool) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.Import):
                found.extend((alias.name.partition(".")[0], first) for alias in inner.names)
            elif isinstance(inner, ast.ImportFrom) and inner.module and not inner.level:
                found.append((inner.module.partition(".")[0], first))
            typing_only = isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.unparse(inner.test)
            if not typing_only:
                walk(inner, first and not isinstance(inner, (ast.FunctionDef, ast.Lambda)))

    walk(ast.parse(path.read_text(encoding="utf-8")), True)
    return [(name, first) for name, first in found if name not in sys.stdlib_module_names and name != "lissom"]


def test_only_the_core_is_imported_at_once_and_nothing_undeclared_ever() -> None:
    assert OPTIONAL
    brought = {name for name, by in BROUGHT.items() if by in CORE}
    at_once = CORE | brought
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for name, first in imports(path)
        if name not in (at_once if first else at_once | OPTIONAL)
    ]
    assert not wrong


def test_every_module_is_imported_and_a_model_compressed_without_what_is_optional(tmp_path: Path) -> None:
    code = HIDDEN.format(names=OPTIONAL) + (
        "import importlib, json, pkgutil, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "import lissom, torch\n"
        "for found in pkgutil.walk_packages(lissom.__path__, 'lissom.'):\n"
        "    found.name.endswith('__main__') or importlib.import_module(found.name)\n"
        "from lissom.export.catalogue import survey\n"
        "print(json.dumps({name: [here.found, here.detail] for name, (_, here) in survey().items()}))\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval()\n"
        "x = torch.randn(16, 8)\n"
        "task = lissom.Task(example_inputs=(x,), calibration=[(x, x)])\n"
        "from lissom.pipeline import export_model\n"
        f"export_model(model, task, lissom.Recipe([lissom.Quantize()]), target='onnxruntime', out={str(tmp_path)!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[0])
    assert found["onnxruntime"][0]
    assert found["torch"][0]
    for name in ("openvino", "executorch", "tensorrt"):
        assert not found[name][0]
        assert f"lissom[{name}]" in found[name][1]
    assert (tmp_path / "model.onnx").is_file()


def test_help_and_version_wait_for_no_torch() -> None:
    code = "import sys, lissom.cli; print(int('torch' in sys.modules)); print(lissom.__version__)"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == ["0", lissom.__version__]
