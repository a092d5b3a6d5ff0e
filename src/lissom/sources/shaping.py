"""ONNX operators that move and cut values, as functions of torch; values as in `lissom.sources.operators`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.sources.unliftable import Unliftable

Given = Mapping[str, Any]

LARGEST = 1 << 28
"""Elements that an operator may make out of a few: a file of some bytes must not fill the memory."""


def tensor_of(value: Any, like: Tensor | None = None) -> Tensor:
    """A value as a tensor; whole numbers int64, others float32, or as `like`."""
    if isinstance(value, Tensor):
        return value
    if like is not None:
        return torch.tensor(value if isinstance(value, tuple) else (value,), dtype=like.dtype)
    return torch.tensor(value)


def tuple_of(value: Any) -> tuple[Any, ...]:
    """
    Raises:
        Unliftable: a tensor, whose numbers are not known before the model runs.
    """
    if isinstance(value, Tensor):
        raise Unliftable("a shape or index that depends on the inputs' values")
    return value if isinstance(value, tuple) else (value,)


def filled(values: Sequence[Any], count: int) -> tuple[Any, ...]:
    """The inputs of an operator that takes `count`; those at the end that are left out are None."""
    return (*values, *[None] * (count - len(values)))


def axes_of(values: Sequence[Any], given: Given) -> tuple[int, ...]:
    """Axes as attribute (older opsets) or second input; empty where none are given."""
    if "axes" in given:
        return tuple(given["axes"])
    return tuple_of(values[1]) if len(values) > 1 and values[1] is not None else ()


def _bounded(sizes: Sequence[Any]) -> tuple[Any, ...]:
    count = 1
    for size in sizes:
        count *= size if isinstance(size, int) else 1
    if count > LARGEST:
        raise Unliftable(f"a value of {count} elements")
    return tuple(sizes)


def reshape(values: Sequence[Any], given: Given) -> Any:
    x, sizes = values
    sizes = tuple_of(sizes)
    if not isinstance(x, Tensor):
        if len(sizes) == 0:
            return tuple_of(x)[0]
        if len(sizes) == 1:
            return tuple_of(x)
        x = tensor_of(x)
    if given.get("rebatch") and sizes:
        sizes = (x.shape[0], *sizes[1:])
    if not given.get("allowzero", 0):
        sizes = tuple(x.shape[axis] if isinstance(s, int) and s == 0 else s for axis, s in enumerate(sizes))
    return x.reshape(sizes)


def _flatten(values: Sequence[Any], given: Given) -> Tensor:
    x, axis = values[0], given.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
    left = 1
    for size in x.shape[:axis]:
        left *= size
    return x.reshape(left, -1)


def _transpose(values: Sequence[Any], given: Given) -> Tensor:
    x = tensor_of(values[0])
    return x.permute(tuple(given.get("perm", reversed(range(x.ndim)))))


def _squeeze(values: Sequence[Any], given: Given) -> Any:
    x, axes = values[0], axes_of(values, given)
    if not isinstance(x, Tensor):
        return tuple_of(x)[0]
    return x.squeeze(axes) if axes else x.squeeze()


def _unsqueeze(values: Sequence[Any], given: Given) -> Any:
    x, axes = values[0], axes_of(values, given)
    if not isinstance(x, (Tensor, tuple)) and len(axes) == 1:
        return (x,)
    x = tensor_of(x)
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(values: Sequence[Any], given: Given) -> Any:
    if not any(isinstance(v, Tensor) for v in values):
        return tuple(one for v in values for one in tuple_of(v))
    return torch.cat([tensor_of(v) for v in values], given["axis"])


def _split(values: Sequence[Any], given: Given) -> Any:
    x, sizes = filled(values, 2)
    axis = given.get("axis", 0)
    found = tuple(given["split"]) if "split" in given else sizes
    if found is None:
        count, size = given["num_outputs"], tensor_of(x).shape[axis]
        each = -(-size // count)
        found = (*[each] * (count - 1), size - each * (count - 1))
    if isinstance(x, tuple):
        starts = [sum(tuple_of(found)[:i]) for i in range(len(tuple_of(found)))]
        return [x[start : start + size] for start, size in zip(starts, tuple_of(found), strict=True)]
    return list(torch.split(x, list(tuple_of(found)), axis))


def _slice(values: Sequence[Any], given: Given) -> Any:
    x, starts, ends, axes, steps = filled(values, 5)
    starts, ends = tuple_of(starts), tuple_of(ends)
    axes = tuple(range(len(starts))) if axes is None else tuple_of(axes)
    steps = tuple_of((1,) * len(starts) if steps is None else steps)
    if not isinstance(x, Tensor):
        return tuple_of(x)[slice(starts[0], _python_end(ends[0], steps[0]), steps[0])]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            whole = step == -1 and end < -x.shape[axis] and (start == -1 or start >= x.shape[axis] - 1)
            if not whole:
                raise Unliftable("Slice backwards over a part of an axis")
            x = x.flip(axis)
            continue
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _python_end(end: Any, step: Any) -> Any:
    return None if step < 0 and end < -(1 << 31) else end


def _gather(values: Sequence[Any], given: Given) -> Any:
    x, index = values
    axis = given.get("axis", 0)
    if not isinstance(x, Tensor) and not isinstance(index, Tensor):
        held = tuple_of(x)
        return tuple(held[i] for i in index) if isinstance(index, tuple) else held[index]
    x = tensor_of(x)
    if isinstance(index, int):
        return x.select(axis, index)
    index = tensor_of(index)
    flat = torch.where(index < 0, index + x.shape[axis], index).reshape(-1)
    axis = axis % x.ndim
    return x.index_select(axis, flat).reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def _expand(values: Sequence[Any], given: Given) -> Tensor:
    x, sizes = tensor_of(values[0]), tuple_of(values[1])
    rank = max(x.ndim, len(sizes))
    have, want = (1,) * (rank - x.ndim) + tuple(x.shape), tuple_of((1,) * (rank - len(sizes)) + sizes)
    return x.expand(_bounded([h if isinstance(w, int) and w == 1 else w for h, w in zip(have, want, strict=True)]))


def _tile(values: Sequence[Any], given: Given) -> Tensor:
    x, times = tensor_of(values[0]), tuple_of(values[1])
    _bounded([size * time for size, time in zip(x.shape, times, strict=True)])
    return x.repeat(times)


def _pad(values: Sequence[Any], given: Given) -> Tensor:
    x, pads, value, axes = filled(values, 4)
    pads = tuple_of(pads)
    count = len(pads) // 2
    chosen = [axis % x.ndim for axis in (tuple_of(axes) if axes is not None else range(count))]
    around = {axis: (pads[i], pads[i + count]) for i, axis in enumerate(chosen)}
    first = next((axis for axis in range(x.ndim) if any(around.get(axis, (0, 0)))), None)
    if first is None:
        return x
    order = [size for axis in reversed(range(first, x.ndim)) for size in around.get(axis, (0, 0))]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(given.get("mode", "constant"))
    if mode is None:
        raise Unliftable(f"Pad of mode {given['mode']!r}")
    return F.pad(x, order, mode, value or 0.0) if mode == "constant" else F.pad(x, order, mode)


def _shape(values: Sequence[Any], given: Given) -> tuple[Any, ...]:
    x = values[0]
    sizes = tuple(x.shape) if isinstance(x, Tensor) else (len(x),) if isinstance(x, tuple) else ()
    return sizes[given.get("start", 0) : given.get("end")]


def _size(values: Sequence[Any], given: Given) -> Any:
    return values[0].numel() if isinstance(values[0], Tensor) else len(tuple_of(values[0]))


def _constant_of_shape(values: Sequence[Any], given: Given) -> Any:
    sizes = _bounded(tuple_of(values[0]))
    value = given.get("value")
    held = np.zeros(1, np.float32) if value is None else value
    if len(sizes) == 1 and held.dtype == np.int64 and isinstance(sizes[0], int) and sizes[0] <= 64:
        return (int(held[0]),) * sizes[0]
    return torch.full(sizes, held[0].item(), dtype=torch.from_numpy(held).dtype)


def _range(values: Sequence[Any], given: Given) -> Tensor:
    (start, *_), (end, *_), (step, *_) = (tuple_of(v) for v in values)
    _bounded([(end - start) // step if isinstance(end, int) else 1])
    return torch.arange(start, end, step)


def _cast(values: Sequence[Any], given: Given) -> Any:
    x = values[0]
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(given["to"]))
    if isinstance(x, Tensor):
        return x.to(torch.from_numpy(np.zeros(1, kind)).dtype)
    number = float if kind.kind == "f" else bool if kind.kind == "b" else int
    if number is int and not isinstance(x, float):
        return x  # a size may be symbolic and is whole already
    return tuple(map(number, x)) if isinstance(x, tuple) else number(x)


def _depth_to_space(values: Sequence[Any], given: Given) -> Tensor:
    x, block = values[0], given["blocksize"]
    if given.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    split = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(values: Sequence[Any], given: Given) -> Tensor:
    x, block = values[0], given["blocksize"]
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(n, c * block**2, h // block, w // block)


def _same(values: Sequence[Any], given: Given) -> Any:
    return values[0]


SHAPING = {
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": _same,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _same,
    "Pad": _pad,
    "Range": _range,
    "Reshape": reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
