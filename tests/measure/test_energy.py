"""Counters of a made up machine: which of them count, how they turn over, and what two callables used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import FailureError
from lissom.measure.energy import Domain, Meter, spent, summed_up, survey, weigh

RANGE = 262_143_328_850


def zone(root: Path, number: str, name: str, value: int = 0, most: int = RANGE, driver: str = "intel-rapl") -> Path:
    place = root / f"{driver}:{number}"
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "energy_uj").write_text(f"{value}\n")
    (place / "max_energy_range_uj").write_text(f"{most}\n")
    return place


def test_packages_and_the_memory_beside_them_count_and_nothing_twice(tmp_path):
    zone(tmp_path, "0", "package-0", 10)
    zone(tmp_path, "0:0", "core", 5)
    zone(tmp_path, "0:1", "dram", 7)
    zone(tmp_path, "1", "package-1", 20)
    zone(tmp_path, "2", "psys", 99)
    zone(tmp_path, "0", "package-0", 10, driver="intel-rapl-mmio")
    meter, reason = survey(tmp_path)
    assert meter is not None
    assert reason == ""
    assert sorted(domain.name for domain in meter.domains) == ["dram", "package-0", "package-1"]
    assert sorted(meter.read()) == [7, 10, 20]


@given(start=st.integers(0, RANGE), used=st.integers(0, RANGE - 1))
def test_a_counter_that_turned_over_lost_nothing(start, used):
    end = start + used
    assert spent(start, end if end <= RANGE else end - RANGE, RANGE) == used


def test_joules_are_the_sum_of_the_domains():
    meter = Meter((Domain("a", Path("a"), 1_000_000), Domain("b", Path("b"), 5_000_000)))
    assert meter.joules((900_000, 1), (100_000, 3_000_001)) == pytest.approx(0.2 + 3.0)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda root: None, "this machine exposes no energy counters"),
        (lambda root: zone(root, "0", "psys"), "none of the energy counters in .* is of a processor package"),
        (
            lambda root: (zone(root, "0", "package-0") / "energy_uj").write_text("much"),
            "the energy counter .*energy_uj cannot be read: invalid literal",
        ),
        (
            lambda root: (zone(root, "0", "package-0") / "max_energy_range_uj").unlink(),
            "the energy counter .* cannot be read: .*No such file",
        ),
    ],
)
def test_a_machine_that_does_not_tell_says_why(tmp_path, build, says):
    root = tmp_path / "powercap"
    root.mkdir()
    build(root)
    meter, reason = survey(root)
    assert meter is None
    assert re.search(says, reason)


def test_a_counter_for_root_alone_says_how_to_open_it(tmp_path, monkeypatch):
    place = zone(tmp_path, "0", "package-0")
    read = Path.read_text

    def refused(self: Path, *given, **named):
        if self == place / "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, *given, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    meter, reason = survey(tmp_path)
    assert meter is None
    assert "may be read by root alone. Allow it with `sudo chmod a+r" in reason


class Machine:
    """A clock and a counter that move with the work done."""

    def __init__(self, root: Path, most: int = RANGE) -> None:
        self.place, self.most, self.now, self.value = zone(root, "0", "package-0", 0, most), most, 0.0, 0
        self.log: list[str] = []

    def work(self, name: str, seconds: float, microjoules: int):
        def call() -> None:
            self.log.append(name)
            self.now += seconds
            self.value = (self.value + microjoules) % self.most
            (self.place / "energy_uj").write_text(str(self.value))

        return call


@pytest.mark.parametrize("most", [RANGE, 3_000_000])
def test_joules_per_input_of_two_callables_in_turns(tmp_path, most):
    machine = Machine(tmp_path, most)
    meter, _ = survey(tmp_path)
    calls = {"before": machine.work("before", 0.1, 80_000), "after": machine.work("after", 0.02, 10_000)}
    found = weigh(calls, meter, inputs=4, rounds=6, block_s=0.5, clock=lambda: machine.now)
    assert found["before"] == pytest.approx([0.02] * 6), "80 mJ for four inputs, turned over or not"
    assert found["after"] == pytest.approx([0.0025] * 6)
    turns = [name for name, last in zip(machine.log[2:], machine.log[1:-1], strict=True) if name != last]
    assert turns[:4] == ["before", "after", "before", "after"], "every second round begins with the other"
    used = summed_up(found["after"])
    assert (used.median, used.low, used.high, len(used.samples)) == (pytest.approx(0.0025),) * 3 + (6,)


def test_counters_that_stand_still_are_told(tmp_path):
    machine = Machine(tmp_path)
    meter, _ = survey(tmp_path)
    with pytest.raises(FailureError, match="did not move in 6 s of work"):
        weigh({"a": machine.work("a", 1.0, 0)}, meter, inputs=1, clock=lambda: machine.now)


def test_a_counter_that_goes_away_is_told(tmp_path):
    machine = Machine(tmp_path)
    meter, _ = survey(tmp_path)
    (machine.place / "energy_uj").unlink()
    with pytest.raises(FailureError, match="cannot be read any more"):
        meter.read()
