"""A runtime on a device, and what it can run in integers: the constraint table of `targets/*.toml`."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Annotated, Literal

import pydantic

from lissom.errors import TargetError, nearest
from lissom.settings import Setting

OpKind = Literal["conv", "linear", "add", "pool", "transposed_conv", "matmul", "attention", "concat"]


class Integers(Setting):
    """What the runtime's integer kernels accept; each field changes where quantizers go."""

    ops: tuple[OpKind, ...]
    """Kinds of operator that have an integer kernel."""
    nonnegative: Literal["uint8", "int8"]
    """Type of an activation that is never negative (after a ReLU)."""
    signed: Literal["uint8", "int8"]
    """Type of an activation that can be negative."""
    symmetric: bool
    """Signed activations have zero point 0 (int8) or 128 (uint8) instead of a free one."""
    shifts: tuple[OpKind, ...] = ()
    """Kinds that a `symmetric` target computes with a free zero point at hardly any cost. What only they read, and what
    lies mostly on one side of zero, gets one in the type of values that are never negative."""
    needs_output: tuple[OpKind, ...]
    """Kinds whose kernel also produces integers: their output must be quantized, or they run in float."""
    fused: tuple[str, ...]
    """Operators that the kernel absorbs between its product and its output quantizer."""
    moves: tuple[str, ...] = ()
    """Value-preserving operators with an integer form: rounded on both sides, so that integers flow through."""
    integer_bias: bool = False
    """Biases are rounded to int32 steps of input scale times weight scale, as the accumulator takes them."""
    saturates: bool = False
    """On x86 without VNNI its kernels sum two products in 16 bits (`lissom.functional.overflow`)."""
    absorbs_add: bool = False
    """A product's kernel adds the other operand before it rounds: the product itself enters the sum unrounded."""
    transposed: Literal["any", "plain"] = "any"
    """Which transposed convolutions have an integer kernel: all, or those of images without groups."""
    joins: Literal["any", "shared", "nonnegative"] = "shared"
    """What its integer concatenation takes: any grids, one grid for all, or one grid of values that are never negative.
    In the last case others are joined in float and clipped before they are rounded, or the runtime would round them
    before it joins them."""
    at_source: bool
    """Quantize before value-preserving operators (reshape, slice, pad) instead of after them."""
    splits: Literal["restored", "steps"] = "restored"
    """What its files split where a rounded value is split: the restored value, or the steps, each part restored."""


Granularity = Literal["tensor", "sample", "row", "group"]
"""What shares a range at run time: the whole input, each of its examples, each of its rows, each run of `group` values
in a row."""


class Dynamic(Setting):
    """How the runtime quantizes activations at run time."""

    ops: tuple[OpKind, ...]
    granularity: Granularity
    dtype: Literal["uint8", "int8"] = "int8"
    group: int = 0
    """Length of a group along the reduced axis."""
    samples: bool = False
    """Whether its files can hold the arithmetic of one range for each example (`lissom.functional.samples`)."""


Bits = Literal[8, 4, 3, 2]
StoredKind = Literal["conv", "linear", "embedding", "recurrent"]
"""Kinds of layer whose weight can be stored in integers while activations stay in float."""


class Weights(Setting):
    """How small the runtime's files hold weights."""

    bits: tuple[Bits, ...] = (8,)
    """Bits that a weight takes in the file: the smallest number of these that holds its steps."""
    ops: tuple[StoredKind, ...] = ()
    """Kinds of layer that it restores weights of while activations stay in float."""
    group_bits: tuple[Bits, ...] = ()
    """Bits that steps of linear layers and look-ups with groups can have in the file."""
    kept: tuple[StoredKind, ...] = ()
    """Kinds whose kernel reads the integers themselves, so that they stay small in memory too; others are restored
    when the file is loaded."""
    operators: Literal["standard", "microsoft"] = "standard"
    """How an ONNX file says so: DequantizeLinear in blocks, or com.microsoft's MatMulNBits and GatherBlockQuantized."""
    short_groups: bool = False
    """The last group of a row may be shorter than the others."""

    def stored(self, bits: Bits) -> Bits:
        """Bits that steps of `bits` take in the file, where activations are rounded as well."""
        return min(size for size in self.bits if size >= bits)

    def holds(self, kind: StoredKind) -> tuple[Bits, ...]:
        """Bits that weights of a kind can have while activations stay in float."""
        if kind not in self.ops:
            return ()
        return self.bits if kind == "conv" else self.group_bits


class Target(Setting):
    """A runtime on a device and its constraint table."""

    name: str
    title: str
    runtime: str
    """Module of `lissom.export` that drives it."""
    artifact: str
    """File name of the exported model."""
    extra: str | None = None
    """The pip extra that installs it; None when it is part of the core."""
    channel_multiple: Annotated[int, pydantic.Field(ge=1)]
    """Channels that its kernels compute at a time: between two multiples of it, a channel less saves nothing."""
    halves: Literal["storage", "none"]
    """What 16 bits do for a layer: `storage` halves its weights in the file and computes in float32 as before; `none`
    where the runtime would turn them into float32 at every call."""
    patterns: tuple[str, ...] = ()
    """Patterns of zeros, as "2:4", that it has kernels for; zeros in any other cost what numbers do."""
    integers: Integers
    dynamic: Dynamic
    weights: Weights = Weights()


def known_targets() -> tuple[str, ...]:
    files = resources.files("lissom.targets").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        TargetError: no such target; the message lists the nearest.
    """
    if name not in known_targets():
        raise TargetError(f"Unknown target {name!r}. {nearest(name, (*known_targets(), 'auto'))}")
    text = resources.files("lissom.targets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return Target.parse({"name": name, **tomllib.loads(text)}, f"target {name}", TargetError)
