"""A sample of examples is a function of the set of examples."""

from __future__ import annotations

import random

import torch

from lissom.graph.sample import Sample


def drawn(examples, size: int) -> list[tuple]:
    sample = Sample(size)
    for example in examples:
        sample.offer_(example)
    assert len(sample) == min(size, len({str(e) for e in examples}))
    return list(sample)


def same(left, right) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_order_and_repetition_change_nothing():
    torch.manual_seed(0)
    examples = [(torch.randn(1, 4), torch.tensor(i), 3, None) for i in range(40)]
    whole = drawn(examples, 7)
    assert len(whole) == 7
    for seed in range(5):
        shuffled = examples * 2
        random.Random(seed).shuffle(shuffled)
        assert same(drawn(shuffled, 7), whole)


def test_every_example_may_be_chosen():
    counts = [0] * 6
    for start in range(300):
        examples = [(torch.tensor([float(start * 6 + i)]),) for i in range(6)]
        for (chosen,) in drawn(examples, 2):
            counts[int(chosen) % 6] += 1
    # 600 choices, 100 expected each; the standard deviation is 8.
    assert min(counts) > 60


def test_what_is_kept_is_a_copy_and_few_are_all():
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    (kept,) = drawn([(x,)], 5)
    x.zero_()
    assert float(kept[0].sum()) == 2


def test_type_and_shape_count():
    zeros = [(torch.zeros(4),), (torch.zeros(2, 2),), (torch.zeros(4, dtype=torch.int32),), (0,)]
    assert len(drawn(zeros, 9)) == 4
