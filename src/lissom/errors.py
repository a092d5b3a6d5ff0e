"""Every error Lissom raises on purpose.

    LissomError                    something Lissom can explain
    ├── UsageError                 the caller can fix it by asking differently        (exit code 2)
    │   ├── ProjectError           the project file or what its `build()` returned
    │   ├── RecipeError            an unknown or illegal recipe, transform or field
    │   ├── GoalError              a goal that cannot be parsed or never be met
    │   │   └── OutOfReachError    an amount that this model cannot reach; says which it can
    │   ├── TargetError            an unknown runtime, or one that is not installed
    │   ├── StorageError           a search's database that cannot be reached
    │   └── WorkerError            workers that are not there, or that a search cannot use
    └── FailureError               the work itself could not be done                  (exit code 3)
        ├── DataError              batches that are missing, exhausted, NaN or do not fit the model
        ├── ExportError            the model cannot be traced or exported
        ├── RunFolderError         a run folder that is occupied, full, truncated, altered or of another model
        └── VerificationError      a promise did not hold: the result is not handed out

Every message names what was wrong, the value, and the way out.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


class LissomError(Exception):
    """Base of everything Lissom raises on purpose."""


class UsageError(LissomError):
    """Wrong argument, file or setting: asking differently fixes it."""


class ProjectError(UsageError):
    """The project file, or what its `build()` returned."""


class RecipeError(UsageError):
    """An unknown or illegal recipe, transform or field."""


class GoalError(UsageError):
    """A goal that cannot be parsed, or that no model could meet."""


class OutOfReachError(GoalError):
    """How many times smaller a step is to make the model, and cannot; `most` is what it can."""

    def __init__(self, text: str, most: float = 1.0) -> None:
        super().__init__(text)  # one argument alone: errors travel between processes, which make them again from it
        self.most = most


class TargetError(UsageError):
    """An unknown runtime, or one that is not installed here."""


class StorageError(UsageError):
    """A database of trials that cannot be reached, read or written."""


class WorkerError(UsageError):
    """Workers of a search that are not there, that cannot be reached, or whose measurements cannot be compared."""


class FailureError(LissomError):
    """The work itself could not be done."""


class DataError(FailureError):
    """Batches that are missing, exhausted, not finite, or do not fit the model."""


class ExportError(FailureError):
    """The model cannot be traced, or not be written for a runtime."""


class RunFolderError(FailureError):
    """A run folder that is occupied, truncated, altered, or made from another model."""


class VerificationError(FailureError):
    """Something that must never break did break; the result is withheld."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The way out for a misspelt name: a sentence with the closest known ones, or with all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(known) or 'none'}."


def shown(value: object) -> str:
    """A value as Python writes it, cut where it would fill the screen."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 8, 8, 8
    short.maxstring = short.maxother = 200
    return cut(short.repr(value))


def cut(text: str, most: int = 300) -> str:
    """Text of others that may be of any length, in an error of ours."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def words_of(wrong: BaseException) -> str:
    """What an error of a user's own code says, in one line, cut; nothing where it fails to say anything."""
    try:
        return cut(" ".join(str(wrong).split()), 1_000)
    except Exception:  # noqa: BLE001  its class may be anybody's
        return ""


def first_line(wrong: BaseException) -> str:
    """What an error of another library says, in one line."""
    return next(iter(str(wrong).splitlines()), type(wrong).__name__)
