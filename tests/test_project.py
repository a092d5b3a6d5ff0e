"""Project files: what is wrong with one is said in a sentence, with its line; nothing of the process is changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

import lissom
from lissom.errors import LissomError, ProjectError, UsageError
from lissom.project import load_project, taught

HEAD = """
import torch
from torch import nn
import lissom
task = lissom.Task(example_inputs=(torch.zeros(1, 2),))
"""
GOOD = HEAD + "def build(width='3'):\n    return nn.Linear(2, int(width)), task\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "project.py") -> Path:
        path = Path(name)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_build_gets_its_settings_as_text(write) -> None:
    model, task = load_project(write(GOOD), {"width": "5"})
    assert isinstance(model, nn.Linear)
    assert model.out_features == 5
    assert isinstance(task, lissom.Task)
    assert load_project(write(GOOD), {})[0].out_features == 3


def test_no_file(write) -> None:
    write(GOOD)
    with pytest.raises(ProjectError, match=r"no project file projekt\.py\. Did you mean 'project\.py'\?"):
        load_project("projekt.py", {})
    with pytest.raises(ProjectError, match=r"no project file none/p\.py\. Give the path of a Python file"):
        load_project("none/p.py", {})
    Path("folder.py").mkdir()
    with pytest.raises(ProjectError, match=r"no project file folder\.py\."):
        load_project("folder.py", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", r"project\.py defines no build\(\)\. It must define build\(\) -> \(model, task\)"),
        ("def biuld(): pass", r"defines no build\(\).*Did you mean 'biuld'\?"),
        ("build = 3", r"defines no build\(\)"),
        ("def build(:\n", r"project\.py cannot be run.*SyntaxError: .*line 1"),
        ("import nothing_like_it", r"cannot be run at line 1 \(`import nothing_like_it`\): ModuleNotFoundError"),
        ("\n1 / 0\n", r"cannot be run at line 2 \(`1 / 0`\): ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", r"cannot be run at line 1 .*it called sys\.exit\(0\)"),
        (
            "def build():\n    open('nothing')",
            r"build\(\) in project\.py failed at line 2 \(`open\('nothing'\)`\): FileNot",
        ),
        ("def build():\n    exit(1)", r"build\(\) in project\.py failed at line 2 .*sys\.exit\(1\)"),
        ("def build():\n    raise ValueError('two\\nlines')", r"failed at line 2 .*ValueError: two lines$"),
    ],
)
def test_a_file_that_does_not_run_names_the_line(write, text: str, said: str) -> None:
    with pytest.raises(ProjectError, match=said) as caught:
        load_project(write(text), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", r"must return \(model, task\), got NoneType"),
        ("nn.Linear(2, 2)", r"must return \(model, task\), got Linear"),
        ("(nn.Linear(2, 2),)", r"must return \(model, task\), got a tuple of 1"),
        ("(nn.Linear(2, 2), task, 1)", r"got a tuple of 3"),
        ("[nn.Linear(2, 2), task]", r"got list"),
        ("(task, nn.Linear(2, 2))", r"must return a torch\.nn\.Module first, got Task"),
        ("(nn.Linear, task)", r"a torch\.nn\.Module first, got the class Linear itself, not an instance"),
        ("(nn.Linear(2, 2), None)", r"must return a lissom\.Task second, got NoneType"),
        ("(nn.Linear(2, 2), {})", r"must return a lissom\.Task second, got dict"),
    ],
)
def test_a_build_that_returns_something_else_is_told_what(write, returned: str, said: str) -> None:
    with pytest.raises(ProjectError, match=said):
        load_project(write(HEAD + f"def build():\n    return {returned}\n"), {})


def test_settings_that_build_does_not_take_or_needs(write) -> None:
    with pytest.raises(ProjectError, match=r"takes no 'widht'. Did you mean 'width'\?"):
        load_project(write(GOOD), {"widht": "3"})
    with pytest.raises(ProjectError, match=r"takes no 'a'. Known: none\."):
        load_project(write(HEAD + "def build(): return nn.Linear(2, 2), task\n"), {"a": "1"})
    with pytest.raises(ProjectError, match=r"needs 'data'\. Give --set data=VALUE\."):
        load_project(write(HEAD + "def build(data, *, seed=0): return nn.Linear(2, 2), task\n"), {})
    open_ended = write(HEAD + "def build(**anything): return nn.Linear(2, int(anything['n'])), task\n")
    assert load_project(open_ended, {"n": "4"})[0].out_features == 4
    with pytest.raises(ProjectError, match=r"failed at line 7 .*ValueError: invalid literal"):
        load_project(write(GOOD), {"width": "wide"})


def test_errors_of_lissom_pass_as_they_are(write) -> None:
    with pytest.raises(LissomError, match=r"at least one example input tensor"):
        load_project(write(HEAD + "def build():\n    return nn.Linear(2, 2), lissom.Task()\n"), {})


def test_a_file_that_is_not_python(write) -> None:
    with pytest.raises(ProjectError, match=r"model\.pt is not a Python file"):
        load_project(write("x", "model.pt"), {})
    Path("binary.py").write_bytes(b"\x00\xff\x80")
    with pytest.raises(ProjectError, match=r"binary\.py cannot be run"):
        load_project("binary.py", {})


def test_neighbours_import_at_the_top_and_inside_build_and_the_path_is_restored(write) -> None:
    write("WIDTH = 6", "neighbour_a.py")
    write("WIDTH = 7", "neighbour_b.py")
    before = list(sys.path)
    top = write(HEAD + "from neighbour_a import WIDTH\ndef build(): return nn.Linear(2, WIDTH), task\n", "top.py")
    assert load_project(top, {})[0].out_features == 6
    late = write(
        HEAD + "def build():\n    from neighbour_b import WIDTH\n    return nn.Linear(2, WIDTH), task\n", "late.py"
    )
    assert load_project(late, {})[0].out_features == 7
    with pytest.raises(ProjectError):
        load_project(write("1 / 0", "wrong.py"), {})
    assert sys.path == before


def test_dataclasses_of_a_project_can_be_pickled_for_its_loaders(write) -> None:
    import pickle

    text = (
        HEAD
        + "class Data(list):\n    pass\n"
        + "def build(): return nn.Linear(2, 2), lissom.Task(task.example_inputs, test=Data())\n"
    )
    _, task = load_project(write(text, "own_classes.py"), {})
    assert pickle.loads(pickle.dumps(task.test)) == []


def test_a_teacher_is_given_to_every_training_step(write) -> None:
    model, task = load_project(write(GOOD), {})
    recipe = lissom.Recipe([lissom.Fold(), lissom.Finetune(epochs=2, temperature=2.0, teacher="self", ema=0.9)])
    named, same = taught(recipe, task, ["original"])
    assert named.steps == (lissom.Fold(), lissom.Finetune(epochs=2, temperature=2.0, teacher="original", ema=0.9))
    assert same is task
    other, with_teacher = taught(recipe, task, [str(write(GOOD.replace("'3'", "'7'"), "large.py"))])
    assert [step.teacher for step in other.steps[1:]] == ["task"]
    assert with_teacher.teacher.out_features == 7
    assert task.teacher is None
    assert isinstance(model, nn.Linear)


def test_several_teachers_are_names_and_files(write, tmp_path: Path) -> None:
    _, task = load_project(write(GOOD), {})
    given = ["large.onnx", "original", str(tmp_path), str(write(GOOD, "other.py"))]
    recipe, several = taught(lissom.Recipe([lissom.Finetune()]), task, given)
    assert recipe.steps == (lissom.Finetune(teacher=["original", "task"]),)
    assert several.teacher[:2] == [Path("large.onnx"), tmp_path]
    assert isinstance(several.teacher[2], nn.Linear)


def test_a_teacher_without_training_is_refused(write) -> None:
    _, task = load_project(write(GOOD), {})
    with pytest.raises(UsageError, match="there is no recipe"):
        taught(None, task, ["original"])
    with pytest.raises(UsageError, match="none in this one"):
        taught(lissom.Recipe([lissom.Fold()]), task, ["original"])
    with pytest.raises(ProjectError, match="no project file orginal"):
        taught(lissom.Recipe([lissom.Finetune()]), task, ["orginal"])
