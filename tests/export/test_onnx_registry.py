"""The kept table of translations against the public function, which makes a new one each time."""

from __future__ import annotations

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
