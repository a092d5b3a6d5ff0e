"""Errors that say the machine has run out of something, whichever library raised them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
DISK_TEXTS = ("no space left on device", "disk is full", "disk quota exceeded", "disk i/o error", "file too large",
              "failed writing file")  # fmt: skip
MEMORY_TEXTS = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory", "bad_alloc",
                "failed to allocate memory", "bad allocation")  # fmt: skip


def disk_full(wrong: BaseException) -> bool:
    """Whether this error, or one that it came from, says that nothing more can be written: full, a quota, read-only."""
    return any((isinstance(one, OSError) and one.errno in DISK) or _says(one, DISK_TEXTS) for one in _chain(wrong))


def out_of_memory(wrong: BaseException) -> bool:
    """As `disk_full`: whether memory could not be had, of the processor or of an accelerator."""
    return any(isinstance(one, MemoryError) or _says(one, MEMORY_TEXTS) for one in _chain(wrong))


def _says(wrong: BaseException, texts: tuple[str, ...]) -> bool:
    raised_below = isinstance(wrong, (RuntimeError, OSError)) or _foreign(wrong)
    return raised_below and any(text in str(wrong).lower() for text in texts)


def _foreign(wrong: BaseException) -> bool:
    """Errors of a native library or database, which are of classes of their own."""
    return not type(wrong).__module__.startswith(("builtins", "lissom"))


def _chain(wrong: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while wrong is not None and id(wrong) not in seen:
        seen.add(id(wrong))
        yield wrong
        wrong = wrong.__cause__ or (None if wrong.__suppress_context__ else wrong.__context__)
