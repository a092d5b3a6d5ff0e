"""Every target has a runtime, found or explained; TensorRT without a GPU still writes its file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import onnx
import pytest
import torch
from torch import nn

from lissom.errors import TargetError
from lissom.export.base import Availability, require
from lissom.export.catalogue import runtime_of, survey
from lissom.export.tensorrt import TensorRt
from lissom.target import known_targets, load_target
from lissom.task import Batch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

without_tensorrt = pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")


def test_survey_names_every_target_with_a_version_or_a_way_to_get_it():
    found = survey()
    assert set(found) == set(known_targets()) >= {"onnxruntime", "openvino", "executorch", "tensorrt", "torch"}
    for name, (target, here) in found.items():
        assert target.name == name
        assert here.version if here.found else "pip install" in here.detail or "GPU" in here.detail
    assert found["onnxruntime"][1].found
    assert found["torch"][1].version == torch.__version__


def test_a_runtime_is_imported_only_when_asked_for():
    code = "import sys, lissom.export.catalogue; print([m for m in ('openvino', 'executorch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_require_says_how_to_install():
    with pytest.raises(TargetError, match=r"OpenVINO is not available here: pip install"):
        require(Availability(found=False, detail='pip install "lissom[openvino]"'), "OpenVINO")
    require(Availability(found=True), "OpenVINO")


@without_tensorrt
def test_tensorrt_is_explained():
    here = TensorRt().availability()
    assert not here.found
    assert 'pip install "lissom[tensorrt]"' in here.detail


@without_tensorrt
def test_tensorrt_writes_its_onnx_file_without_tensorrt_and_does_not_load_it(tmp_path):
    runtime = runtime_of(load_target("tensorrt"))
    artifact = runtime.export(nn.Linear(3, 2), Batch((torch.randn(2, 3),)), "tensorrt", tmp_path, "m")
    assert artifact.files == ("m.onnx",)
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"))
    assert runtime.kernels(artifact, tmp_path) == ()
    with pytest.raises(TargetError, match=r'pip install "lissom\[tensorrt\]"'):
        runtime.load(artifact, tmp_path, 1)
