"""Labelled examples in memory, and the stratified split of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from lissom.errors import DataError, UsageError, nearest


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size.

    Attributes:
        pixels: uint8 `(n, c, h, w)`, 0 to 255, contiguous in that order.
        labels: int64 `(n,)`.
        classes: `classes[labels[i]]` names the class of image `i`.

    Raises:
        UsageError: other shapes or types than these.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check("Images.pixels", self.pixels, torch.uint8, ("n", "c", "h", "w"))
        _check("Images.labels", self.labels, torch.int64, ("n",))
        _check_lengths("Images", pixels=len(self.pixels), labels=len(self.labels))
        # A one-channel tensor can be "contiguous" with channels-last strides, and convolutions pass them on.
        object.__setattr__(self, "pixels", in_order(self.pixels))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Self:
        """The images at `rows` (int64 `(m,)`), in that order, copied."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])


@dataclass(frozen=True, eq=False)
class Sounds:
    """Mono sounds of one sampling rate, zero-padded at the end to one length.

    Attributes:
        samples: int16 `(n, 1, t)`, -32768 to 32767.
        lengths: int64 `(n,)`, how many of the `t` samples were recorded; the rest is padding.
        labels: int64 `(n,)`.
        classes: `classes[labels[i]]` names the class of sound `i`.
        rate_hz: samples per second.

    Raises:
        UsageError: other shapes or types than these.
    """

    samples: Tensor
    lengths: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    rate_hz: int

    def __post_init__(self) -> None:
        _check("Sounds.samples", self.samples, torch.int16, ("n", "1", "t"))
        _check("Sounds.lengths", self.lengths, torch.int64, ("n",))
        _check("Sounds.labels", self.labels, torch.int64, ("n",))
        sizes = {"samples": len(self.samples), "lengths": len(self.lengths), "labels": len(self.labels)}
        _check_lengths("Sounds", **sizes)
        object.__setattr__(self, "samples", in_order(self.samples))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Self:
        """The sounds at `rows` (int64 `(m,)`), in that order, copied."""
        parts = {"samples": self.samples[rows], "lengths": self.lengths[rows], "labels": self.labels[rows]}
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled texts. Tokenize them and hand `(token_ids, labels)` to `Batches`.

    Attributes:
        texts: `n` of them.
        labels: int64 `(n,)`.
        classes: `classes[labels[i]]` names the class of text `i`.

    Raises:
        UsageError: other shapes or types than these.
    """

    texts: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check("Texts.labels", self.labels, torch.int64, ("n",))
        _check_lengths("Texts", texts=len(self.texts), labels=len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Self:
        """The texts at `rows` (int64 `(m,)`), in that order."""
        texts = tuple(self.texts[int(row)] for row in rows)
        return replace(self, texts=texts, labels=self.labels[rows])


class Labelled(Protocol):
    """What `split` needs to know of a set."""

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Self: ...


L = TypeVar("L", bound=Labelled)


def split(data: L, fraction: float, seed: int) -> tuple[L, L]:
    """Two disjoint parts of `data`: the rest, and `round(fraction * n)` examples drawn from every class.

        train, validation = split(images, 0.1, seed=0)

    Each class gives its share, rounded down or up so that the total is exact. Both parts keep the order of
    `data`.

    Raises:
        UsageError: either part would be empty.
    """
    total = len(data)
    wanted = round(fraction * total) if 0 < fraction < 1 else 0
    if not 0 < wanted < total:
        raise UsageError(
            f"split: fraction {fraction!r} of {total} examples leaves one part empty. "
            f"Pass a fraction between {1 / max(total, 2):.3g} and {1 - 1 / max(total, 2):.3g}."
        )
    counts = torch.bincount(data.labels)
    # Largest remainder in whole numbers: floats would let two equal shares round differently.
    shares, remainders = counts * wanted // total, counts * wanted % total
    short = wanted - int(shares.sum())
    shares[torch.argsort(remainders, descending=True, stable=True)[:short]] += 1

    generator = generator_for("split", seed)
    chosen = torch.zeros(total, dtype=torch.bool)
    for label, share in enumerate(map(int, shares)):
        rows = torch.nonzero(data.labels == label).flatten()
        chosen[rows[torch.randperm(len(rows), generator=generator)[:share]]] = True
    return data.take(torch.nonzero(~chosen).flatten()), data.take(torch.nonzero(chosen).flatten())


def generator_for(*parts: str | int) -> torch.Generator:
    """A CPU generator whose stream depends on all of `parts`.

    Hashed, because seed 1 at epoch 0 and seed 0 at epoch 1 must not coincide as their sum would.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def in_order(tensor: Tensor) -> Tensor:
    """`tensor` with the strides of its shape; itself when it has them already."""
    if tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def encode(
    values: Sequence[int] | Sequence[str], classes: Sequence[str] | None, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as int64 `(n,)` and the class names. Numbers keep their value, names count up in sorted order.

    Given `classes` are kept, so that a split that lacks a class still numbers the others alike.
    """
    names = [value for value in values if isinstance(value, str)]
    if names:
        known = tuple(sorted(set(names))) if classes is None else tuple(classes)
        index = {name: number for number, name in enumerate(known)}
        for name in names:
            if name not in index:
                raise UsageError(f"{where}: the label {name!r} is not among `classes`. {nearest(name, known)}")
        return torch.tensor([index[name] for name in names], dtype=torch.int64), known

    labels = torch.tensor(values, dtype=torch.int64)
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    if low < 0:
        raise DataError(
            f"{where}: found the label {low}, which usually marks an unlabelled split. "
            f"Labels count from 0: read a labelled split, or relabel the rows."
        )
    known = tuple(str(number) for number in range(high + 1)) if classes is None else tuple(classes)
    if high >= len(known):
        raise UsageError(
            f"{where}: found the label {high}, but `classes` names {len(known)} (0 to {len(known) - 1}). "
            f"Name at least {high + 1} classes."
        )
    return labels, known


def _check(what: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[str, ...]) -> None:
    fits = tensor.dim() == len(shape) and all(
        not want.isdigit() or int(want) == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if tensor.dtype is not dtype or not fits:
        raise UsageError(
            f"{what} must be {_name(dtype)} of shape ({', '.join(shape)}), "
            f"got {_name(tensor.dtype)} of shape {tuple(tensor.shape)}."
        )


def _check_lengths(what: str, **lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise UsageError(f"{what} needs one of each per example, got {found}.")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
