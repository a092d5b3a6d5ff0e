"""Text that an operator takes as an argument is data; what could end the literal it is written as is not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lissom.export.archive import unsafe

# torch's own, about what it will rename.
pytestmark = pytest.mark.filterwarnings("ignore")


class Experts(nn.Module):
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return torch.einsum("nd,edh->neh", x, w)


def test_an_equation_is_data_and_what_ends_a_literal_is_not(tmp_path: Path) -> None:
    path, other = tmp_path / "experts.pt2", tmp_path / "other.pt2"
    torch.export.save(torch.export.export(Experts(), (torch.randn(2, 4), torch.randn(3, 4, 5))), path)
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(other, "w") as made:
        for entry in given.infolist():
            if not entry.filename.endswith("model.pt"):
                content = given.read(entry)
                made.writestr(entry.filename, content.replace(b"nd,edh->neh", b"x'+f()+'neh"))
    found = unsafe(path)
    assert found is None or "sample_inputs" in found, (
        "torch writes example inputs by pickle; the exporter leaves them out"
    )
    assert "the name \"x'+f()+'neh\"" in str(unsafe(other))
