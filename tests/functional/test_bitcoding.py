"""Masks as bytes: back bit for bit, never longer than the bits, near Shannon's bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.functional.bitcoding import HUFFMAN, MATCHED, RAW, decode, encode


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 99))
def test_back_bit_for_bit_in_at_most_a_bit_each(count: int, share: float, seed: int) -> None:
    flags = np.random.default_rng(seed).random(count) < share
    data = encode(flags)
    assert (decode(data, count) == flags).all()
    assert len(data) <= -(-count // 8) + 1


def entropy(share: float) -> float:
    """Bits a flag."""
    return -sum(p * float(np.log2(p)) for p in (share, 1 - share) if p > 0)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5])
def test_near_the_entropy(share: float) -> None:
    flags = np.random.default_rng(0).random(400_000) < share
    bits = 8 * len(encode(flags)) / len(flags)
    assert entropy(flags.mean()) <= bits <= entropy(flags.mean()) + 1 / 8 + 1e-3


def test_each_code_is_taken_where_it_is_shortest() -> None:
    random = np.random.default_rng(0)
    assert encode(random.random(10_000) < 0.5)[0] == RAW
    assert encode(random.random(100_000) < 0.1)[0] == HUFFMAN
    assert encode(np.repeat(random.random(100) < 0.5, 1000))[0] == MATCHED


@pytest.mark.parametrize("data", [b"", b"\x09\x00", b"\x01\xff\xff", b"\x00\x00\x00"])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="mask"):
        decode(data, 8)
