"""L1 at toy size: a few random images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import l1

import lissom
from lissom.data import Images
from lissom.graph.trace import trace


def images(count: int, seed: int) -> Images:
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return Images(pixels, torch.arange(count) % 10, tuple("0123456789"))


def task() -> lissom.Task:
    return lissom.Task(
        example_inputs=(torch.zeros(1, 3, 32, 32),),
        calibration=lissom.data.Batches(images(16, 0), batch_size=8),
        name="toy",
    )


@pytest.mark.slow
def test_every_factorization_leaves_what_the_goal_says():
    torch.manual_seed(0)
    model = l1.Vgg16().eval()
    whole = trace(model, task().example).graph.parameters
    for name, one in l1.settings().items():
        split, plan = l1.factorized(model, task(), one)
        assert plan.predicted.parameters <= l1.LEFT * whole, name
        assert not {action.layer for action in plan.actions} & set(l1.ENDS)
        assert trace(split, task().example).graph.parameters == plan.predicted.parameters


@pytest.mark.slow
def test_what_was_timed_for_speed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = l1.Vgg16().eval()
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=2, say=lambda _: None)
    counted = lissom.Factorize(macs_ratio=l1.FASTER, exclude=l1.ENDS, break_even="macs", data_aware=False)
    graph = trace(model, task().example)
    target = lissom.target.load_target("onnxruntime")
    plan = counted.plan(graph.graph, counted.study(model, graph, task(), target), target)
    (tmp_path / "faster.json").write_text(plan.model_dump_json())
    monkeypatch.setattr(l1, "Stopwatch", None)
    split, found = l1.for_speed(context, model, task())
    assert found == plan
    assert trace(split, task().example).graph.macs == plan.predicted.macs
    value, runs = l1.raced(context, {"dense": model, "for size": split, "for speed": split}, task())
    assert set(value) == {
        f"{name}: faster, {t}" for name in ("for size", "for speed") for t in ("onnxruntime", "openvino")
    }
    assert len(runs) == 6
    assert all(run.samples_ms for run in runs)
    assert json.loads((tmp_path / "faster.json").read_text())["transform"] == "Factorize"
