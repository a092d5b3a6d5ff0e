"""Inputs that were made up, as a part of `result.json`: how, and what they looked like. No tensors."""

from __future__ import annotations

from typing import Any

from lissom.settings import Setting


class Signs(Setting):
    """What made up inputs look like to the teacher. Figures of outputs are None where they are no classes."""

    examples: int
    """That were looked at."""
    confidence: float | None
    """Mean probability of the likeliest class."""
    balance: float | None
    """Entropy of the histogram of classes, of the largest possible; 1: all equally often."""
    spread: float
    """Mean distance between two examples, of the root mean square of one; sqrt(2): independent."""
    normalizations: int
    """Batch normalizations of the teacher whose statistics were aimed at."""
    collapsed: str | None
    """Why they should not be learned from; None if nothing speaks against it."""


class SynthesisPoint(Signs):
    """Made up inputs that were held out, at one moment of a synthesis."""

    losses: dict[str, float]
    """What the synthesizer makes small, unweighted, by the names of its weights."""
    agreement: float | None = None
    """Share of them in which the student finds the teacher's class likeliest; None without a student or classes."""
    entropy: float | None = None
    """Mean entropy of the student's answers, of the largest possible: 0 certain, 1 no idea."""


class SynthesisRecord(Setting):
    """Inputs that were made up for a teacher: how, what they looked like on the way and at the end."""

    settings: dict[str, Any]
    splits: tuple[str, ...]
    """Of the task, that they stand for."""
    examples: int
    """That were made."""
    signs: Signs
    history: tuple[SynthesisPoint, ...]
    """Of a training: after each epoch. Otherwise at most ten moments."""
    sheet: str | None = None
    """Some of them side by side, as the data URI of a PNG; None where they are no images."""
    sheet_classes: tuple[int, ...] = ()
    """The likeliest class of each image of the sheet, row by row; empty where there are none."""
