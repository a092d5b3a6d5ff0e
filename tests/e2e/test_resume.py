"""Killed at any point, the same call continues, and what comes out is what an unbroken run gives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import lissom
from lissom import Fold, Goal, Recipe, runfolder
from lissom.pipeline import compressing, transforming

DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a run that does not depend on the clock."""
    result = json.loads((folder / "result.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    names = ("model.onnx", "original.onnx", "model.safetensors", "example.safetensors", "plan.json", "recipe.yaml")
    return {
        "metrics": [result[side]["metric"] for side in ("before", "after")],
        "steps": [(step["transform"], step["settings"], step["metric"]) for step in result["steps"]],
        "sizes": [result[side]["size_bytes"] for side in ("before", "after")],
        "goal": [(g["wish"], g["met"]) for g in result["goal"] if "latency" not in g["wish"]],
        "parity": result["parity"],
        "layers": result["layers"],
        "files": {name: manifest["files"][name] for name in names},
        "artifact": manifest["artifact"],
    }


class Interruptions:
    """Raises once before (or after) every file that a run writes, or those of some names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str, *names: str) -> None:
        self.seen: list[str] = []
        self.when = when
        self.names = names
        for module, name in (
            (runfolder, "write_text"),
            (compressing, "write_text"),
            (compressing, "save_tensors"),
            (transforming, "save_tensors"),
        ):
            monkeypatch.setattr(module, name, self._around(getattr(module, name)))

    def _around(self, write: Callable[..., None]) -> Callable[..., None]:
        def interrupted(path: Path, content: object) -> None:
            self._once("before", path.name, KeyboardInterrupt())
            write(path, content)
            self._once("after", path.name, SystemExit(1))

        return interrupted

    def _once(self, when: str, name: str, wrong: BaseException) -> None:
        if when == self.when and name not in self.seen and (not self.names or name in self.names):
            self.seen.append(name)
            raise wrong


def until_done(run: Callable[[], lissom.Result]) -> tuple[lissom.Result, int]:
    for attempt in range(100):
        try:
            return run(), attempt
        except (KeyboardInterrupt, SystemExit):
            continue
    pytest.fail("the run never ended")


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_interrupted_around_every_file_it_is_the_same_run(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    arguments: dict[str, Any] = {"recipe": tiny.RECIPE, "goal": Goal(metric_drop=0.1)}
    unbroken = run(out=tmp_path / "unbroken", **arguments)
    with monkeypatch.context() as patch:
        moments = Interruptions(patch, when)
        broken, interruptions = until_done(lambda: run(out=tmp_path / "broken", **arguments))
    stages = ("step-1-fold", "step-2-quantize", "export-original", "export", "layers", "metric-before", "metric-after",
              "memory", "latency")  # fmt: skip
    written = {f"{name}.json" for name in stages} | {"manifest.json", "recipe.yaml", "plan.json", "model.safetensors"}
    assert written <= set(moments.seen)
    assert interruptions == len(moments.seen)
    assert outcome(broken.folder) == outcome(unbroken.folder)
    assert {p.name for p in broken.folder.iterdir()} == {p.name for p in unbroken.folder.iterdir()}
    assert not [p for p in broken.folder.iterdir() if p.name.startswith(".")]


def test_interrupted_while_candidates_are_tried(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [Recipe([Fold()]), Recipe([Fold(), lissom.Quantize(mode="dynamic")])]
    monkeypatch.setattr(compressing, "recipes_for", lambda *_: recipes)
    with monkeypatch.context() as patch:
        moments = Interruptions(patch, "after", "tried.json", "choice.json")
        result, _ = until_done(lambda: run(recipe=None))
    assert moments.seen == ["tried.json", "choice.json"]
    assert len(result.record.trials) == 2
    assert lissom.load(result.folder, tiny.tiny()) is not None


def test_a_stage_whose_files_were_lost_is_done_again(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compressing, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    folder = tmp_path / "run"
    (folder / "model.onnx").write_bytes(b"")
    (folder / "original.onnx").unlink()
    (folder / "state/step-1-fold.safetensors").write_bytes(b"half")
    assert run().goal_met


@pytest.mark.slow
def test_killed_at_random_times_it_is_the_same_run(tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        program = [
            str(Path(sys.executable).with_name("lissom")),
            "compress",
            str(DIGITS),
            "--set",
            "epochs=2",
            "--drop",
            "2%",
        ]
        (tmp_path / "recipe.yaml").write_text(tiny.RECIPE.to_yaml())
        return [*program, "--recipe", str(tmp_path / "recipe.yaml"), "-t", "onnxruntime", "--out", str(tmp_path / out)]

    subprocess.run(command("unbroken"), check=True, capture_output=True)
    rng = random.Random(time.time_ns())
    killed = 0
    state = tmp_path / "broken/state"
    for stages in (0, 1, 2, 4, 6, 8):
        with subprocess.Popen(command("broken"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (not state.exists() or len(list(state.glob("*.json"))) < stages):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    subprocess.run(command("broken"), check=True, capture_output=True)
    assert killed >= 4
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")
    assert sorted(os.listdir(tmp_path / "broken")) == sorted(os.listdir(tmp_path / "unbroken"))  # noqa: PTH208
