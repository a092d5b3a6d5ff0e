"""Second moments with noise in the inputs: both forms say the same, and as much of it as was asked for."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.functional.perturbed import noisy_inputs, noisy_outputs

sizes = st.integers(1, 7)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.floats(0, 3), st.integers(0, 2**31))
def test_outputs_are_what_the_weight_makes_of_the_inputs(m, n, share, seed):
    draws = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(m, n, generator=draws).double(), torch.randn(12, n, generator=draws).double()
    inputs = x.T @ x
    outputs = weight @ inputs @ weight.T
    noisy = noisy_outputs(weight, outputs, share)
    torch.testing.assert_close(noisy, weight @ noisy_inputs(weight, inputs, share) @ weight.T)
    torch.testing.assert_close(noisy.trace(), (1 + share) * outputs.trace())


def test_it_is_what_drawn_noise_adds_in_the_mean():
    draws = torch.Generator().manual_seed(0)
    weight, x = torch.randn(4, 5, generator=draws).double(), torch.randn(6, 5, generator=draws).double()
    inputs, share, times = x.T @ x, 0.5, 20_000
    variance = share * float((weight @ inputs @ weight.T).trace()) / float(weight.square().sum())
    noise = torch.randn(times, 6, 5, generator=draws).double() * (variance / 6) ** 0.5
    drawn = torch.einsum("tbi,tbj->ij", x + noise, x + noise) / times
    torch.testing.assert_close(noisy_inputs(weight, inputs, share), drawn, rtol=0.02, atol=0.05 * float(inputs.max()))


def test_without_weight_or_energy_there_is_no_noise():
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.equal(noisy_inputs(torch.zeros(2, 3), eye, 0.5), eye)
    assert torch.equal(noisy_outputs(torch.zeros(3, 2), eye, 0.5), eye)
    assert not noisy_outputs(torch.ones(3, 2), torch.zeros(3, 3), 0.5).any()
