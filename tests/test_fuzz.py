"""Whatever a goal, a project file or a run folder holds: something of Lissom's, or one sentence that can be printed.

Recipes are in `test_reading.py`. The profile "long" (`make fuzz`) tries 5,000 of each.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import lissom
from lissom.errors import LissomError, ProjectError
from lissom.goal import WISHES, Goal
from lissom.pipeline.reload import read_result
from lissom.project import load_project
from lissom.reading import json_of, yaml_of
from lissom.recipe import Recipe
from lissom.runfolder import read_manifest, verify

LONGEST = 3_000
FEW = settings(max_examples=max(8, settings.default.max_examples // 20))
"""For what traces a model each time."""
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**50), 10**50) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ODD = PLAIN | st.sampled_from([math.inf, -math.inf, -1, 0, 10**30, 1e308, 1e-320, "x" * 5_000, ["y" * 3_000] * 4])


def told(call: Callable[[], Any]) -> Any:
    """What it hands back; None where it raised an error of Lissom's that can be printed."""
    try:
        return call()
    except LissomError as wrong:
        text = str(wrong)
        if not 10 < len(text) < LONGEST:
            pytest.fail(f"an error of {len(text)} characters: {text[:300]}")
        return None


# Goals ------------------------------------------------------------------------------------------------------

UNITS = st.sampled_from(
    [
        "%",
        "%rel",
        "x",
        "ms",
        "s",
        "us",
        "KB",
        "MB",
        "GiB",
        "B",
        "/s",
        "J",
        "mJ",
        "=",
        " ",
        "-",
        "e",
        ".",
        "1",
        "9" * 400,
    ]
)
TEXTS = st.lists(UNITS | st.integers(-9, 9999).map(str) | st.floats().map(str), max_size=4).map("".join)
WORDS = st.sampled_from([*WISHES, *Goal.model_fields, "soft", "drop.f1", "latency-p95", "f1=1%", "Size"])
VALUES = TEXTS | ODD | WORDS | st.lists(TEXTS | WORDS, max_size=3) | st.dictionaries(WORDS, ODD | TEXTS, max_size=2)


@given(st.dictionaries(WORDS | st.text(max_size=4) | st.integers(), VALUES, max_size=4) | VALUES)
@example({"size_bytes": 1e308})
@example({"metric_drop": 10**400})
@example({"soft": ["x" * 5_000]})
def test_any_data_is_a_goal_or_an_error(data: object) -> None:
    goal = told(lambda: Goal.from_data(data))
    if goal is None:
        return
    again = json_of(goal.model_dump_json(exclude_none=True))
    assert Goal.from_data(again) == goal
    hard, soft = goal.part(soft=False), goal.part(soft=True)
    assert hard.soft == soft.soft == ()
    assert (hard.empty and soft.empty) == goal.empty
    told(lambda: goal.of_metric("f1"))


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_goal_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "goal.yaml"
    path.write_bytes(content)
    told(lambda: Goal.read(path))


# Project files ----------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        "import lissom",
        "import nosuch",
        "import torch",
        "from torch import nn",
        "def build():",
        "def build(x):",
        "def build(x, /, *rest, y=1, **more):",
        "class build:",
        "build = 3",
        "build = print",
        "build = type",
        "build = lambda **k: k",
        "    return 1",
        "    return nn.Linear(2, 2), None",
        "    return nn.Linear, lissom.Task(example_inputs=(torch.ones(1, 2),))",
        "    return nn.Linear(2, 2), lissom.Task(example_inputs=(torch.ones(1, 2),))",
        "    return nn.Linear(2, 2), lissom.Task(example_inputs=())",
        "    return [lissom.Task]",
        "    yield",
        "    raise SystemExit(3)",
        "    raise ValueError('long ' * 10_000)",
        "    raise Odd()",
        "class Odd(Exception):",
        "    def __str__(self): raise RuntimeError('no words')",
        "    def __init__(self, **more): pass",
        "1 / 0",
        "raise SystemExit('x' * 9_000)",
        "raise ExceptionGroup('several', [ValueError(1), TypeError()])",
        "__name__ = __file__ = __spec__ = None",
        "return",
        "    pass",
        "pass",
        "\0",
        "é = '\ud800'",
        "x = (",
    ]
)
ODD_ERROR = ["class Odd(Exception):", "    def __str__(self): raise RuntimeError('no words')"]
TOP = LINES.filter(lambda line: not line.startswith(" "))
INNER = LINES.filter(lambda line: line.startswith(" "))
WHOLE = st.tuples(TOP.filter(lambda line: line.endswith(":")), st.lists(INNER, min_size=1, max_size=2), TOP).map(
    lambda parts: [
        "import lissom, torch",
        "from torch import nn",
        *ODD_ERROR,
        parts[0],
        *parts[1],
        parts[2],
    ]
)
"""Mostly runs as far as `build`."""
SET = st.dictionaries(st.sampled_from(["x", "y", "z", "self", "", "rest"]), st.text(max_size=5), max_size=2)


@given(st.lists(LINES, max_size=7) | WHOLE, SET)
@example(["build = int"], {})
@example(["def build():", "    raise ValueError('long ' * 10_000)"], {})
@example([*ODD_ERROR, "def build():", "    raise Odd()"], {})
def test_any_project_file_is_a_model_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], settings: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "project.py"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    made = told(lambda: load_project(path, settings))
    assert made is None or isinstance(made[0], nn.Module)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_project_file_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.py"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=r"\."):
        load_project(path, {})


# Run folders ------------------------------------------------------------------------------------------------


def places(data: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in it."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@st.composite
def damage(draw: st.DrawFn, data: Any) -> Any:
    """The data with a few values replaced, taken out or added."""
    made = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(made)))
        if not place:
            continue
        held = made
        for key in place[:-1]:
            held = held[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "twice", "name"]))
        if what == "replace":
            held[place[-1]] = draw(ODD)
        elif what == "remove":
            del held[place[-1]]
        elif isinstance(held, list):
            held.append(copy.deepcopy(held[place[-1]]))
        else:
            held[draw(st.text(max_size=5))] = held[place[-1]]
    return made


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def run(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every kind of file."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    task = lissom.Task(example_inputs=(torch.ones(2, 4),), calibration=[torch.randn(8, 4)])
    recipe = Recipe([lissom.Fold(), lissom.Prune(ratio=0.25, round_to=1)])
    lissom.compress(original, task, recipe=recipe, target="onnxruntime", out=folder, threads=1)
    return folder


def rewritten(run: Path, name: str, content: bytes) -> dict[str, bytes]:
    """Files with one of them changed, and the manifest of somebody who changes its hash as well."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    return {name: content, "manifest.json": json.dumps(manifest).encode()}


class Swapped:
    """Files of a folder that hold something else for a while."""

    def __init__(self, run: Path, contents: dict[str, bytes]) -> None:
        self.run, self.contents = run, contents
        self.before = {name: (run / name).read_bytes() for name in contents}

    def __enter__(self) -> None:
        for name, content in self.contents.items():
            (self.run / name).write_bytes(content)

    def __exit__(self, *_: object) -> None:
        for name, content in self.before.items():
            (self.run / name).write_bytes(content)


def as_json(data: object) -> bytes:
    return json.dumps(data).encode("utf-8", "surrogatepass")


@given(st.data())
def test_any_manifest_is_read_or_refused(run: Path, data: st.DataObject) -> None:
    held = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    whole = (run / "manifest.json").read_bytes()
    torn = st.integers(0, len(whole)).map(lambda n: whole[:n] + whole[n + 1 :])
    content = data.draw(damage(held).map(as_json) | torn | st.binary(max_size=60))
    with Swapped(run, {"manifest.json": content}):
        told(lambda: read_manifest(run))
        told(lambda: verify(run))


@given(st.data())
def test_any_result_is_read_or_refused(run: Path, data: st.DataObject) -> None:
    held = json.loads((run / "result.json").read_text(encoding="utf-8"))
    content = data.draw(damage(held).map(as_json) | st.binary(max_size=60))
    with Swapped(run, rewritten(run, "result.json", content)):
        told(lambda: read_result(run))


@FEW
@given(st.data())
def test_any_plan_is_carried_out_or_refused(run: Path, original: nn.Module, data: st.DataObject) -> None:
    held = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    content = data.draw(damage(held).map(as_json))
    with Swapped(run, rewritten(run, "plan.json", content)):
        made = told(lambda: lissom.load(run, original))
    assert made is None or isinstance(made, nn.Module)


@FEW
@given(st.data())
def test_any_recipe_of_a_run_is_carried_out_or_refused(run: Path, original: nn.Module, data: st.DataObject) -> None:
    held = yaml_of((run / "recipe.yaml").read_text(encoding="utf-8"))
    content = data.draw(damage(held).map(as_json) | st.binary(max_size=60))
    with Swapped(run, rewritten(run, "recipe.yaml", content)):
        told(lambda: lissom.load(run, original))


@pytest.mark.parametrize("name", ["model.safetensors", "example.safetensors"])
@FEW
@given(data=st.data())
def test_any_weights_are_loaded_or_refused(run: Path, original: nn.Module, name: str, data: st.DataObject) -> None:
    whole = (run / name).read_bytes()
    at, byte = data.draw(st.integers(0, min(400, len(whole) - 1))), data.draw(st.binary(max_size=3))
    content = data.draw(st.sampled_from([whole[:at], whole[:at] + byte + whole[at + len(byte) :], byte + whole]))
    with Swapped(run, rewritten(run, name, content)):
        told(lambda: lissom.load(run, original))
