"""A goal for energy on a machine with made up counters, and on one without."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lissom import Goal
from lissom.errors import GoalError
from lissom.measure import energy


def test_without_counters_a_goal_for_energy_is_refused_before_any_work(run, monkeypatch, tmp_path):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    with pytest.raises(GoalError, match="The goal limits energy, and this machine exposes no energy counters"):
        run(goal=Goal(energy_ratio=2))
    assert not (tmp_path / "run").exists()


def test_energy_is_measured_beside_latency_and_judged(run, monkeypatch, tmp_path):
    place = tmp_path / "powercap" / "intel-rapl:0"
    place.mkdir(parents=True)
    (place / "name").write_text("package-0\n")
    (place / "max_energy_range_uj").write_text("262143328850\n")
    (place / "energy_uj").write_text("0\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(energy, "ROUNDS", 3)
    monkeypatch.setattr(energy, "BLOCK_S", 0.01)
    ticks = itertools.count(1)
    monkeypatch.setattr(energy.Meter, "read", lambda self: (next(ticks) * 1_000_000,))
    result = run(goal=Goal(energy_ratio=1e6, energy_joules=1e6, soft=("energy",)))
    ratio, joules = result.goal
    assert ratio.wish == "energy ratio >= 1000000.00x"
    assert (ratio.met, joules.met, ratio.hard) == (False, True, False)
    assert result.goal_met
    assert result.before.energy is not None
    assert len(result.before.energy.samples) == 3
    assert all(0 < one <= 1 for one in result.before.energy.samples), "a joule a block, shared by its calls"
    record = result.ratios
    assert record.energy_low <= record.energy <= record.energy_high
    assert "Energy per input" in Path(result.report).read_text()
