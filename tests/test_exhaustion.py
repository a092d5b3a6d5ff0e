"""A machine that has run out of disk or memory says so, and the run goes on when there is some again."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lissom import cli, runfolder
from lissom.errors import RunFolderError
from lissom.exhaustion import disk_full, out_of_memory
from lissom.files import write_text
from lissom.runfolder import Source, opened

SOURCE = Source(model="aa", wanted="target onnxruntime", seed=0, lissom="1")
PROJECT = """
import torch
from torch import nn
import lissom

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    x = torch.randn(32, 1, 8, 8)
    batches = [(x, torch.arange(32) % 4)]
    metric = lissom.metrics.accuracy
    return model, lissom.Task(example_inputs=(x[:4],), calibration=batches, test=batches, metric=metric)
"""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_is_known_by_its_number_wherever_it_began(number: int) -> None:
    def fail() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as wrong:
            raise RuntimeError("torch could not write") from wrong

    with pytest.raises(RuntimeError) as raised:
        fail()
    assert disk_full(raised.value)
    assert not out_of_memory(raised.value)


def test_other_errors_are_neither() -> None:
    for wrong in (OSError(errno.ENOENT, "no such file"), ValueError("disk is full"), KeyError("out of memory"),
                  RuntimeError("shapes differ"), RunFolderError("out of memory")):  # fmt: skip
        assert not disk_full(wrong)
        assert not out_of_memory(wrong)


def test_libraries_say_it_in_their_own_words() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(of_torch.value)
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert disk_full(sqlite3.OperationalError("database or disk is full"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (MemoryError("no room"), r"failed: out of memory: no room\. Give the task smaller batches"),
        (OSError(errno.ENOSPC, "No space left on device"), r"failed: nothing more can be written: .*No space left"),
    ],
)
def test_the_command_line_says_what_to_do(
    wrong: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise wrong

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="3"):
        cli.main()
    shown = capsys.readouterr().err
    assert pytest.raises(AssertionError, match=said).matches(AssertionError(shown))
    assert "Traceback" not in shown


def test_a_full_disk_is_an_error_of_the_run_folder_and_stages_are_kept(tmp_path: Path) -> None:
    def fail() -> None:
        with opened(tmp_path / "run", SOURCE, None, {}) as folder:
            folder.stage("one", Source, lambda: SOURCE)
            raise RuntimeError("export failed") from OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFolderError, match=r"cannot go on: export failed\. Free space there.*it continues"):
        fail()
    with opened(tmp_path / "run", SOURCE, None, {}) as folder:
        folder.stage("one", Source, lambda: pytest.fail("lost"))


def test_a_full_disk_at_every_write_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(place: Path) -> None:
        with opened(place, SOURCE, None, {}) as folder:
            for name in ("one", "two"):
                folder.stage(name, Source, lambda: SOURCE)
            write_text(folder.path / "result.json", "{}")

    for limit in range(5):
        left = limit

        def full(path: Path, text: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                path.with_name(f".{path.name}.part").write_text("ha")
                raise RunFolderError(f"{path} cannot be written: No space left on device. Free space there.")
            write_text(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(runfolder, "write_text", full)
            if limit < 3:
                with pytest.raises(RunFolderError, match="No space left"):
                    run(tmp_path / str(limit))
        run(tmp_path / str(limit))
        assert (tmp_path / str(limit) / "result.json").read_text() == "{}"


def _command(tmp_path: Path, limit: int | None) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files cannot grow beyond `limit` bytes, whoever writes them."""
    (tmp_path / "project.py").write_text(PROJECT)
    restrict: Callable[[], None] | None = None
    if limit is not None:

        def cap() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        restrict = cap
    return subprocess.run(
        [sys.executable, "-m", "lissom", "compress", str(tmp_path / "project.py"), "-t", "onnxruntime",
         "--out", str(tmp_path / "run")],
        check=False, capture_output=True, text=True, preexec_fn=restrict,
    )  # fmt: skip


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_one_sentence_and_the_same_command_continues(tmp_path: Path) -> None:
    for limit in (100, 2_000, 5_000, 100_000):
        ended = _command(tmp_path, limit)
        assert ended.returncode == 3, ended.stderr
        assert "Traceback" not in ended.stderr, ended.stderr
        assert ended.stderr.strip().splitlines()[-1].startswith("failed: ")
        assert "File too large" in ended.stderr or "cannot be written" in ended.stderr, ended.stderr
    ended = _command(tmp_path, None)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run/report.html").is_file()


def test_a_folder_that_may_only_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    tmp_path.chmod(0o555)
    with (
        pytest.raises(RunFolderError, match="cannot be written: Permission denied"),
        opened(tmp_path / "run", SOURCE, None, {}),
    ):
        pass
