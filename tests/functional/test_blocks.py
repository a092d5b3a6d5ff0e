"""Blocks of zeros against loops, and SparseGPT inside them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional.blocks import (
    Block,
    by_positions,
    keep_blocks,
    keep_blocks_in_rows,
    pattern_of,
    sparse_gpt_blocks,
    tiles,
)
from lissom.functional.nm import Pattern, as_weight
from lissom.functional.sparsity import sparse_gpt

quick = settings(max_examples=25, deadline=None)
blocks = st.sampled_from([Block(4, 1), Block(1, 4), Block(2, 3), Block(1, 2)])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_pattern_or_a_block_is_read_and_written():
    assert pattern_of("4x1") == Block(4, 1)
    assert str(pattern_of("16x32")) == "16x32"
    assert pattern_of("2:4") == Pattern(2, 4)


@pytest.mark.parametrize("text", ["1x1", "0x4", "4x0"])
def test_what_is_no_block(text):
    with pytest.raises(ValueError, match="is no block: write outputs by inputs, as '4x1'"):
        pattern_of(text)


@pytest.mark.parametrize("text", ["4x", "x4", "-4x1", "4 x 1", "4*1", ""])
def test_what_is_neither(text):
    with pytest.raises(ValueError, match=r"is no pattern: write 'N:M'.*Blocks of outputs by inputs are written '4x1'"):
        pattern_of(text)


@given(blocks, st.integers(1, 4), st.integers(1, 4), st.floats(0, 0.99), st.integers(0, 100))
@quick
def test_the_lowest_blocks_go(block, down, across, share, seed):
    scores = numbers(down * block.rows, across * block.columns, seed=seed).abs()
    sums = {
        (i, j): sum(
            float(scores[i * block.rows + r, j * block.columns + c])
            for r in range(block.rows)
            for c in range(block.columns)
        )
        for i in range(down)
        for j in range(across)
    }
    assert all(float(tiles(scores, block)[place]) == pytest.approx(wanted) for place, wanted in sums.items())
    gone = int(share * len(sums))
    lowest = sorted(sums, key=lambda place: sums[place])[:gone]
    mask = keep_blocks(scores, block, gone)
    for (i, j), own in ((place, mask[place[0] * block.rows :, place[1] * block.columns :]) for place in sums):
        assert own[: block.rows, : block.columns].eq((i, j) not in lowest).all()
    each = int(share * across)
    rows = keep_blocks_in_rows(scores, block, each)
    assert (tiles((~rows).double(), block) == block.area).sum(1).tolist() == [each] * down


def test_a_convolution_is_tiled_at_every_position_of_its_kernel():
    weight = numbers(4, 6, 2, 3)
    rows = by_positions(weight)
    for y in range(2):
        for x in range(3):
            at = 6 * (3 * y + x)
            assert torch.equal(rows[:, at : at + 6], weight[:, :, y, x])
    assert torch.equal(as_weight(rows, tuple(weight.shape)), weight)


def test_whether_a_weight_has_its_blocks():
    weight = torch.ones(8, 4, 3, 3)
    weight[4:8, 1, 0, 2] = 0
    assert Block(4, 1).held_by(weight, 4)
    assert not Block(4, 1).held_by(weight, 8)
    assert not Block(3, 1).held_by(weight, 3)
    weight[5, 1, 0, 2] = 1
    assert not Block(4, 1).held_by(weight, 4)


@pytest.mark.parametrize("block", [Block(4, 1), Block(1, 4), Block(2, 2)])
@pytest.mark.parametrize("width", [4, 128])
def test_sparse_gpt_makes_up_for_whole_blocks(block, width):
    weight = numbers(8, 12)
    x = torch.relu(numbers(200, 3, seed=1) @ numbers(3, 12, seed=2) + 0.3 * numbers(200, 12, seed=3))
    moments = x.T @ x
    gone = (8 // block.rows) * (12 // block.columns) // 2
    made = sparse_gpt_blocks(weight, moments, block, gone, width=width)
    assert int((tiles((made == 0).double(), block) == block.area).sum()) == gone
    assert int((made == 0).sum()) == gone * block.area

    def error(other: Tensor) -> float:
        return float((x @ (weight - other).T).square().sum())

    assert error(made) < 0.7 * error(weight * keep_blocks(weight.abs(), block, gone))


def test_blocks_of_one_weight_are_plain_sparse_gpt():
    weight, x = numbers(6, 10), numbers(40, 10, seed=1)
    assert torch.equal(sparse_gpt_blocks(weight, x.T @ x, Block(1, 1), 30), sparse_gpt(weight, x.T @ x, 30))
