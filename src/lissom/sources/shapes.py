"""Example inputs for models that come without any."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from lissom.data._sets import generator_for
from lissom.errors import UsageError, nearest


def read_shapes(text: str | None, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`1x3x224x224` for the only input, or `NAME:1x3x224x224,NAME:1x8` by name.

    Raises:
        UsageError: not of that form, or an input that the model does not have.
    """
    found: dict[str, tuple[int, ...]] = {}
    for part in (text or "").split(",") if text else []:
        name, _, sizes = part.rpartition(":")
        name = name or (names[0] if len(names) == 1 else "")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise UsageError(
                f"shape={text!r} is no shape. Write shape=1x3x224x224, or shape=NAME:1x3x224x224,NAME:1x8."
            )
        if name not in names:
            raise UsageError(f"shape={text!r}: the model has no input {name!r}. {nearest(name, names)}")
        found[name] = tuple(int(size) for size in sizes.split("x"))
    return found


def made_up(
    what: str, sizes: Sequence[int | None], wanted: tuple[int, ...] | None, dtype: DTypeLike, number: int
) -> Tensor:
    """Values of these sizes: normal, or for whole numbers 0 and 1; the same ones every time.

    A free first axis is the batch, of 1 example; other free sizes have to be `wanted`.

    Raises:
        UsageError: a free size that is not given, or a given one that the model does not take.
    """
    if wanted is None:
        wanted = tuple(1 if size is None and axis == 0 else size or 0 for axis, size in enumerate(sizes))
        if 0 in wanted:
            shown = "x".join("?" if size is None else str(size) for size in sizes)
            raise UsageError(f"{what} has free sizes ({shown}). Give an example's shape: --set shape=1x3x224x224.")
    if len(wanted) != len(sizes) or any(s not in (None, w) for s, w in zip(sizes, wanted, strict=True)):
        shown = "x".join("?" if size is None else str(size) for size in sizes)
        raise UsageError(f"{what} has the shape {shown}, which shape={'x'.join(map(str, wanted))} does not fit.")
    generator = generator_for("example", number)
    kind = torch.from_numpy(np.zeros(1, dtype)).dtype
    if kind.is_floating_point:
        return torch.randn(wanted, generator=generator).to(kind)
    return torch.randint(0, 2, wanted, generator=generator).to(kind)
