"""Energy of a call from the processor's own counters, two models in turns.

    E = sum over domains of (counter after - counter before, modulo its range) / calls / inputs of a call

Source: Linux powercap (Documentation/power/powercap/powercap.rst): `energy_uj` counts microjoules upwards and begins
again beyond `max_energy_range_uj`. Packages are added up, and the memory beside them (`dram`); cores and graphics are
parts of a package, and a platform (`psys`) holds everything again. `intel-rapl` is the name of the driver on AMD, too.

A counter is one of the whole package: what else runs there, and what idleness costs, is in the figure. Both models see
the same background, in alternating rounds as for latency, so the ratio is pulled towards 1 and never away from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lissom.errors import FailureError, first_line
from lissom.measure.latency import bootstrap_median
from lissom.measure.records import EnergyUse

POWERCAP = Path("/sys/class/powercap")
CONTROL = "intel-rapl"
ROUNDS = 10
BLOCK_S = 0.25
"""Long beside the millisecond at which counters are brought up to date."""
LONGEST_S = 5.0
"""After which a counter that has not moved never will."""


@dataclass(frozen=True)
class Domain:
    name: str
    counter: Path
    range_uj: int


@dataclass(frozen=True)
class Meter:
    """The counters of this machine."""

    domains: tuple[Domain, ...]

    def read(self) -> tuple[int, ...]:
        """Microjoules of each domain, as they stand.

        Raises:
            FailureError: a counter cannot be read any more.
        """
        try:
            return tuple(_number(domain.counter) for domain in self.domains)
        except (OSError, ValueError) as wrong:
            raise FailureError(f"An energy counter cannot be read any more: {first_line(wrong)}.") from wrong

    def joules(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Between two readings that are less than one turn of a counter apart."""
        pairs = zip(self.domains, before, after, strict=True)
        return sum(spent(start, end, domain.range_uj) for domain, start, end in pairs) / 1e6


def spent(before: int, after: int, range_uj: int) -> int:
    """Microjoules, once around at most."""
    return after - before if after >= before else after + range_uj - before


def survey(root: Path | None = None) -> tuple[Meter | None, str]:
    """The meter of this machine, or None and the reason why there is none."""
    place = POWERCAP if root is None else root
    zones = sorted(place.glob(f"{CONTROL}:*")) if place.is_dir() else []
    if not zones:
        return None, f"this machine exposes no energy counters: {place}/{CONTROL}:* does not exist"
    domains: list[Domain] = []
    for zone in zones:
        try:
            name = (zone / "name").read_text(encoding="utf-8").strip()
            if name.startswith("package") or name == "dram":
                counter = zone / "energy_uj"
                _number(counter)
                domains.append(Domain(name, counter, _number(zone / "max_energy_range_uj")))
        except PermissionError:
            return None, (
                f"the energy counter {zone / 'energy_uj'} may be read by root alone. Allow it with "
                f"`sudo chmod a+r {place}/{CONTROL}:*/energy_uj`"
            )
        except (OSError, ValueError) as wrong:
            return None, f"the energy counter {zone / 'energy_uj'} cannot be read: {first_line(wrong)}"
    if not any(domain.name.startswith("package") for domain in domains):
        return None, f"none of the energy counters in {place} is of a processor package"
    return Meter(tuple(domains)), ""


def weigh(
    calls: Mapping[str, Callable[[], object]],
    meter: Meter,
    *,
    inputs: int,
    rounds: int | None = None,
    block_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Joules per input of each callable, one figure a round, in alternating blocks as `latency.interleave` has them.

    Args:
        inputs: examples of one call.
        rounds: blocks per callable; every second round runs in reverse order.
        block_s: calls repeat until a block has lasted so many seconds and the counters have moved.

    Raises:
        FailureError: the counters do not move, or cannot be read any more.
    """
    seconds = BLOCK_S if block_s is None else block_s
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for index in range(ROUNDS if rounds is None else rounds):
        for name in calls if index % 2 == 0 else reversed(list(calls)):
            samples[name].append(_block(calls[name], meter, seconds, clock) / inputs)
    return {name: tuple(values) for name, values in samples.items()}


def _block(call: Callable[[], object], meter: Meter, seconds: float, clock: Callable[[], float]) -> float:
    """Joules of one call."""
    began, before, count = clock(), meter.read(), 0
    while True:
        call()
        count += 1
        lasted = clock() - began
        if lasted < seconds:
            continue
        joules = meter.joules(before, meter.read())
        if joules > 0.0:
            return joules / count
        if lasted > max(LONGEST_S, seconds):
            raise FailureError(
                f"The energy counters did not move in {lasted:.0f} s of work: this machine, a virtual one perhaps, "
                "shows counters without keeping them."
            )


def summed_up(samples: Sequence[float]) -> EnergyUse:
    """The record of one callable's samples."""
    found = bootstrap_median(samples)
    return EnergyUse(median=found.median, low=found.low, high=found.high, samples=tuple(samples))


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))
