"""What only the running process can import reaches another one all the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import cloudpickle

from lissom.search.byvalue import by_value

CODE = "class Net:\n    def answer(self):\n        return HELP + 1\nHELP = 41\n"
READ = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).answer())"


def reading(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", READ, str(file)], capture_output=True, text=True, check=False)


def test_a_class_of_a_project_file_is_read_by_a_process_that_never_saw_the_file(tmp_path, monkeypatch):
    (tmp_path / "net_of_a_project.py").write_text(CODE)
    spec = importlib.util.spec_from_file_location("lissom_project_net", tmp_path / "net_of_a_project.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    bare.write_bytes(cloudpickle.dumps(module.Net()))
    assert "No module named 'lissom_project_net'" in reading(bare).stderr
    with by_value(cloudpickle):
        whole.write_bytes(cloudpickle.dumps(module.Net()))
        assert b"HELP" not in cloudpickle.dumps(Path), "what can be imported is named, not sent"
    assert reading(whole).stdout == "42\n"
    assert cloudpickle.dumps(module.Net()) == bare.read_bytes(), "and is as before afterwards"
