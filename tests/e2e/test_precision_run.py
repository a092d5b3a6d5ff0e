"""A run that searches for bits: its table lies in the run folder, its layers are told by how they are stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lissom
from lissom.transforms.quantization import PrecisionTable


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_table_of_a_search_is_kept_in_the_run_folder(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    x = torch.randn(200, 64)
    with torch.no_grad():
        y = model(x).argmax(-1)
    task = lissom.Task(
        example_inputs=(x[:1],), calibration=[x], validation=[(x, y)], test=[(x, y)], metric=lissom.metrics.accuracy
    )
    recipe = lissom.Recipe([lissom.Quantize(precision="auto", latency_ratio=1.01, calibration="minmax")])
    dry = lissom.Recipe([lissom.Quantize(precision="auto", size_ratio=2.5)])
    assert lissom.plan(model, task, dry)[0].predicted.bytes * 2.5 <= sum(4 * p.numel() for p in model.parameters())
    out, reason = tmp_path / "fast", ""
    try:
        lissom.compress(model, task, recipe=recipe, target="openvino", out=out, threads=1)
    except lissom.errors.GoalError as wrong:  # so small a model may be fastest in float
        reason = str(wrong)
    assert "out of reach by fewer bits" in reason or PrecisionTable.read(out / "precision.json").milliseconds > 0
    out = tmp_path / "small"
    result = lissom.compress(model, task, recipe=dry, target="torch", out=out, threads=1)
    table = PrecisionTable.read(out / "precision.json")
    assert {line.layer for line in table.layers} == {"0", "2", "4"}
    stored = {layer.layer: layer.weights for layer in result.record.layers if layer.weights}
    names = {32: "float32", 16: "float16", 8: "int8", 4: "int8, 4-bit steps"}
    assert stored == {layer: names[bits] for layer, bits in table.solve(size_ratio=2.5).items()}
