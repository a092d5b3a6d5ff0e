"""One range for each example: ONNX's DynamicQuantizeLinear example by example, and no look at the neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lissom.functional.samples import fake_quantize_samples

VALUES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False),
)


def reference(x: np.ndarray) -> np.ndarray:
    """DynamicQuantizeLinear as the ONNX operator says it, in float32, and restored."""
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = (high - low) / np.float32(255)
    if scale < 2.0**-96:
        return np.zeros_like(x)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    steps = np.clip(np.rint(x / scale) + zero, 0, 255)
    return ((steps - zero) * scale).astype(np.float32)


@given(VALUES)
def test_every_example_is_rounded_as_onnx_does_by_itself(x: np.ndarray) -> None:
    got = fake_quantize_samples(torch.from_numpy(x)).numpy()
    assert got.shape == x.shape
    for index in range(len(x)):
        np.testing.assert_array_equal(got[index], reference(x[index : index + 1])[0])


@given(VALUES, st.floats(-1e6, 1e6, width=32))
def test_what_else_is_in_the_batch_does_not_matter(x: np.ndarray, other: float) -> None:
    alone = fake_quantize_samples(torch.from_numpy(x[:1]))
    neighbours = np.concatenate([x[:1], np.full_like(x, other), x * np.float32(3)])
    assert torch.equal(fake_quantize_samples(torch.from_numpy(neighbours))[:1], alone)


def test_a_single_number_has_no_examples() -> None:
    with pytest.raises(ValueError, match="first axis of examples"):
        fake_quantize_samples(torch.tensor(1.0))
