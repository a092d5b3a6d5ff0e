"""Packing of integers into bytes, against numpy's own bit operations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.export.onnx_weights import block_size, packed


def unpacked(whole: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Bits of every byte, lowest first, taken `bits` at a time."""
    ones = np.unpackbits(whole, axis=-1, bitorder="little")
    parts = ones.reshape(*whole.shape[:-1], -1, bits)
    return (parts * 2 ** np.arange(bits)).sum(-1)[..., :count]


@given(st.sampled_from([2, 4, 8]), st.integers(1, 4), st.integers(1, 19), st.integers(0, 2**20))
def test_packed_steps_come_back(bits, rows, count, seed):
    steps = np.random.default_rng(seed).integers(0, 2**bits, (rows, count))
    found = packed(steps, bits)
    assert found.dtype == np.uint8
    assert found.shape == (rows, -(-count * bits // 8))
    assert np.array_equal(unpacked(found, bits, count), steps)


def test_the_first_is_in_the_lowest_bits():
    assert packed(np.array([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]
    assert packed(np.array([[1, 2, 3, 0, 1]]), 2).tolist() == [[0b00_11_10_01, 0b01]]


@pytest.mark.parametrize(
    ("width", "group", "bits", "size"),
    [(256, 64, 4, 64), (100, 32, 4, 32), (256, 256, 4, 256), (100, 100, 8, 128), (768, 768, 4, 256), (3, 3, 2, 16)],
)
def test_a_block_is_the_group_or_wastes_the_least_bytes_on_a_whole_row(width, group, bits, size):
    assert block_size(width, group, bits) == size
