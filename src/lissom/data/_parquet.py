"""Hugging Face style parquet: one folder, one file or a numbered set of files per split."""

from __future__ import annotations

import importlib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.data import _decode
from lissom.data._folders import existing_folder, listed, spread
from lissom.data._sets import Images, Sounds, Texts, encode
from lissom.errors import DataError, UsageError, nearest

_FILE = re.compile(r"(?P<split>.+?)(-(?P<part>\d{5,})-of-(?P<parts>\d{5,}))?\.parquet")
_LABEL_TYPES = re.compile(r"u?int\d+|bool|(large_)?string|dictionary<values=(large_)?string,.*")


def parquet(
    folder: str | Path,
    split: str,
    *,
    image: str = "image",
    label: str = "label",
    classes: Sequence[str] | None = None,
    size: _decode.Size | None = None,
    channels: int | None = None,
    limit: int | None = None,
) -> Images:
    """The images of one split.

    Args:
        folder: holds `<split>.parquet`, or `<split>-00000-of-00003.parquet` and so on.
        split: which of them.
        image: the column of encoded images: bytes, or structs with a field `bytes`.
        label: the column of labels: whole numbers from 0, or names.
        classes: the classes, in order of their numbers; by itself the names that the file declares, then the
            labels found, sorted.
        size: pixels, one side of a square or `(height, width)`: every image is scaled to cover it, then its
            middle cut out. Or a function of pillow's image that returns uint8 pixels `(c, h, w)`. By itself images
            stay as they are.
        channels: 1 (grey) or 3 (colour); by itself as the first image.
        limit: read that many rows, spread evenly over the split: one sorted by class still gives all classes.

    Raises:
        UsageError: a folder, split or column that is not there; pyarrow or pillow is not installed.
        DataError: a file or an image that cannot be decoded, a missing label, several sizes without `size`.
    """
    found = _Split(folder, split, label, limit)
    labels, names = found.labels(classes)
    pixels = _decode.images(found.cells(image), len(found.rows), size, channels)
    return Images(pixels, labels, names)


def parquet_audio(
    folder: str | Path,
    split: str,
    *,
    audio: str = "audio",
    label: str = "label",
    classes: Sequence[str] | None = None,
    length: int | None = None,
    limit: int | None = None,
) -> Sounds:
    """The sounds of one split, stored as 16 bit mono WAV.

    Args:
        folder, split, label, classes, limit: as in `parquet`.
        audio: the column of WAV files: bytes, or structs with a field `bytes`.
        length: samples; every sound is cut or zero-padded at its end. By itself that of the longest one.

    Raises:
        UsageError: a folder, split or column that is not there; pyarrow is not installed.
        DataError: a file or a sound that cannot be decoded, a missing label, several sampling rates.
    """
    if length is not None and length < 1:
        raise UsageError(f"length must be at least 1 sample, got {length}.")
    found = _Split(folder, split, label, limit)
    labels, names = found.labels(classes)
    waves: list[NDArray[np.int16]] = []
    rate_hz, first = 0, ""
    for name, source in found.cells(audio):
        samples, rate = _decode.sound(name, source)
        if not waves:
            rate_hz, first = rate, name
        if rate != rate_hz:
            raise DataError(
                f"{name} has {rate} samples per second, but {first} has {rate_hz}. Resample all to one rate first."
            )
        waves.append(samples)

    length = length or max(1, max(len(samples) for samples in waves))
    padded = torch.zeros(len(waves), 1, length, dtype=torch.int16)
    for row, samples in zip(padded[:, 0], waves, strict=True):
        row[: len(samples)] = torch.as_tensor(samples[:length])
    lengths = torch.tensor([min(len(samples), length) for samples in waves])
    return Sounds(padded, lengths, labels, names, rate_hz)


def parquet_texts(
    folder: str | Path,
    split: str,
    *,
    text: str = "text",
    label: str = "label",
    classes: Sequence[str] | None = None,
    limit: int | None = None,
) -> Texts:
    """The texts of one split.

    Args:
        folder, split, label, classes, limit: as in `parquet`.
        text: the column of strings.

    Raises:
        UsageError: a folder, split or column that is not there or holds no strings; pyarrow is not installed.
        DataError: a file that cannot be decoded, a missing text or label.
    """
    found = _Split(folder, split, label, limit)
    labels, names = found.labels(classes)
    return Texts(tuple(found.texts(text)), labels, names)


class _Split:
    """The files of one split, and which of their rows are wanted."""

    def __init__(self, folder: str | Path, split: str, label: str, limit: int | None) -> None:
        self.label = label
        self.files = [(path, _opened(path)) for path in _paths(existing_folder(folder), split)]
        total = sum(file.metadata.num_rows for _, file in self.files)
        if not total:
            raise DataError(f"{self.files[0][0]}: the split {split!r} has no rows. Read another split.")
        self.rows = spread(total, limit)

    def labels(self, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
        """Of the wanted rows, numbered over all rows, so that a `limit` does not renumber the classes."""
        values: list[Any] = []
        for path, file in self.files:
            kind = _type(path, file, self.label)
            if not _LABEL_TYPES.fullmatch(str(kind)):
                raise UsageError(
                    f"{path}: the column {self.label!r} holds {kind}, labels are whole numbers or names. "
                    f"Name another column with label=."
                )
            column = file.read(columns=[self.label]).column(0)
            if column.null_count:
                raise DataError(
                    f"{path}: {column.null_count} rows have no {self.label!r}. "
                    f"Read a labelled split, or drop those rows."
                )
            values += column.to_pylist()
        path, file = self.files[0]
        labels, names = encode(values, classes or _declared_classes(file, self.label), str(path))
        return labels[self.rows], names

    def texts(self, column: str) -> list[str]:
        """Of the wanted rows."""
        values: list[Any] = []
        for path, file in self.files:
            kind = _type(path, file, column)
            if str(kind) not in ("string", "large_string"):
                raise UsageError(f"{path}: the column {column!r} holds {kind}, not strings. Name another with text=.")
            held = file.read(columns=[column]).column(0)
            if held.null_count:
                raise DataError(f"{path}: {held.null_count} rows have no {column!r}. Drop those rows.")
            values += held.to_pylist()
        return [values[row] for row in self.rows]

    def cells(self, column: str) -> Iterator[tuple[str, bytes]]:
        """`(what to call it in an error, bytes)` of every wanted row, in order."""
        leaves = [_bytes_leaf(path, file, column) for path, file in self.files]
        start = 0
        for (path, file), leaf in zip(self.files, leaves, strict=True):
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                wanted = _between(self.rows, start, start + count)
                if wanted:
                    yield from _group_cells(path, file, group, leaf, [row - start for row in wanted])
                start += count


def _group_cells(path: Path, file: Any, group: int, leaf: str, wanted: list[int]) -> Iterator[tuple[str, bytes]]:
    start = 0
    for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=[leaf]):
        cells = batch.column(0)
        if leaf.endswith(".bytes"):
            cells = cells.field("bytes")
        for row in _between(wanted, start, start + len(cells)):
            name = f"{path}, row group {group}, row {row}"
            data = cells[row - start].as_py()
            if data is None:
                raise DataError(
                    f"{name} holds no bytes in {leaf!r}, perhaps only a path. "
                    f"Save the data set with its files embedded."
                )
            yield name, data
        start += len(cells)


def _between(rows: list[int], start: int, stop: int) -> list[int]:
    """Those of the ascending `rows` from `start` up to, not including, `stop`."""
    return rows[bisect_left(rows, start) : bisect_left(rows, stop)]


def _paths(folder: Path, split: str) -> list[Path]:
    """The files of `split`, in order of their numbers, all of them."""
    files = [(path, match) for path in sorted(folder.iterdir()) if (match := _FILE.fullmatch(path.name))]
    mine = [(path, match) for path, match in files if match["split"] == split]
    if not mine:
        splits = {match["split"] for _, match in files}
        found = nearest(split, splits) if splits else f"It holds {listed(folder)}; no parquet file."
        raise UsageError(
            f"{folder} has no split {split!r}: neither {split}.parquet nor {split}-00000-of-*.parquet. {found}"
        )
    # One unnumbered file, or as many numbered ones as they say they are.
    parts = Counter(match["parts"] for _, match in mine)
    if len(parts) > 1 or any(count != int(said or 1) for said, count in parts.items()):
        raise DataError(
            f"{folder}: the files of split {split!r} are not one complete set: "
            f"{', '.join(path.name for path, _ in mine)}. "
            f"Fetch those that are missing, or remove those of another set."
        )
    return [path for path, _ in mine]


def _opened(path: Path) -> Any:
    """The `pyarrow.parquet.ParquetFile`. pyarrow has no types, so what comes from it is `Any`."""
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        reader: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as missing:
        raise UsageError(f"Reading parquet needs pyarrow, which is not installed. {_decode.INSTALL}") from missing
    try:
        return reader.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as broken:
        raise DataError(f"{path} cannot be read as parquet: {broken}. Fetch or write it again.") from broken


def _type(path: Path, file: Any, column: str) -> Any:
    names: list[str] = list(file.schema_arrow.names)
    if column not in names:
        raise UsageError(f"{path} has no column {column!r} among {', '.join(names)}. {nearest(column, names)}")
    return file.schema_arrow.field(column).type


def _bytes_leaf(path: Path, file: Any, column: str) -> str:
    """The name under which the bytes of `column` are stored."""
    kind = _type(path, file, column)
    if str(kind) in ("binary", "large_binary"):
        return column
    if str(kind).startswith("struct<") and "bytes" in [field.name for field in kind.fields]:
        return f"{column}.bytes"
    raise UsageError(
        f"{path}: the column {column!r} holds {kind}, neither bytes nor structs with a field 'bytes'. "
        f"Name the column that does: the file has {', '.join(file.schema_arrow.names)}."
    )


def _declared_classes(file: Any, label: str) -> list[str] | None:
    """The names of a Hugging Face `ClassLabel`, which the library writes into the file's metadata."""
    metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
    stored = metadata.get(b"huggingface", b"{}")
    try:
        return cast(list[str], json.loads(stored)["info"]["features"][label]["names"])
    except (ValueError, KeyError, TypeError):
        return None
