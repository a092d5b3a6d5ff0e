"""Plain files: a folder of images per class, and texts in lines or tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from lissom.data import _decode
from lissom.data._sets import Images, Texts, encode
from lissom.errors import DataError, UsageError, nearest

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def image_folder(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    size: _decode.Size | None = None,
    channels: int | None = None,
    limit: int | None = None,
) -> Images:
    """The images in the sub-folders of `root`, one sub-folder per class, in sorted order.

    Read as stored: an EXIF orientation is not applied. Files count by their suffix (png, jpg, jpeg, webp,
    bmp, gif, tif, tiff, ppm, pgm), at any depth; others and hidden ones do not.

    Args:
        root: the folder that holds the sub-folders.
        classes: fixes the classes and their numbers; by itself the sorted names of the sub-folders.
        size, channels, limit: as in `parquet`.

    Raises:
        UsageError: the folder is not there or has no sub-folders, or pillow is not installed.
        DataError: a sub-folder without images, an image that cannot be decoded, several sizes without `size`.
    """
    folder = existing_folder(root)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UsageError(
            f"{folder} holds {listed(folder)}, but no sub-folders. "
            f"Expected one sub-folder per class: {folder}/cat/001.png, {folder}/dog/002.png."
        )
    files: list[Path] = []
    values: list[str] = []
    for name in names:
        mine = sorted(path for path in (folder / name).rglob("*") if _is_image(path, folder))
        if not mine:
            raise DataError(
                f"{folder / name} holds {listed(folder / name)}, no image. "
                f"Read are {', '.join(sorted(_SUFFIXES))}; remove the folder if it is no class."
            )
        files += mine
        values += [name] * len(mine)
    labels, known = encode(values, classes or names, str(folder))
    rows = spread(len(files), limit)
    sources = ((str(files[row]), files[row]) for row in rows)
    return Images(_decode.images(sources, len(rows), size, channels), labels[rows], known)


def tsv(path: str | Path, *, classes: Sequence[str] | None = None, limit: int | None = None) -> Texts:
    """The lines `text<TAB>label` of a UTF-8 file without header; labels are whole numbers from 0, or names.

    Args:
        path: the file.
        classes, limit: as in `parquet`.

    Raises:
        UsageError: there is no such file.
        DataError: a line without text or label, or a file that is not UTF-8.
    """
    path = Path(path)
    texts: list[str] = []
    values: list[str] = []
    for number, line in enumerate(_text_of(path).rstrip("\n").split("\n"), start=1):
        text, _, value = line.rpartition("\t")
        if not text.strip() or not value.strip():
            raise DataError(f"{path}, line {number}: expected text<TAB>label, got {line[:80]!r}. Repair the line.")
        texts.append(text)
        values.append(value.strip())
    return _texts(path, texts, values, classes, limit)


def table(
    path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    classes: Sequence[str] | None = None,
    limit: int | None = None,
) -> Texts:
    """The rows of a UTF-8 table: tab separated without quotes (`.tsv`), else comma separated (RFC 4180).

    A first line that holds the name of the text or label column is a header, and then has to hold both. Without a
    header, every line is a text and its label.

    Args:
        path: the file.
        text, label: the columns; labels are whole numbers from 0, or names.
        classes, limit: as in `parquet`.

    Raises:
        UsageError: there is no such file, or its header lacks a column.
        DataError: a row of another length, without text or label, or a file that is not UTF-8.
    """
    path = Path(path)
    tabs = path.suffix.lower() == ".tsv"
    lines = io.StringIO(_text_of(path), newline="")  # str.splitlines would also split at rarer characters
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as wrong:
        raise DataError(f"{path}, line {reader.line_num}: {wrong}. Repair the line.") from wrong
    if not rows:
        raise DataError(f"{path} has no rows. Read another file.")
    columns = [name.strip() for name in rows[0][1]]
    if text not in columns and label not in columns:
        if (text, label) != ("text", "label"):
            raise UsageError(
                f"{path} has no column {text!r} or {label!r}: its first line is {_shown(rows[0][1])}. "
                "Name columns that it has with text= and label=."
            )
        if tabs:
            return tsv(path, classes=classes, limit=limit)
        columns = [text, label]
    else:
        for name in (text, label):
            if name not in columns:
                raise UsageError(f"{path} has no column {name!r} among {', '.join(columns)}. {nearest(name, columns)}")
        rows = rows[1:]
    texts: list[str] = []
    values: list[str] = []
    for number, row in rows:
        held = dict(zip(columns, row, strict=False))
        if len(row) != len(columns) or not held[text].strip() or not held[label].strip():
            raise DataError(
                f"{path}, line {number}: expected a value for {' and '.join(columns)}, got {_shown(row)}. "
                "Repair the line, or give the file a header that names its columns."
            )
        texts.append(held[text])
        values.append(held[label].strip())
    return _texts(path, texts, values, classes, limit)


def _shown(row: Sequence[str]) -> str:
    return repr([value[:40] for value in row[:8]])


def _text_of(path: Path) -> str:
    if not path.is_file():
        folder = existing_folder(path.parent)
        known = nearest(path.name, (file.name for file in folder.iterdir() if file.is_file()))
        raise UsageError(f"There is no file {path}. {known}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise DataError(f"{path} is not UTF-8: {wrong}. Convert it first.") from wrong


def _texts(
    path: Path, texts: Sequence[str], values: Sequence[str], classes: Sequence[str] | None, limit: int | None
) -> Texts:
    numbers = [int(value) for value in values if re.fullmatch(r"-?\d{1,18}", value)]
    labels, known = encode(numbers if len(numbers) == len(values) else values, classes, str(path))
    rows = spread(len(texts), limit)
    return Texts(tuple(texts[row] for row in rows), labels[rows], known)


def existing_folder(folder: str | Path) -> Path:
    """`folder` as a path; where it is not one, the error says how far the path exists and what is there."""
    folder = Path(folder)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UsageError(f"{folder} is a file, a folder is expected. Pass the folder it is in: {folder.parent}.")
    parent = next(path for path in folder.absolute().parents if path.is_dir())
    missing = folder.absolute().relative_to(parent).parts[0]
    raise UsageError(
        f"There is no folder {folder}. In {parent}: "
        f"{nearest(missing, (path.name for path in parent.iterdir() if path.is_dir()))}"
    )


def listed(folder: Path) -> str:
    """A few of the names in `folder`, for an error message."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}" if names else "nothing"


def spread(total: int, limit: int | None) -> list[int]:
    """`limit` of the row numbers `0..total-1`, in order and evenly spaced; all of them without a limit."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}.")
    count = total if limit is None else min(limit, total)
    return [index * total // count for index in range(count)]


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in _SUFFIXES and path.is_file() and not hidden
