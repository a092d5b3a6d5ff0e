"""The kept table of translations against the public function, which makes a new one each time."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from onnx_ir import serde
from torch import nn

from lissom.export.onnx import quiet, translations
from lissom.export.onnx_registry import convert
from lissom.graph.trace import export_program
from lissom.task import Batch


class Mixed(nn.Module):
    """`(b, 3, 8, 8)` to `(b, 5)`, by operators with a translation of their own and some that are decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logit(self.head(nn.functional.hardswish(self.norm(self.conv(x))).mean((2, 3))).sigmoid(), 1e-3)


def test_every_conversion_is_what_the_public_function_writes() -> None:
    program, _ = export_program(Mixed(), Batch((torch.rand(1, 3, 8, 8),)))
    with quiet():
        public = torch.onnx.export(
            program, dynamo=True, custom_translation_table=translations(), verbose=False, optimize=True
        )
        kept = [convert(program, translations) for _ in range(2)]
    assert public is not None
    wanted = str(serde.serialize_model(public.model))
    assert [str(serde.serialize_model(one.model)) for one in kept] == [wanted] * 2


LATER = """
import torch
from torch import nn
from lissom.export.onnx import quiet, translations
from lissom.export.onnx_registry import convert
from lissom.graph.trace import export_program
from lissom.task import Batch

def operators(model, *inputs):
    with quiet():
        made = convert(export_program(model, Batch(inputs))[0], translations)
    return {node.op_type for node in made.model.graph}

assert not hasattr(torch.ops.torchvision, "nms")
assert operators(nn.ReLU(), torch.rand(2, 3)) == {"Relu"}

# What `import torchvision` would do: its compiled part is not everywhere.
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.library.register_fake(
    "torchvision::nms",
    lambda dets, scores, iou: scores.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64),
)

class Kept(nn.Module):
    def forward(self, boxes, scores):
        return torch.ops.torchvision.nms(boxes, scores, 0.5)

print(*operators(Kept(), torch.rand(9, 4), torch.rand(9)))
"""


def test_operators_that_come_later_are_translated() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torch.onnx translates operators of torchvision where it is installed")
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True, check=False)
    assert "NonMaxSuppression" in done.stdout, done.stderr[-2000:]
