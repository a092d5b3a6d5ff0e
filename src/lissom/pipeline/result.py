"""What a run hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lissom.export.base import Artifact
from lissom.measure.judge import reached
from lissom.measure.records import GoalItem, Ratios, RunRecord, Side
from lissom.transforms.base import Plan

REPORT = "report.html"


@dataclass(frozen=True, eq=False)
class Result:
    """What a run made. Also a folder on disk: `folder`."""

    model: nn.Module
    """The compressed model: an `nn.Module`, of the same class where the transforms allow it."""
    artifact: Artifact
    record: RunRecord
    plans: tuple[Plan, ...]
    folder: Path

    @property
    def before(self) -> Side:
        return self.record.before

    @property
    def after(self) -> Side:
        return self.record.after

    @property
    def ratios(self) -> Ratios:
        return self.record.ratios

    @property
    def goal(self) -> tuple[GoalItem, ...]:
        return self.record.goal

    @property
    def goal_met(self) -> bool:
        """Whether every wish that is not soft is met."""
        return reached(self.record.goal)

    @property
    def report(self) -> Path:
        return self.folder / REPORT
