"""Saturation of a model, as figures and as `lissom inspect --saturation`; the monitor of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from typer.testing import CliRunner

import lissom
from lissom.cli import app
from lissom.measure.records import Saturation
from lissom.pipeline import saturation
from lissom.report.saturation import saturation_text

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found() -> Saturation:
    return saturation(tiny.tiny(), tiny.task(), target="openvino", calibration="minmax")


def test_every_product_is_certified_and_heard(found: Saturation) -> None:
    products = [layer for layer in lissom.analyze(tiny.tiny(), tiny.task()).layers if layer.op in ("conv2d", "linear")]
    assert [one.layer for one in found.layers] == [layer.name for layer in products]
    assert all(one.own_db is not None and one.own_db > 20 for one in found.layers)
    assert all(one.clipped == 0.0 for one in found.values)  # min-max clips nothing it has seen
    assert found.runtime_db == pytest.approx(found.simulated_db, abs=1.0)


def test_the_first_layers_noise_is_its_own(found: Saturation) -> None:
    assert found.layers[0].accumulated_db == pytest.approx(found.layers[0].own_db, abs=0.1)


def test_an_outlier_is_told() -> None:
    task = tiny.task()
    loud = [(x.clone(), y) for x, y in ((b.args[0], b.target) for b in task.batches("train", limit=64))]
    loud[0][0].view(-1)[0] = 1000.0
    worse = saturation(
        tiny.tiny(), lissom.Task(example_inputs=task.example.args, calibration=loud), target="openvino",
        calibration="minmax",
    )  # fmt: skip
    assert worse.values[0].tail > 50
    assert "Heavy tails" in saturation_text(worse)


def test_weights_that_overflow_are_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.risky = nn.Linear(4, 2)
            self.calm = nn.Linear(2, 2)
            with torch.no_grad():
                self.risky.weight.fill_(1.0)
                self.calm.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 1.0]]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.calm(torch.relu(self.risky(x)))

    data = [(torch.rand(32, 4),)]
    found = saturation(Net(), lissom.Task(example_inputs=data[0], calibration=data), calibration="minmax")
    assert [(one.layer, one.rows_at_risk) for one in found.layers] == [("risky", 2), ("calm", 0)]


def test_the_command_shows_and_writes_it(tmp_path: Path) -> None:
    project = str(HERE / "tiny_project.py")
    asked = ["inspect", project, "--saturation", "--target", "openvino", "--html", str(tmp_path / "page.html")]
    made = CliRunner().invoke(app, [*asked, "--json"])
    assert made.exit_code == 0, made.output
    data = json.loads(made.stdout)["saturation"]
    assert data["target"] == "openvino"
    assert data["layers"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Where the rounding noise comes from" in page
    assert data["layers"][0]["layer"] in page


def test_a_finished_run_can_be_monitored(finished: lissom.Result) -> None:
    seen = lissom.monitor(finished.folder)
    batch = next(tiny.task().batches("test"))
    seen.see_([batch.args[0].numpy()])
    calm = seen.report()[0]
    assert calm.outside is not None
    assert not calm.drifted
    seen.see_([np.full_like(batch.args[0].numpy(), 1e6)])
    assert seen.report()[0].drifted
