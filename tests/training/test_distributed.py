"""Two gloo processes give the numbers of one; one that is killed is started again and goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import program
import pytest
import torch
import torch.nn.functional as F
from loops import weights
from safetensors.torch import load_file

from lissom.task import Batch
from lissom.training.distributed import Team, joined
from lissom.training.history import History

PROGRAM = Path(__file__).with_name("program.py")
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def command(place: Path, name: str) -> list[str]:
    return [sys.executable, "-W", "ignore", str(PROGRAM), str(place / f"{name}.work"), str(place / name)]


def together(place: Path, name: str, size: int) -> None:
    """`size` processes as `torchrun` starts them."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(command(place, name), env={**ALONE, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    assert [process.wait(120) for process in started] == [0] * size


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Normalizations, clipping, averages, mixed targets, a teacher, a batch that one of them has no row of."""
    together(tmp_path, "two", 2)
    wanted = program.trained()
    two = History.model_validate_json((tmp_path / "two.json").read_text())
    torch.testing.assert_close(load_file(tmp_path / "two"), weights(wanted.model), rtol=1e-4, atol=1e-5)
    assert [e.loss for e in two.epochs] == pytest.approx([e.loss for e in wanted.history.epochs], rel=1e-5)
    for epoch, one in zip(two.epochs, wanted.history.epochs, strict=True):
        assert epoch.parts == pytest.approx(one.parts, rel=1e-4)
    assert [e.metric for e in two.epochs] == [e.metric for e in wanted.history.epochs]


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_goes_on(tmp_path: Path) -> None:
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, dies in (("killed", "5"), ("unbroken", "0")):
        subprocess.run(
            [*launch, "--max-restarts", "2", *command(tmp_path, name)[3:]], env={**ALONE, "DIES": dies}, check=True
        )
    left, right = load_file(tmp_path / "killed"), load_file(tmp_path / "unbroken")
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_alone_nothing_is_divided() -> None:
    with joined(torch.device("cpu")) as team:
        batch = Batch((torch.zeros(4, 2),))
        assert team.first
        assert team.part(batch) == (batch, 1.0)
        assert team.from_first(lambda: b"x") == b"x"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", [5, 4, 3])
def test_parts_cover_a_batch_and_their_shares_its_mean(size: int) -> None:
    x, y = torch.randn(size, 4), torch.arange(size) % 4
    parts = [Team(torch.device("cpu"), rank, 3).part(Batch((x,), target=y)) for rank in range(3)]
    assert torch.equal(torch.cat([part.args[0] for part, _ in parts]), x)
    mean = sum(share * F.cross_entropy(part.args[0], part.target) for part, share in parts)
    torch.testing.assert_close(mean, F.cross_entropy(x, y))


def test_a_batch_smaller_than_the_team_is_computed_by_all() -> None:
    batch = Batch((torch.randn(2, 4),))
    parts = [Team(torch.device("cpu"), rank, 3).part(batch) for rank in range(3)]
    assert all(part is batch for part, _ in parts)
    assert sum(share for _, share in parts) == pytest.approx(1.0)
