"""Whether sums of two integer products stay inside 16 bits.

x86 processors without VNNI multiply unsigned activations x in [0, X] by signed weights w with `vpmaddubsw`, which adds
two neighbouring products and saturates the sum to 16 bits:

    saturate16(x1 w1 + x2 w2)            exact for all x1, x2 in [0, X]  if and only if
    X (max(w1, 0) + max(w2, 0)) <= 32767   and   X (min(w1, 0) + min(w2, 0)) >= -32768

Neighbours are weights 2j and 2j + 1 of consecutive input channels at one place of the kernel, as oneDNN packs them
(blocks of four input channels, the last one filled with zeros). MLAS, and oneDNN where there are groups, lay the
channels of all places one after the other without filling: with an odd number of channels the last one of a place
is the neighbour of the first one of the next. Both are certified. Where there is one input channel, the places of
the kernel take their part. `tests/contract/test_overflow_runtimes.py` finds the pairs that a runtime saturates.
Steps of 7 bits, |w| <= 63, are safe for every X up to 255, since 2 * 63 * 255 = 32130; but few rows need as much:
`safe_scales` widens the scale of a row only until the row is certified.

Reference: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, PMADDUBSW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.functional.affine import WEIGHT_LIMIT

LARGEST, SMALLEST = 2**15 - 1, -(2**15)
LARGEST_INPUT = 255
"""Of unsigned activations, and of signed ones after kernels have shifted them."""
SAFE_LIMIT = 63
"""Steps up to this are safe for all inputs."""


@dataclass(frozen=True)
class Pair:
    """The extreme sums of two products over all rows of a weight, and how many rows can leave 16 bits."""

    highest: int
    lowest: int
    rows: int
    """Rows with a pair that saturates."""


def worst_pair(steps: Tensor, largest_input: int) -> Pair:
    """The largest and smallest sum of two neighbouring products in any row of `steps` (out, in, ...), whole numbers.

    Inputs lie in [0, largest_input].

    Raises:
        ValueError: `largest_input` is negative, or `steps` has fewer than two axes.
    """
    highest, lowest = _extremes(steps, largest_input)
    if not highest.numel():
        return Pair(0, 0, 0)
    return Pair(int(highest.max()), int(lowest.min()), int(_leaves(highest, lowest).sum()))


def safe_scales(weight: Tensor, scales: Tensor, largest_input: int) -> Tensor:
    """The smallest scales (out,), not below `scales`, at which every row of `weight` (out, in, ...) is certified.

    Steps are round(w / s). A row that is certified already keeps its scale; in the others the largest step becomes
    126, 125, ... until the row is safe, at the latest at 63.

    Raises:
        ValueError: see `worst_pair`; or `largest_input` is above 255.
    """
    if largest_input > LARGEST_INPUT:
        raise ValueError(f"unsigned inputs of 8 bits are at most {LARGEST_INPUT}, got {largest_input}")
    found = scales.clone()
    first, second = _pairs(weight.detach().float(), largest_input)
    owners = torch.arange(len(found)).reshape(-1, 1).expand_as(first)
    at = found.reshape(-1, 1)
    for limit in range(WEIGHT_LIMIT - 1, SAFE_LIMIT - 1, -1):
        # Steps do not grow with the scale: a pair that fits stays so, and few do not fit at the start.
        risky = _leaves(*_sums(_steps(first, at), _steps(second, at), largest_input))
        first, second, owners = first[risky], second[risky], owners[risky]
        if not len(owners):
            break
        found[owners] = scales[owners] * WEIGHT_LIMIT / limit
        at = found[owners]
    return found


def saturates_here() -> bool:
    """Whether this machine is an x86 without VNNI, whose kernels may sum products in 16 bits."""
    found = torch.cpu.get_capabilities()
    x86 = found.get("architecture") in ("x86_64", "x86")
    return x86 and not any(found.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def _extremes(steps: Tensor, largest_input: int) -> tuple[Tensor, Tensor]:
    """Of each row."""
    first, second = _pairs(steps.to(torch.int64), largest_input)
    highest, lowest = _sums(first, second, largest_input)
    if not highest.shape[1]:
        return highest.new_zeros(len(highest)), lowest.new_zeros(len(lowest))
    return highest.amax(1), lowest.amin(1)


def _pairs(weight: Tensor, largest_input: int) -> tuple[Tensor, Tensor]:
    """First and second neighbour of every pair in a weight (out, in, ...), (out, pairs) each; zero where there is no
    second."""
    if largest_input < 0:
        raise ValueError(f"unsigned inputs are at least 0, got {largest_input}")
    if weight.ndim < 2:
        raise ValueError(f"weights of a product have the shape (out, in, ...), got {tuple(weight.shape)}")
    rows = weight.unsqueeze(-1).flatten(2)
    if rows.shape[1] % 2 == 0:  # places of an even number of channels share no pair
        return _neighbours(rows)
    line = _neighbours(rows.movedim(1, 2).flatten(1).unsqueeze(-1))
    if rows.shape[1] == 1:
        return line
    first, second = (torch.cat(both, 1) for both in zip(line, _neighbours(rows), strict=True))
    return first, second


def _neighbours(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows 2j and 2j + 1 of each (out, rows, n), a row of zeros after the last."""
    rows = torch.nn.functional.pad(rows, (0, 0, 0, rows.shape[1] % 2))
    return rows[:, 0::2].flatten(1), rows[:, 1::2].flatten(1)


def _steps(weight: Tensor, scales: Tensor) -> Tensor:
    return torch.round(weight / scales).clamp_(-WEIGHT_LIMIT, WEIGHT_LIMIT)


def _sums(first: Tensor, second: Tensor, largest_input: int) -> tuple[Tensor, Tensor]:
    """The largest and the smallest sum of products of each pair."""
    highest, lowest = first.clamp_min(0) + second.clamp_min(0), first.clamp_max(0) + second.clamp_max(0)
    return highest * largest_input, lowest * largest_input


def _leaves(highest: Tensor, lowest: Tensor) -> Tensor:
    return (highest > LARGEST) | (lowest < SMALLEST)
