"""Killed while a task is added: the others are untouched, and the same call ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import worlds

from lissom.errors import RunFolderError
from lissom.lifelong import Lifelong, store
from lissom.lifelong.proving import weights_hash

HERE = Path(__file__).parent
PROGRAM = """
import sys, worlds
from pathlib import Path
from lissom.lifelong import Lifelong
lifelong = Lifelong.open(Path(sys.argv[1]), worlds.net())

def progress(share, what):
    print(what, flush=True)

lifelong.add("b", worlds.task(1), worlds.pack(), progress=progress)
"""


LOCKS = (".lock", ".holder.json")
"""What a killed process leaves behind, and the next one takes over."""


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "adding" not in path.parts]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.name not in LOCKS
    }


def one(folder: Path) -> Lifelong:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0), bits=8)
    lifelong.add("a", worlds.task(0), worlds.pack())
    return lifelong


def test_killed_in_training_it_goes_on(tmp_path: Path) -> None:
    unbroken, broken = one(tmp_path / "unbroken"), one(tmp_path / "broken")
    wanted = unbroken.add("b", worlds.task(1), worlds.pack())
    before = tree(broken.folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, filter(None, sys.path)), str(HERE)])}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(broken.folder)],
        stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "retraining" in line:  # the first training is finished, the second has begun
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert tree(broken.folder) == before
    assert (broken.folder / "adding" / "width-1" / "training").is_dir()
    again = Lifelong.open(broken.folder, worlds.net())
    assert again.prove().held
    with pytest.raises(RunFolderError, match=r"unfinished addition of 'b', which differs in settings.*delete"):
        again.add("b", worlds.task(1), worlds.pack(0.1))
    started = time.monotonic()
    found = again.add("b", worlds.task(1), worlds.pack())
    assert found.seconds <= time.monotonic() - started
    assert (found.weights_sha256, found.outputs_sha256) == (wanted.weights_sha256, wanted.outputs_sha256)
    assert not (broken.folder / "adding").exists()
    assert again.prove().held


@pytest.mark.parametrize("moment", ["save_tensors", "write_text", "_sync", "rename"])
def test_stopped_around_the_commit_it_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    lifelong = one(tmp_path / "folder")
    before = tree(lifelong.folder)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "save_tensors":
            patch.setattr("lissom.lifelong.keeping.save_tensors", stop)
        elif moment == "rename":
            patch.setattr(Path, "rename", stop)
        elif moment == "_sync":
            patch.setattr(store, "_sync", stop)
        else:
            whole = store.write_text
            patch.setattr(store, "write_text", lambda p, text: stop() if p.name == "task.json" else whole(p, text))
        with pytest.raises(KeyboardInterrupt):
            lifelong.add("b", worlds.task(1), worlds.pack())
    visible = {name: value for name, value in tree(lifelong.folder).items() if ".0002-b.part" not in name}
    assert visible == before
    assert [task.name for task in lifelong.tasks] == ["a"]
    lifelong.add("b", worlds.task(1), worlds.pack())
    assert lifelong.prove().held
    assert not list(lifelong.folder.rglob("*.part"))


def test_stopped_while_tidying_up_it_is_tidied_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lifelong = one(tmp_path / "folder")

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "commit", _committing(stop))
        with pytest.raises(KeyboardInterrupt):
            lifelong.add("b", worlds.task(1), worlds.pack())
    assert [task.name for task in lifelong.tasks] == ["a", "b"]
    assert (lifelong.folder / "adding").exists()
    lifelong.add("c", worlds.task(2), worlds.pack())
    assert [task.name for task in lifelong.tasks] == ["a", "b", "c"]
    assert lifelong.prove().held


def _committing(stop):  # type: ignore[no-untyped-def]
    """A commit that is stopped once the task is there."""
    commit = store.Store.commit

    def committing(self: store.Store, *given):  # type: ignore[no-untyped-def]
        tidy, store.Store.tidy = store.Store.tidy, stop
        try:
            return commit(self, *given)
        finally:
            store.Store.tidy = tidy

    return committing


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lifelong = one(tmp_path / "folder")
    other = Lifelong.open(lifelong.folder, worlds.net())
    with other._store.locked(), pytest.raises(RunFolderError, match="in use by another process"):
        lifelong.add("b", worlds.task(1), worlds.pack())


def test_what_was_altered_is_named(tmp_path: Path) -> None:
    lifelong = one(tmp_path / "folder")
    place = lifelong.folder / "tasks" / "0001-a"
    for name in ("masks.bin", "weights.safetensors", "private.safetensors", "probe.safetensors", "answers.safetensors"):
        data = (place / name).read_bytes()
        (place / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(RunFolderError, match=f"{name} is truncated or altered"):
            lifelong.prove()
        (place / name).write_bytes(data)
    assert lifelong.prove().held
    record = (place / "task.json").read_text()
    (place / "task.json").write_text(record.replace('"index": 1', '"index": 2'))
    with pytest.raises(RunFolderError, match="the task number 1 is missing"):
        lifelong.prove()
    (place / "task.json").write_text(record[:-20])
    with pytest.raises(RunFolderError, match=r"task\.json is damaged"):
        lifelong.prove()
    (place / "task.json").write_text(record)
    manifest = lifelong.folder / "lifelong.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(RunFolderError, match="is of format 9"):
        Lifelong.open(lifelong.folder, worlds.net())


def test_prove_sees_other_weights_and_outputs(tmp_path: Path) -> None:
    lifelong = one(tmp_path / "folder")
    path = lifelong.folder / "tasks" / "0001-a" / "task.json"
    record = path.read_text()
    task = lifelong.tasks[0]
    assert weights_hash(lifelong.model("a")) == task.weights_sha256
    path.write_text(record.replace(task.weights_sha256, "0" * 64))
    (found,) = lifelong.prove().tasks
    assert (found.weights_same, found.outputs_same, found.held) == (False, True, False)
    path.write_text(record.replace(task.outputs_sha256, "0" * 64))
    (found,) = lifelong.prove().tasks
    assert (found.weights_same, found.outputs_same, found.held) == (True, False, False)
    # Another processor may round differently, and is told so.
    path.write_text(record.replace(task.outputs_sha256, "0" * 64).replace('"torch":', '"other":'))
    (found,) = lifelong.prove().tasks
    assert (found.same_machine, found.difference, found.held) == (False, 0.0, True)


def test_a_folder_whose_making_was_killed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            Lifelong.create(worlds.net(), tmp_path / "folder", worlds.task(0))
    (tmp_path / "folder" / ".original.safetensors.part").write_bytes(b"half")
    assert Lifelong.create(worlds.net(), tmp_path / "folder", worlds.task(0)).tasks == ()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty"):
        Lifelong.create(worlds.net(), tmp_path / "other", worlds.task(0))
