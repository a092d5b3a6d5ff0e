"""Plain files: a folder of images per class, and tab separated texts."""

from __future__ import annotations

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
    if not path.is_file():
        folder = existing_folder(path.parent)
        known = nearest(path.name, (file.name for file in folder.iterdir() if file.is_file()))
        raise UsageError(f"There is no file {path}. {known}")
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as wrong:
        raise DataError(f"{path} is not UTF-8: {wrong}. Convert it first.") from wrong
    texts: list[str] = []
    values: list[str] = []
    for number, line in enumerate(lines, start=1):
        text, _, value = line.rpartition("\t")
        if not text.strip() or not value.strip():
            raise DataError(f"{path}, line {number}: expected text<TAB>label, got {line[:80]!r}. Repair the line.")
        texts.append(text)
        values.append(value.strip())
    numbers = [int(value) for value in values if re.fullmatch(r"-?\d+", value)]
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
