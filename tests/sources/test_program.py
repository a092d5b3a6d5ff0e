"""`torch.export` programs as sources: their example inputs are never unpickled, what is more than data is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch.export import Dim

import lissom
from lissom.errors import ProjectError
from small_models import Residual


def saved(path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    model = Residual().eval()
    program = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program, path)
    return model


def test_a_program_answers_as_the_model_that_it_was(tmp_path: Path) -> None:
    original = saved(tmp_path / "m.pt2")
    model, task = lissom.source(tmp_path / "m.pt2")
    assert task.example_inputs[0].shape == (1, 3, 16, 16)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x), original(x))
    graph = lissom.analyze(model, task)
    assert graph.dynamic_batch
    assert "stem.0" in {layer.name for layer in graph.layers}


def test_what_is_more_than_data_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2", "a") as archive:
        archive.writestr("m/data/constants/custom_obj_0", b"cos\nsystem\n")
    with pytest.raises(ProjectError, match=r"custom_obj_0.*would be unpickled"):
        lissom.source(tmp_path / "m.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ProjectError, match=r"no \.pt2 archive"):
        lissom.source(tmp_path / "text.pt2")
    with pytest.raises(ProjectError, match="no file"):
        lissom.source(tmp_path / "absent.pt2")
