"""The published greedy search for an order of columns, written down as published: what ours is held against."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from lissom.functional.nm import Pattern


def stripes(scores: np.ndarray, pattern: Pattern) -> list[int]:
    """Of all pairs of groups of `scores` (rows, columns) the one whose best partition gains most is parted anew, until
    none gains: the order of the columns that comes out.

    Reference: Pool and Yu 2021, "Channel Permutations for N:M Sparsity", stripe groups of two.
    """
    n, m = pattern.n, pattern.m
    groups = [list(range(start, start + m)) for start in range(0, scores.shape[1], m)]
    first = np.array([own for own in combinations(range(2 * m), m) if 0 in own])
    second = np.array([[i for i in range(2 * m) if i not in own] for own in first])

    def keeps(columns: np.ndarray) -> np.ndarray:
        return np.sort(columns, axis=2)[:, :, m - n :].sum((0, 2))

    def best(i: int, j: int) -> tuple[float, list[int], list[int]]:
        columns = np.array(groups[i] + groups[j])
        some = scores[:, columns]
        found = keeps(some[:, first]) + keeps(some[:, second])
        at = int(found.argmax())
        return float(found[at] - found[0]), columns[first[at]].tolist(), columns[second[at]].tolist()

    table = {pair: best(*pair) for pair in combinations(range(len(groups)), 2)}
    while True:
        (i, j), (gain, one, other) = max(table.items(), key=lambda item: item[1][0])
        if gain < 1e-9:
            return [column for group in groups for column in group]
        groups[i], groups[j] = one, other
        table |= {pair: best(*pair) for pair in table if {i, j} & set(pair)}
