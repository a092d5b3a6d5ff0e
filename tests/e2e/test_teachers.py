"""Teachers that are files: what a runtime answers is what the student is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

import lissom
from lissom import Finetune, Recipe
from lissom.errors import RunFolderError, UsageError
from lissom.pipeline.teachers import teacher_of, with_teachers
from lissom.pipeline.transforming import transform
from lissom.runfolder import StageFolder
from lissom.target import load_target
from lissom.training.answers import Notebook

PLAIN = {"precision": "float32", "channels_last": False, "epochs": 1}
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def foreign(path: Path, batch: int | None = 4) -> Path:
    """y = x W and z = relu(y), written by no exporter."""
    first = "n" if batch is None else batch
    tensors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [first, w]) for n, w in (("x", 3), ("y", 4), ("z", 4))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], [numpy_helper.from_array(WEIGHT, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("batch", [None, 4])
def test_an_onnx_file_of_any_origin_answers_any_batch(batch: int | None, tmp_path: Path) -> None:
    teacher = teacher_of(foreign(tmp_path / "t.onnx", batch))
    for count in (1, 4, 10):
        x = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
        found = teacher(x)
        assert list(found) == ["y", "z"]
        np.testing.assert_allclose(found["y"], x.numpy() @ WEIGHT, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["z"], np.maximum(x.numpy() @ WEIGHT, 0), rtol=1e-5, atol=1e-5)


def test_a_finished_run_answers_as_its_compressed_file_does(finished: lissom.Result) -> None:
    x, _ = tiny.bars(20, 9)
    session = onnxruntime.InferenceSession(finished.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(teacher_of(finished.folder)(x), wanted, rtol=1e-5, atol=1e-5)


def test_a_path_in_the_task_teaches(finished: lissom.Result, run: Callable[..., lissom.Result]) -> None:
    task = tiny.task(teacher=[finished.folder, str(finished.folder / "original.onnx")], loss=F.cross_entropy)
    recipe = Recipe([Finetune(teacher="task", views=1, **PLAIN)])
    assert len(lissom.plan(tiny.tiny(), task, recipe)) == 1
    record = run(task=task, recipe=recipe).record.steps[0].distillation
    assert record is not None
    assert record.teachers == ("task 1", "task 2")
    assert record.kept == 4
    assert record.comparison is not None
    _, compressed, original = record.comparison.answerers
    x, y = tiny.bars(96, 2)
    with torch.no_grad():
        assert original.metric == pytest.approx(float((tiny.tiny()(x).argmax(1) == y).double().mean()))
    assert compressed.metric == pytest.approx(float((teacher_of(finished.folder)(x).argmax(1) == y).double().mean()))


def test_all_trainings_of_a_recipe_ask_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    append = Notebook._append

    def counted(self: Notebook, key: str, *rest: Any) -> None:
        view, step = key.split("/")
        asked.append((int(view), int(step)))
        append(self, key, *rest)

    monkeypatch.setattr(Notebook, "_append", counted)
    training = Finetune(teacher="original", views=2, **{**PLAIN, "epochs": 2})
    recipe = Recipe([lissom.Prune(ratio=0.25), training, lissom.Prune(ratio=0.25), training])
    folder, target = StageFolder(tmp_path, 0), load_target("onnxruntime")
    task = tiny.task(loss=F.cross_entropy)
    together = transform(tiny.tiny(), task, recipe, target, folder=folder)
    assert len(asked) == len(set(asked)) == 2 * len(list(task.batches("train")))
    assert not list(folder.state.glob("*answers*")), "they go with the last step"
    apart = transform(tiny.tiny(), task, recipe, target)
    for one, other in zip(together[-1].model.parameters(), apart[-1].model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)  # what is fitted after a cut is not exact


def test_other_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"no model")
    (tmp_path / "empty").mkdir()
    for name, error, said in (
        ("teacher.pt", UsageError, "neither an ONNX file nor the folder"),
        ("none.onnx", UsageError, "none.onnx is not an ONNX file"),
        ("garbage.onnx", UsageError, "garbage.onnx is not an ONNX file"),
        ("empty", RunFolderError, "empty"),
    ):
        with pytest.raises(error, match=said):
            with_teachers(tiny.task(teacher=tmp_path / name))
    task = tiny.task()
    assert with_teachers(task) is task
