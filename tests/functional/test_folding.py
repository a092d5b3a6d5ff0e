"""A folded layer is the layer followed by its normalization, to float64 rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lissom.functional.folding import Norm, fold_norm

APPLY = {
    "linear": (F.linear, (5, 4), (3, 4), 0),
    "conv1d": (F.conv1d, (5, 4, 3), (2, 4, 7), 0),
    "conv2d": (F.conv2d, (5, 4, 3, 2), (2, 4, 7, 6), 0),
    "conv3d": (F.conv3d, (5, 4, 2, 2, 2), (2, 4, 4, 4, 4), 0),
    "transposed": (F.conv_transpose2d, (4, 5, 3, 3), (2, 4, 5, 5), 1),
}


def norm_of(channels: int, affine: bool, dtype: torch.dtype) -> Norm:
    gamma, beta = torch.randn(channels).to(dtype), torch.randn(channels).to(dtype)
    mean, variance = torch.randn(channels).to(dtype), torch.rand(channels).to(dtype) + 0.1
    return Norm(mean, variance, gamma if affine else None, beta if affine else None, 1e-3)


@pytest.mark.parametrize("layer", APPLY)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_folded_equals_layer_then_norm(layer, with_bias, with_affine, dtype):
    torch.manual_seed(0)
    apply, weight_shape, input_shape, axis = APPLY[layer]
    weight, x = torch.randn(weight_shape).to(dtype), torch.randn(input_shape).to(dtype)
    channels = weight_shape[axis]
    bias = torch.randn(channels).to(dtype) if with_bias else None
    norm = norm_of(channels, with_affine, dtype)
    folded, shift = fold_norm(weight, bias, norm, axis)
    assert (folded.shape, folded.dtype, shift.dtype) == (weight.shape, dtype, dtype)

    wide = [None if t is None else t.double() for t in (norm.mean, norm.variance, norm.gamma, norm.beta)]
    plain = apply(x.double(), weight.double(), None if bias is None else bias.double())
    wanted = F.batch_norm(plain, *wide, False, 0.0, norm.eps)
    got = apply(x.double(), folded.double(), shift.double())
    # The one rounding is the cast of weight and bias to their type: eps / 2 of each term of the sum.
    terms = apply(x.double().abs(), folded.double().abs(), shift.double().abs())
    allowed = terms * torch.finfo(dtype).eps / 2 + 1e-12
    assert bool(((got - wanted).abs() <= allowed).all())


def test_a_wrong_axis_is_noticed():
    torch.manual_seed(0)
    weight, norm = torch.randn(4, 4), norm_of(4, True, torch.float32)
    right, wrong = fold_norm(weight, None, norm, 0)[0], fold_norm(weight, None, norm, 1)[0]
    assert not torch.allclose(right, wrong)
