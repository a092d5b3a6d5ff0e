"""Some weights trained beside others: values and gradients against plain formulas."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.lifelong.masking import BEGIN, THRESHOLD, Part, mixed, parts_of, private_of, rounded


def part(seed: int, *, picks: bool = False, int8: bool = False) -> Part:
    generator = torch.Generator().manual_seed(seed)
    begin, frozen = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    old = torch.rand(4, 6, generator=generator) < 0.4
    scales = torch.tensor([0.01, 0.02, 0.0, 0.05]) if int8 else None
    scores = torch.full((4, 6), BEGIN) if picks else None
    return Part(begin, ~old, torch.where(old, frozen, 0.0), old, scores, scales, 0)


def layer(given: Part) -> nn.Module:
    return mixed(nn.Sequential(nn.Linear(6, 4)), {"0.weight": given})


def weight(model: nn.Module) -> Tensor:
    found = model.get_submodule("0").weight
    assert isinstance(found, Tensor)
    return found


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_open_weights_are_trained_and_the_others_are_frozen(seed: int, int8: bool) -> None:
    held = part(seed, int8=int8)
    model = layer(held)
    value = weight(model)
    plain = held.begin if held.scales is None else rounded(held.begin, held.scales, 0)
    assert torch.equal(value, torch.where(held.open, plain, held.frozen))
    value.sum().backward()
    original = model.get_parameter("0.parametrizations.weight.original")
    assert original.grad is not None
    assert (original.grad[~held.open] == 0).all()
    inside = held.begin.abs() <= 127 * held.scales[:, None] if held.scales is not None else torch.ones(4, 6).bool()
    if held.scales is not None:
        inside |= held.scales[:, None] == 0
    assert torch.equal(original.grad != 0, held.open & inside)


def test_rounding_is_torchs_own() -> None:
    values, scales = torch.randn(4, 50), torch.tensor([0.003, 0.01, 0.02, 0.5])
    wanted = torch.fake_quantize_per_channel_affine(values, scales, torch.zeros(4, dtype=torch.int32), 0, -127, 127)
    assert torch.allclose(rounded(values, scales, 0), wanted, atol=1e-7)
    again = rounded(rounded(values, scales, 0), scales, 0)
    assert torch.equal(again, rounded(values, scales, 0))
    assert torch.equal(rounded(values, torch.zeros(4), 0), values)
    assert torch.equal(rounded(values.T, scales, 1), rounded(values, scales, 0).T)


def test_scores_decide_and_get_the_gradient_of_the_mask() -> None:
    held = part(3, picks=True)
    model = layer(held)
    scores = model.get_parameter("0.parametrizations.weight.0.scores")
    with torch.no_grad():
        scores[0] = THRESHOLD / 2
    value = weight(model)
    assert (value[0][~held.open[0]] == 0).all()
    assert torch.equal(value[1:][~held.open[1:]], held.frozen[1:][~held.open[1:]])
    slope = torch.randn(4, 6)
    (value * slope).sum().backward()
    assert scores.grad is not None
    assert torch.allclose(scores.grad, torch.where(held.open, 0.0, slope * held.frozen))
    found = parts_of(model, {"0.weight": held})["0.weight"]
    assert torch.equal(found.picked, held.old & (torch.arange(4)[:, None] > 0))


def test_private_state_is_everything_else() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    mixed(model, {"0.weight": part(0)})
    assert set(private_of(model, {"0.weight"})) == {
        "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    }  # fmt: skip
    root = nn.Linear(6, 4)
    mixed(root, {"weight": part(0)})
    assert set(private_of(root, {"weight"})) == {"bias"}
    assert torch.equal(parts_of(root, {"weight": part(0)})["weight"].begin, part(0).begin)
