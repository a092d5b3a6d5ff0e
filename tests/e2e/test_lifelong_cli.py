"""`lissom lifelong` from the first task to the exported file."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
import torch

from lissom import cli
from lissom.lifelong import Lifelong

PROJECT = "project.py"
CODE = """
import tiny
from torch.nn.functional import cross_entropy

def build():
    return tiny.tiny(), tiny.task(loss=cross_entropy)
"""
SETTINGS = """
method: pack
share: 0.2
training: {epochs: 1, optimizer: adamw, learning_rate: 0.001, precision: float32, channels_last: false}
retraining: {epochs: 1, optimizer: adamw, learning_rate: 0.001, precision: float32, channels_last: false}
"""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack.yaml").write_text(SETTINGS)
    (tmp_path / PROJECT).write_text(CODE)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lissom", "lifelong", *map(str, arguments)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            cli.main()
        read = capfd.readouterr()
        assert "Traceback" not in read.err
        return int(ended.value.code or 0), read.out, read.err

    return call


def test_from_the_first_task_to_the_file(call, tmp_path: Path) -> None:
    code, out, _ = call("add", "box", "first", PROJECT, "--settings", "pack.yaml", "--bits", 8, "--json")
    assert code == 0
    first = json.loads(out)
    assert (first["name"], first["method"], first["settings"]["share"]) == ("first", "pack", 0.2)
    code, out, _ = call("add", "box", "second", PROJECT, "--settings", "pack.yaml", "--share", 0.1)
    assert code == 0
    assert "It keeps 9.9% of" in out or "It keeps 10.0% of" in out

    code, out, _ = call("list", "box", "--json", "--html", "page.html")
    listed = json.loads(out)
    assert code == 0
    assert [task["name"] for task in listed["tasks"]] == ["first", "second"]
    assert listed["backbone"]["bits"] == 8
    assert "second" in (tmp_path / "page.html").read_text()
    code, out, _ = call("list", "box")
    assert "Backward transfer on the validation split: exactly 0." in " ".join(out.split())

    code, out, _ = call("export", "box", "first", PROJECT, "--out", "built", "--json")
    assert code == 0
    written = json.loads(out)
    session = onnxruntime.InferenceSession(str(tmp_path / "built" / written["files"][0]))
    x, _ = tiny.bars(16, 3)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        wanted = Lifelong.open("box", tiny.tiny()).model("first")(x).numpy()
    assert np.abs(found - wanted).max() < 1e-4

    code, out, _ = call("prove", "box", PROJECT, "--json")
    assert (code, json.loads(out)["held"]) == (0, True)
    record = tmp_path / "box" / "tasks" / "0001-first" / "task.json"
    record.write_text(record.read_text().replace(first["weights_sha256"], "0" * 64))
    code, out, _ = call("prove", "box", PROJECT)
    assert code == 3
    assert "does not hold" in " ".join(out.split())


def test_wrong_use_is_said(call, tmp_path: Path) -> None:
    code, _, err = call("add", "box", "first", PROJECT, "--method", "lwf", "--share", 0.1)
    assert (code, "unknown field 'share'" in " ".join(err.split())) == (2, True)
    code, _, err = call("add", "box", "first", PROJECT, "--method", "pak")
    assert (code, "unknown method 'pak'. Did you mean 'pack'" in " ".join(err.split())) == (2, True)
    code, _, err = call("add", "box", "first", PROJECT, "--method", "ewc", "--settings", "pack.yaml")
    assert (code, "says 'pack'" in err) == (2, True)
    code, _, err = call("list", "nowhere")
    assert (code, "no lifelong folder" in " ".join(err.split())) == (3, True)
    assert not (tmp_path / "box").exists()
