"""Weights in integers through the whole pipeline: run, record, reload."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import lissom

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Embedding(50, 64), nn.LayerNorm(64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 50))
    return made.eval()


@pytest.mark.slow
def test_a_run_says_how_weights_are_stored_and_comes_back(tmp_path):
    tokens = torch.randint(0, 50, (64, 6), generator=torch.Generator().manual_seed(1))
    task = lissom.Task(example_inputs=(tokens[:1],), calibration=[tokens])
    recipe = lissom.Recipe([lissom.Quantize(mode="weights", weight_bits=4, group=32, symmetric=False)])
    model = network()
    result = recipe.run(model, task, target="onnxruntime", out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    layers = {layer["layer"]: layer for layer in record["layers"]}
    assert {name: layers[name]["weights"] for name in ("0", "2", "4")} == dict.fromkeys("024", "uint4, groups of 32")
    assert layers["2"]["planned"] == layers["2"]["ran"] == "int4 weights"
    assert [one["name"] for step in record["steps"] for one in step["corrections"]] == ["awq", "gptq"]
    loaded = lissom.load(tmp_path / "run", network())
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens), result.model(tokens), rtol=0, atol=0)
        assert not torch.equal(result.model(tokens), model(tokens))
