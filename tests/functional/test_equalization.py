"""Equalization keeps the function and evens out the ranges; bias correction takes away the mean error."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.bias import bias_shift, channel_mean
from lissom.functional.equalization import (
    FURTHEST,
    channel_ranges,
    cross_layer_scales,
    scale_inputs,
    scale_outputs,
    smooth_scales,
)

seeds = st.integers(0, 2**20)


def draw(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(2 * torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator))
    return spread * torch.randn(shape, generator=generator)


@given(seeds, st.sampled_from([1, 2, 4]), st.sampled_from(["relu", "leaky_relu", "identity"]))
def test_two_convolutions_compute_the_same_and_get_equal_ranges(seed, groups, between):
    first, bias, second = draw(seed, 4, 3, 3, 3), draw(seed + 1, 4), draw(seed + 2, 8, 4 // groups, 3, 3)
    f = {"relu": F.relu, "leaky_relu": F.leaky_relu, "identity": lambda a: a}[between]
    made, read = first.flatten(1).abs().amax(1), channel_ranges(second, groups=groups)
    s = cross_layer_scales(made, read)
    new_first, new_second = scale_outputs(first, s), scale_inputs(second, s, groups=groups)
    x = draw(seed + 3, 2, 3, 7, 7)
    wanted = F.conv2d(f(F.conv2d(x, first, bias)), second, groups=groups)
    got = F.conv2d(f(F.conv2d(x, new_first, scale_outputs(bias, s))), new_second, groups=groups)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    free = (s > 1 / FURTHEST) & (s < FURTHEST)
    after = new_first.flatten(1).abs().amax(1), channel_ranges(new_second, groups=groups)
    torch.testing.assert_close(after[0][free], after[1][free])
    torch.testing.assert_close(after[0][free], (made * read).sqrt()[free])


@given(seeds, st.floats(0, 1))
def test_smoothed_linear_layers_compute_the_same(seed, strength):
    weight, gain = draw(seed, 5, 6), draw(seed + 1, 6)
    x = draw(seed + 2, 9, 6)
    activation = (x * gain).abs().amax(0)
    s = smooth_scales(activation, channel_ranges(weight), strength)
    wanted = (x * gain) @ weight.T
    got = (x * scale_outputs(gain, s)) @ scale_inputs(weight, s).T
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_smoothing_is_the_papers_formula_up_to_one_factor():
    activation, read = torch.tensor([9.0, 1.0, 4.0]), torch.tensor([1.0, 1.0, 0.25])
    raw = activation.sqrt() / read.sqrt()
    s = smooth_scales(activation, read, 0.5)
    torch.testing.assert_close(s / s[0], raw / raw[0])
    assert float(s.log().mean()) == pytest.approx(0.0, abs=1e-6)
    level = activation / smooth_scales(activation, read, 1.0)
    torch.testing.assert_close(level, level[:1].expand(3))


def test_dead_channels_are_left_alone():
    made, read = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 4.0])
    assert cross_layer_scales(made, read).tolist() == [1.0, 1.0, 0.5]
    assert smooth_scales(torch.zeros(2), torch.ones(2)).tolist() == [1.0, 1.0]
    assert cross_layer_scales(torch.tensor([1e30]), torch.tensor([1e-30])).tolist() == [FURTHEST]


def test_ranges_of_input_channels_of_grouped_and_depthwise_weights():
    weight = torch.arange(1.0, 13).reshape(4, 1, 3)
    assert channel_ranges(weight, groups=4).tolist() == [3.0, 6.0, 9.0, 12.0]
    paired = torch.arange(1.0, 9).reshape(4, 2)
    assert channel_ranges(paired, groups=2).tolist() == [3.0, 4.0, 7.0, 8.0]
    assert channel_ranges(paired).tolist() == [7.0, 8.0]


@given(seeds, st.integers(1, 4))
def test_the_corrected_bias_gives_the_means_of_the_original(seed, pieces):
    weight, x = draw(seed, 4, 3, 3, 3), draw(seed + 1, 8, 3, 6, 6)
    rounded = (weight * 3).round() / 3
    noisy = (x * 2).round() / 2
    wanted, got = F.conv2d(x, weight).double(), F.conv2d(noisy, rounded).double()
    shift = bias_shift(wanted.chunk(pieces), got.chunk(pieces), 1)
    corrected = got + shift.reshape(-1, 1, 1)
    scale = float(wanted.abs().max() + got.abs().max())
    torch.testing.assert_close(corrected.mean((0, 2, 3)), wanted.mean((0, 2, 3)), rtol=1e-9, atol=1e-12 * scale)


def test_channel_mean_of_unequal_pieces_is_that_of_all():
    values = torch.arange(24.0).reshape(4, 3, 2)
    torch.testing.assert_close(channel_mean(values.split([3, 1]), 1), values.double().mean((0, 2)))
    torch.testing.assert_close(channel_mean(values.split([1, 3]), -1), values.double().mean((0, 1)))
