"""ExecuTorch: what the delegate takes, and what it leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import ExportError
from lissom.export.base import run
from lissom.export.executorch import MAX_BATCH, ExecuTorch
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.quantization import Quantize

if not ExecuTorch().availability().found:
    pytest.skip("executorch is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Strided(nn.Module):
    """A strided slice between two convolutions: it stays outside the delegate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = F.relu(self.a(x))
        return self.b(y[:, :, ::2, ::2]), F.avg_pool2d(y, 2)


def test_slices_between_delegates_two_outputs_and_a_float_pool(tmp_path):
    torch.manual_seed(0)
    model, x = Strided().eval(), torch.randn(40, 3, 8, 8)
    table, task = load_target("executorch"), Task(example_inputs=(x[:1],), calibration=[x])
    traced, transform = trace(model, task.example), Quantize()
    plan = transform.plan(traced.graph, transform.study(model, traced, task, table), table)
    rounded = transform.apply(model, plan, traced, task)
    artifact = ExecuTorch().export(rounded, task.example, "executorch", tmp_path, "m")
    assert (artifact.batch, artifact.fixed) == (MAX_BATCH, False)
    found = run(ExecuTorch().load(artifact, tmp_path, 2), artifact, Batch((x,)))
    with torch.no_grad():
        expected = rounded(x)
    for one, other in zip(found, expected, strict=True):
        step = float(other.max() - other.min()) / 200  # the quantizer's own range is a little wider
        assert float((one - other).abs().max()) <= step
    ran = {kernel.node: kernel.precision for kernel in ExecuTorch().kernels(artifact, tmp_path)}
    # XNNPACK pools integers only if the result is rounded too, and the table does not ask for that.
    assert ran == {"conv2d": "int8", "conv2d_1": "int8", "avg_pool2d": "float32"}


def test_splits_leave_the_batch_free(tmp_path):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 9)

        def forward(self, x):
            q, k, v = self.fc(self.norm(x)).chunk(3, -1)
            return q * k + v

    model, x = Gated().eval(), torch.randn(40, 5, 8)
    artifact = ExecuTorch().export(model, Batch((x[:1],)), "executorch", tmp_path, "m")
    assert not artifact.fixed
    runner = ExecuTorch().load(artifact, tmp_path, 1)
    for count in (1, 17, MAX_BATCH, 40):
        (found,) = run(runner, artifact, Batch((x[:count],)))
        with torch.no_grad():
            torch.testing.assert_close(found, model(x[:count]))


def test_the_example_may_be_larger_than_the_usual_bound(tmp_path):
    x = torch.randn(MAX_BATCH, 3)
    artifact = ExecuTorch().export(nn.Linear(3, 2), Batch((x,)), "executorch", tmp_path, "m")
    assert artifact.batch == 2 * MAX_BATCH


def test_an_operator_the_runtime_lacks_is_named_when_exporting(tmp_path):
    class Histogram(nn.Module):
        def forward(self, x):
            return torch.histc(x, 10)

    with pytest.raises(ExportError, match=r"operator aten\.histc"):
        ExecuTorch().export(Histogram(), Batch((torch.randn(2, 3),)), "executorch", tmp_path, "m")
    assert not list(tmp_path.iterdir())


def test_inputs_that_are_no_tensors_are_refused_by_name(tmp_path):
    class Scaled(nn.Module):
        def forward(self, x, factor):
            return x * factor

    with pytest.raises(ExportError, match="tensors only, and factor"):
        ExecuTorch().export(Scaled(), Batch((torch.randn(2, 3), 2.0)), "executorch", tmp_path, "m")
    assert not list(tmp_path.iterdir())


ALTERNATING = """
import sys
from pathlib import Path

import torch

from lissom.export.base import Artifact, run
from lissom.export.catalogue import runtime_of
from lissom.target import load_target
from lissom.task import Batch

folder = Path(sys.argv[1])
artifact = Artifact.model_validate_json((folder / "artifact.json").read_text())
runtime = runtime_of(load_target("executorch"))
x = Batch((torch.ones(3, 16),))
for _ in range(100):
    first = runtime.load(artifact, folder, 2)
    wanted = run(first, artifact, x)[0].clone()
    second = runtime.load(artifact, folder, 1)
    for runner in (first, second, first):
        torch.testing.assert_close(run(runner, artifact, x)[0], wanted)
"""


def test_two_numbers_of_threads_in_one_process(tmp_path):
    """A method that outlives its thread pool reads freed memory, which ends the process sooner or later."""
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    artifact = ExecuTorch().export(net, Batch((torch.ones(2, 16),)), "executorch", tmp_path, "m")
    (tmp_path / "artifact.json").write_text(artifact.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", ALTERNATING, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
