"""`lissom compress` under torchrun: two processes train as one, one writes, a killed one is started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROJECT = Path(__file__).with_name("dying_project.py")
RECIPE = """- Prune:
    macs_ratio: 1.5
- Finetune:
    epochs: 2
    learning_rate: 0.01
    precision: float32
    channels_last: false
- Fold
"""
"""Float32 in one memory order: which is faster is measured, and may come out otherwise from run to run."""
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}


def compress(place: Path, name: str, *launch: str, **settings: int) -> Path:
    (place / "recipe.yaml").write_text(RECIPE)
    given = [f"--set={key}={value}" for key, value in settings.items()]
    command = [
        sys.executable, "-W", "ignore", "-m", *launch, "lissom", "compress", str(PROJECT), "--out", str(place / name),
        "--recipe", str(place / "recipe.yaml"), "--target", "onnxruntime", "--threads", "1", *given,
    ]  # fmt: skip
    subprocess.run(command, env=ALONE, check=True, cwd=place)
    return place / name


def together(place: Path, name: str, **settings: int) -> Path:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    return compress(place, name, *launch, "--log-dir", str(place / f"{name}.logs"), "-r", "3", "-m", **settings)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_training_after_pruning_matches_one_process_and_survives_a_killed_one(tmp_path):
    alone = compress(tmp_path, "alone")
    two = together(tmp_path, "two")
    wanted, found = load_file(alone / "model.safetensors"), load_file(two / "model.safetensors")
    assert {name: value.shape for name, value in wanted.items()} == {n: v.shape for n, v in found.items()}
    # The same sums in another order; 8 steps carry that on.
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    said = {log.parts[-2]: log.read_text() for log in (tmp_path / "two.logs").rglob("stdout.log")}
    assert "Run folder" in said["0"]
    assert not [line for line in said["1"].splitlines() if line.strip()], "the other one is quiet"
    killed = together(tmp_path, "killed", dies=5)
    again = load_file(killed / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in found.items())
    assert len(list((tmp_path / "killed.logs").rglob("stdout.log"))) == 4, "both were started twice"
