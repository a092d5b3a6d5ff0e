"""What another goal would have got from the same search: for each drop of the metric, the fastest and the smallest.

    fastest(d) = argmax latency ratio over the candidates with original metric - metric <= d
    smallest(d) = argmin bytes over the same

Both change at few values of d only, the drops of some candidates: these are the positions of the slider.
"""

from __future__ import annotations

from dataclasses import dataclass

from lissom.measure.search_records import SearchRecord, SearchTrial
from lissom.report.searches import done
from lissom.report.tables import Column, Table
from lissom.report.units import bytes_text, significant

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Answer:
    """The best candidates that lose at most `drop` of the metric."""

    drop: float
    fastest: SearchTrial
    smallest: SearchTrial


def answers(search: SearchRecord) -> tuple[Answer, ...]:
    """From no drop at all to the largest at which anything still changes."""
    found: list[Answer] = []
    tried = [t for t in done(search) if t.size_bytes]
    for drop in sorted({_drop(search, t) for t in tried}):
        allowed = [t for t in tried if _drop(search, t) <= drop + TOLERANCE]
        answer = Answer(
            drop,
            max(allowed, key=lambda t: (t.latency_ratio or 0.0, t.metric or 0.0, -t.number)),
            min(allowed, key=lambda t: (t.size_bytes or 0, -(t.metric or 0.0), t.number)),
        )
        if not found or (answer.fastest, answer.smallest) != (found[-1].fastest, found[-1].smallest):
            found.append(answer)
    return tuple(found)


def _drop(search: SearchRecord, trial: SearchTrial) -> float:
    return max(0.0, search.original_metric - (trial.metric or 0.0))


def sentences(found: tuple[Answer, ...]) -> tuple[str, ...]:
    """One for each position."""
    return tuple(_sentence(one) for one in found)


def _sentence(one: Answer) -> str:
    start = "Without any drop" if one.drop <= TOLERANCE else f"With a drop of {significant(one.drop)}"
    fastest = f"{_faster(one.fastest)}, {bytes_text(one.fastest.size_bytes)}: {_named(one.fastest)}"
    if one.fastest == one.smallest:
        return f"{start}, the fastest is also the smallest: {fastest}."
    smallest = f"{bytes_text(one.smallest.size_bytes)}, {_faster(one.smallest)}: {_named(one.smallest)}"
    return f"{start}, the fastest is {fastest}. The smallest is {smallest}."


def _named(trial: SearchTrial) -> str:
    return f"candidate {trial.number} ({trial.recipe})"


def _faster(trial: SearchTrial) -> str:
    return f"{significant(trial.latency_ratio or 0.0)}x as fast"


def table(found: tuple[Answer, ...]) -> Table:
    columns = ("Drop allowed", "Fastest", "As fast", "Its size", "Smallest", "Size", "As fast")
    numbers = {"Drop allowed", "As fast", "Its size", "Size"}
    return Table(
        "What another goal would have got",
        tuple(Column(name, "number" if name in numbers else "text") for name in columns),
        tuple(
            (
                significant(one.drop),
                _named(one.fastest),
                f"{significant(one.fastest.latency_ratio or 0.0)}x",
                bytes_text(one.fastest.size_bytes),
                _named(one.smallest),
                bytes_text(one.smallest.size_bytes),
                f"{significant(one.smallest.latency_ratio or 0.0)}x",
            )
            for one in found
        ),
        frozenset(),
    )
