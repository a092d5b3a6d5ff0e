"""2:4, folded and rounded, through the whole pipeline: counted in the result, told in the report, loaded again."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import nn

import lissom
from lissom.functional.nm import Pattern


def test_a_pattern_from_recipe_to_report(tmp_path, quick):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    data = [(torch.randn(16, 4, 8, 8), torch.randint(0, 5, (16,))) for _ in range(3)]
    task = lissom.Task(example_inputs=(data[0][0][:1],), calibration=data, validation=data, loss=F.cross_entropy)
    recipe = lissom.Recipe([lissom.Sparsify(pattern="2:4", criterion="sparsegpt"), lissom.Fold()])
    result = lissom.compress(model, task, recipe=recipe, target="onnxruntime", out=tmp_path / "run")
    found = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    weights = [result.model.get_parameter(name) for name in ("0.weight", "5.weight")]
    assert all(Pattern(2, 4).held_by(weight) for weight in weights)
    assert found["after"]["nonzeros"] == sum(int(p.count_nonzero()) for p in result.model.parameters())
    assert found["before"]["nonzeros"] == sum(int(p.count_nonzero()) for p in model.parameters())
    shares = {layer["layer"]: (layer["zeros"], layer["pattern"]) for layer in found["layers"]}
    assert {name: shares[name] for name in ("0", "1", "5")} == {"0": (0.5, "2:4"), "1": (0.0, ""), "5": (0.5, "2:4")}
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Parameters that are not zero" in page
    assert "50% (2:4)" in page
    again = lissom.load(tmp_path / "run", model)
    x = torch.randn(3, 4, 8, 8)
    assert torch.equal(again(x), result.model(x))
