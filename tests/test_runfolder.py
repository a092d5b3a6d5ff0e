"""Run folders: never another's, never half, never believed when altered."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest
import torch
from torch import nn

from lissom import files
from lissom.errors import RunFolderError
from lissom.export.base import Artifact, artifact_of
from lissom.files import load_tensors, save_tensors, write_text
from lissom.inputs import load_example, save_example
from lissom.runfolder import (
    REQUIRED,
    Manifest,
    RunFolder,
    Source,
    fingerprint,
    opened,
    read_manifest,
    verify,
)
from lissom.task import Batch

SOURCE = Source(model="aa", wanted="target onnxruntime", seed=0, lissom="1")


class Value(pydantic.BaseModel):
    value: int


def made(path: Path, source: Source = SOURCE) -> RunFolder:
    return RunFolder(path, source, None, {})


def finished(path: Path) -> Path:
    with opened(path, SOURCE, None, {}) as folder:
        for name in REQUIRED:
            write_text(path / name, f"{{}} {name}")
        artifacts: list[Artifact] = []
        for name in ("model.onnx", "original.onnx"):
            write_text(path / name, name)
            artifacts.append(artifact_of("onnxruntime", path, [name], [], [], batch=None, fixed=False))
        folder.finish(artifacts[0], artifacts[1], "onnxruntime")
    return path


def left(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "bb"}, r"of another model \(its fingerprint is aa, this one's is bb\).*same weights every time"),
        ({"wanted": "target openvino"}, r"that was asked for otherwise: target onnxruntime; now: target openvino"),
        ({"seed": 7}, r"of seed 0, now it is 7"),
        ({"lissom": "2"}, r"of Lissom 1, this is 2"),
    ],
)
def test_a_folder_of_another_run_says_what_differs_and_how_to_go_on(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    other = SOURCE.model_copy(update=change)
    finished(tmp_path / "done")
    with pytest.raises(RunFolderError, match=rf"already holds a finished run {said}.*choose another --out, or delete"):
        made(tmp_path / "done", other)
    with opened(tmp_path / "begun", SOURCE, None, {}) as folder:
        folder.stage("one", Value, lambda: Value(value=1))
    before = left(tmp_path)
    with pytest.raises(RunFolderError, match=rf"an unfinished run {said}.*repeat its own command to continue it"):
        made(tmp_path / "begun", other)
    assert left(tmp_path) == before


def test_a_run_that_finished_no_stage_gives_way_to_another(tmp_path: Path) -> None:
    made(tmp_path / "run").close()  # as after kill -9: nothing cleaned up
    assert (tmp_path / "run/manifest.json").exists()
    other = SOURCE.model_copy(update={"seed": 3})
    with opened(tmp_path / "run", other, None, {}) as folder:
        assert folder.manifest.source == other
        assert read_manifest(tmp_path / "run").source == other


@pytest.mark.parametrize("interrupt", [RunFolderError("x"), ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_before_the_first_stage_leaves_nothing(tmp_path: Path, interrupt: BaseException) -> None:
    def fail() -> None:
        with opened(tmp_path / "a/b/run", SOURCE, None, {}) as folder:
            write_text(folder.path / "example.safetensors", "x")
            write_text(folder.state / "step-1.safetensors", "x")
            folder.stage("one", Value, _raise(interrupt))

    with pytest.raises(type(interrupt)):
        fail()
    assert left(tmp_path) == []


def test_a_failure_keeps_the_users_own_empty_folder_and_finished_stages(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="x"), opened(tmp_path / "mine", SOURCE, None, {}) as folder:
        folder.stage("one", Value, _raise(ValueError("x")))
    assert left(tmp_path) == ["mine"]

    def fail() -> None:
        with opened(tmp_path / "run", SOURCE, None, {}) as folder:
            folder.stage("one", Value, lambda: Value(value=1))
            folder.stage("two", Value, _raise(ValueError("x")))

    with pytest.raises(ValueError, match="x"):
        fail()
    with opened(tmp_path / "run", SOURCE, None, {}) as folder:
        assert folder.stage("one", Value, _raise(ValueError("done already"))) == Value(value=1)
        assert not (tmp_path / "run/state/two.json").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.txt", "state"):
        place = tmp_path / name
        place.mkdir()
        (place / name).mkdir()
        with pytest.raises(RunFolderError, match=rf"is not empty and holds no run \('{name}' is in it\)"):
            made(place)
        assert left(place) == [name]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file/run", Path("/proc/lissom-run")):
        with pytest.raises(RunFolderError, match=rf"{place} cannot be written: .*\. Choose another --out\."):
            made(place)
    assert left(tmp_path) == ["file"]


def test_a_folder_in_use_by_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom lissom.runfolder import RunFolder, Source\n"
        "source = Source(model='aa', wanted='target onnxruntime', seed=0, lissom='1')\n"
        "held = RunFolder(Path(sys.argv[1]), source, None, {})\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        told = rf"in use by another process \(process {other.pid} on \S+, since 20.*\)\. Wait for it, or choose another"
        with pytest.raises(RunFolderError, match=told):
            made(tmp_path / "run")
        (tmp_path / "run/.holder.json").write_text("{half")
        with pytest.raises(RunFolderError, match=r"in use by another process\. Wait for it, or choose another --out"):
            made(tmp_path / "run")
        other.kill()
        other.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until:  # the lock dies with the process
        try:
            made(tmp_path / "run").close()
            break
        except RunFolderError:
            time.sleep(0.05)
    else:
        pytest.fail("the lock outlived its process")


def test_a_finished_folder_verifies(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    manifest = verify(folder)
    assert set(manifest.files) == {*REQUIRED, "model.onnx", "original.onnx"}
    assert left(folder) == sorted([*manifest.files, "manifest.json"])


@pytest.mark.parametrize("name", [*REQUIRED, "model.onnx", "original.onnx"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "grown", "missing", "folder"])
def test_damage_to_any_file_is_seen(tmp_path: Path, name: str, damage: str) -> None:
    file = finished(tmp_path / "run") / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"truncated": content[:-1], "altered": b"#" + content[1:], "grown": content + b" "}[damage])
    said = "is missing" if damage in ("missing", "folder") else "is truncated or altered"
    with pytest.raises(RunFolderError, match=rf"{name} {said}"):
        verify(file.parent)


def _rewritten(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "..", ".lock", "a/b", "", "a\\b", "a\0b", "x" * 5_000, "a\n", "\x1b[2J"]
)
def test_a_manifest_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("x")
    run = finished(tmp_path / "run")
    _rewritten(run, lambda data: data["files"].update({name: "0"}))  # type: ignore[attr-defined]
    with pytest.raises(RunFolderError, match=r"lies outside the run folder\. Do not trust it"):
        verify(run)
    run = finished(tmp_path / "run2")
    _rewritten(run, lambda data: data["artifact"].update(files=[name]))  # type: ignore[attr-defined]
    with pytest.raises(RunFolderError, match=r"lies outside the run folder"):
        verify(run)


def test_links_that_lead_outside_are_neither_read_nor_written(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    outside = tmp_path / "outside"
    (run / "model.onnx").rename(outside)
    (run / "model.onnx").symlink_to(outside)
    with pytest.raises(RunFolderError, match=r"model\.onnx is a link that leads outside the run folder"):
        verify(run)
    (run / ".result.json.part").symlink_to(outside)
    before = outside.read_bytes()
    write_text(run / "result.json", "new")
    assert outside.read_bytes() == before
    assert (run / "result.json").read_text() == "new"


@pytest.mark.parametrize("name", [*REQUIRED, "model.onnx"])
def test_a_manifest_that_forgets_a_file_is_refused(tmp_path: Path, name: str) -> None:
    run = finished(tmp_path / "run")
    _rewritten(run, lambda data: data["files"].pop(name))  # type: ignore[attr-defined]
    with pytest.raises(RunFolderError, match=rf"does not list '{name}'"):
        verify(run)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged"),
        ('{"format": 1', "is damaged"),
        ("[" * 100_000, "nested more than"),
        ('{"format": ' + "9" * 5_000 + "}", "digits"),
        ('{"format": 1, "status": "\\ud800"}', "half a character"),
        ("[]", "is damaged"),
        ('{"format": 2}', r"is of format 2, this Lissom reads format 1"),
        ('{"format": 1, "status": "running"}', r"'source' is missing.*damaged"),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunFolderError, match=rf"manifest\.json.*{said}"):
        read_manifest(tmp_path)
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        made(tmp_path)


def test_no_run_and_an_unfinished_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunFolderError, match=r"is not a run folder: it has no manifest\.json"):
            verify(place)
    made(tmp_path / "run").close()
    with pytest.raises(RunFolderError, match=r"is not finished\. The command that started it continues it"):
        verify(tmp_path / "run")


@pytest.mark.parametrize("wrong", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: BaseException
) -> None:
    text, weights = tmp_path / "a.json", tmp_path / "a.safetensors"
    write_text(text, "old")
    save_tensors(weights, {"w": torch.ones(3)})
    content = weights.read_bytes()

    def half(*args: object, **_: object) -> None:
        target = args[1] if isinstance(args[1], Path) else args[0]
        assert isinstance(target, Path)
        target.write_bytes(b"half")
        raise wrong

    monkeypatch.setattr(files, "save_file", half)
    monkeypatch.setattr(Path, "write_text", half)
    disk = isinstance(wrong, OSError)
    kind, said = (RunFolderError if disk else KeyboardInterrupt), "No space left.*Free space" if disk else None
    with pytest.raises(kind, match=said):
        save_tensors(weights, {"w": torch.zeros(3)})
    with pytest.raises(kind, match=said):
        write_text(text, "new")
    assert left(tmp_path) == ["a.json", "a.safetensors"]
    assert text.read_text() == "old"
    assert weights.read_bytes() == content


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made(run).close()
    (run / ".model.safetensors.part").write_text("half")
    (run / ".export-xyz").mkdir()
    finished(run)
    assert not [name for name in left(run) if name.startswith(".")]


def test_weights_keep_their_values_types_and_the_usual_permissions(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "a": shared,
        "tied": shared,
        "slice": torch.arange(12.0).reshape(3, 4)[:, ::2],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False]),
    }
    save_tensors(tmp_path / "w.safetensors", tensors)
    found = load_tensors(tmp_path / "w.safetensors")
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(os.stat(tmp_path / "w.safetensors").st_mode) == stat.S_IMODE(  # noqa: PTH116
        os.stat(tmp_path / "plain").st_mode  # noqa: PTH116
    )


def test_damaged_weights_and_pickles_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RunFolderError, match=r"w\.safetensors is damaged"):
        load_tensors(tmp_path / "w.safetensors")
    save_tensors(tmp_path / "t.safetensors", {"w": torch.ones(100)})
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:-10])
    with pytest.raises(RunFolderError, match=r"t\.safetensors is damaged.*Run the compression again"):
        load_tensors(tmp_path / "t.safetensors")


def test_examples_keep_order_and_names(tmp_path: Path) -> None:
    example = Batch(tuple(torch.full((1,), float(i)) for i in range(12)), {"mask": torch.ones(1), "ids": torch.ones(2)})
    save_example(tmp_path / "e.safetensors", example)
    found = load_example(tmp_path / "e.safetensors")
    assert [float(x) for x in found.args] == list(range(12))
    assert set(found.kwargs) == {"mask", "ids"}
    for names in (["args/1"], ["args/0", "args/2"], ["weight"], []):
        save_tensors(tmp_path / "g.safetensors", {name: torch.ones(1) for name in names})
        with pytest.raises(RunFolderError, match=r"g\.safetensors holds no example inputs"):
            load_example(tmp_path / "g.safetensors")
    with pytest.raises(RunFolderError, match=r"Example input args/1 is not a tensor; wrap the model"):
        save_example(tmp_path / "f.safetensors", Batch((torch.ones(1), 3)))


def test_a_damaged_stage_is_done_again_and_each_draws_the_same(tmp_path: Path) -> None:
    def draw() -> Value:
        return Value(value=int(torch.randint(10**9, ())))

    drawn: list[list[int]] = []
    for number in range(2):
        with opened(tmp_path / str(number), SOURCE, None, {}) as folder:
            torch.manual_seed(number)
            one = folder.stage("one", Value, draw)
            (folder.state / "one.json").write_text("{half")
            assert folder.stage("one", Value, draw) == one
            (folder.state / "one.json").write_bytes(b"\xff")
            assert folder.stage("one", Value, draw) == one
            two = folder.stage("two", Value, draw)
            assert folder.stage("two", Value, _raise(ValueError()), holds=lambda saved: saved.value > 0) == two
            assert folder.stage("two", Value, lambda: Value(value=-1), holds=lambda _: False) == Value(value=-1)
            drawn.append([one.value, two.value])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


def test_stages_of_code_that_changed_are_done_again(tmp_path: Path) -> None:
    with opened(tmp_path / "run", SOURCE, None, {}) as folder:
        folder.of_graph("g1")
        folder.stage("one", Value, lambda: Value(value=1))
    with opened(tmp_path / "run", SOURCE, None, {}) as folder:
        folder.of_graph("g1")
        assert folder.stage("one", Value, lambda: Value(value=2)).value == 1
    with opened(tmp_path / "run", SOURCE, None, {}) as folder:
        folder.of_graph("g2")
        assert folder.stage("one", Value, lambda: Value(value=2)).value == 2
    _rewritten(finished(tmp_path / "done"), lambda data: data.update(graph="g1"))
    with opened(tmp_path / "done", SOURCE, None, {}) as folder:
        folder.of_graph("g1")
    with (
        opened(tmp_path / "done", SOURCE, None, {}) as folder,
        pytest.raises(RunFolderError, match=r"same weights and another forward\(\)"),
    ):
        folder.of_graph("g2")


def test_fingerprints_see_class_names_shapes_types_and_values() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    same = nn.Linear(3, 3)
    same.load_state_dict(model.state_dict())
    assert fingerprint(model) == fingerprint(same)
    assert len(fingerprint(model)) == 16
    found = {fingerprint(model), fingerprint(nn.Sequential(same)), fingerprint(nn.Linear(3, 3))}
    found.add(fingerprint(same.double()))
    with torch.no_grad():
        model.weight[0, 0] += 1
    found.add(fingerprint(model))
    assert len(found) == 5
    assert fingerprint(nn.BatchNorm2d(2)) == fingerprint(nn.BatchNorm2d(2))  # a scalar among its buffers


def test_no_source_file_pickles() -> None:
    between_processes = {"crew.py", "evaluating.py"}  # of one command; nothing is written
    for file in Path(files.__file__).parent.rglob("*.py"):
        if file.name in between_processes:
            continue
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("import pickle", "torch.save(", "torch.load(") if word in text], file


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    text = (tmp_path / "run/manifest.json").read_text()
    assert Manifest.model_validate(json.loads(text)).status == "finished"


def _raise(wrong: BaseException) -> Callable[[], Value]:
    def compute() -> Value:
        raise wrong

    return compute
