"""Dynamic integers in OpenVINO: real from a width of one group on, and read back as what they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.export.base import run
from lissom.functional.affine import fake_quantize_groups, quantize_weight, weight_scales
from lissom.graph.trace import trace
from lissom.task import Batch
from lissom.transforms.quantization import rewrite

openvino = pytest.importorskip("openvino")

from lissom.export.openvino import DYNAMIC_GROUP, OpenVino, rounds_its_input  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(("width", "out"), [(512, 512), (500, 40), (33, 16), (100, 1000), (31, 16), (8, 8)])
def test_what_the_probe_says_is_what_the_layer_computes(width, out, tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(width, out)
    batch = Batch((torch.randn(2, width),))
    traced = trace(layer, batch)
    module = traced.module
    rewrite.round_dynamically_(module, "linear", "group", DYNAMIC_GROUP, "int8")
    rewrite.store_weight_(module, "weight", 0)
    rewrite.finish_(module)
    artifact = OpenVino().export(module, batch, "openvino", tmp_path, "m")
    runner = OpenVino().load(artifact, tmp_path, 1)
    scales = weight_scales(layer.weight, 0)
    weight = quantize_weight(layer.weight, scales, 0).float() * scales[:, None]
    (kernel,) = OpenVino().kernels(artifact, tmp_path)
    rounds = rounds_its_input(width)
    assert kernel.precision == ("int8 dynamic" if rounds else "float32")
    for rows in (1, 7, 128):
        # Columns of very different size, so that the group's own scale matters.
        x = torch.randn(rows, width) * torch.logspace(-2, 1, width)[torch.randperm(width)]
        with torch.no_grad():
            rounded = F.linear(fake_quantize_groups(x, DYNAMIC_GROUP), weight, layer.bias)
            plain = F.linear(x, weight, layer.bias)
        step = float(plain.max() - plain.min()) / 255
        (found,) = run(runner, artifact, Batch((x,)))
        gaps = [float((found - other).abs().max()) / step for other in (rounded, plain)]
        assert gaps[not rounds] < 0.01 < 0.2 < gaps[rounds]


def test_layers_narrower_than_a_group_keep_float_inputs():
    assert not any(rounds_its_input(width) for width in (8, 24, DYNAMIC_GROUP - 1))
