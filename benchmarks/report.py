"""`RESULTS.md`: a pure function of the result files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.results import Beside, Figure, Result, Run, Wish
from lissom.measure.latency import bootstrap_median

PAGE = Path(__file__).parent / "RESULTS.md"
HEAD = """# Results

Made by `python -m benchmarks report` from `results/*.json`; do not edit. Every ratio is of contenders timed side by
side in one process, interleaved, with the same runtime settings; brackets hold 95 % bootstrap intervals over rounds.
"Reference" is another tool or a publication, "control" the same without the method.
"""
COLUMNS = ("id", "what", "goal", "reached", "met", "reference", "control", "command", "date", "machine")


def render(results: Sequence[Result]) -> str:
    parts = [HEAD]
    if results:
        parts.append(table(COLUMNS, (row(result) for result in results)))
    parts += [section(result) for result in results]
    return "\n".join(parts)


def row(result: Result) -> tuple[str, ...]:
    """One result: each wish beside what was reached."""
    machine = result.environment
    wished = [f"{w.figure}: {show(result.value[w.figure])}" for w in result.goal.wishes if w.figure in result.value]
    return (
        f"[{result.id}](#{result.id.lower()})",
        result.title,
        result.goal.text,
        lines(wished or [f"{name}: {show(figure)}" for name, figure in result.value.items()]),
        "yes" if result.met else "no",
        lines(map(beside, result.reference)),
        lines(map(beside, result.control)),
        f"`{result.command}`",
        result.date,
        f"{machine.cpu}, {machine.threads} threads",
    )


def section(result: Result) -> str:
    figures = table(
        ("figure", "reached", "wanted", "note"),
        ((name, show(f), wanted(result.goal.wishes, name), f.note) for name, f in result.value.items()),
    )
    names = tuple(dict.fromkeys(name for run in result.runs for name in run.figures))
    timed = any(run.samples_ms for run in result.runs)
    runs = table(
        ("run", *(("ms",) if timed else ()), *names),
        (run_row(run, names, timed=timed) for run in result.runs),
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.environment.versions.items()))
    return f"\n## {result.id}\n\n{result.title}. Goal: {result.goal.text}.\n\n{figures}\n{runs}\n{versions}.\n"


def run_row(run: Run, names: Sequence[str], *, timed: bool) -> tuple[str, ...]:
    latency = show(Figure.of(bootstrap_median(run.samples_ms), "")) if run.samples_ms else ""
    cells = (number(run.figures[name]) if name in run.figures else "" for name in names)
    return (run.name, *((latency,) if timed else ()), *cells)


def show(figure: Figure) -> str:
    unit = f" {figure.unit}" if figure.unit else ""
    if figure.low is None or figure.high is None:
        return f"{number(figure.value)}{unit}"
    return f"{number(figure.value)}{unit} [{number(figure.low)}, {number(figure.high)}]"


def beside(one: Beside) -> str:
    unit = f" {one.unit}" if one.unit else ""
    return f"{one.what}: {number(one.value)}{unit} ({one.source})"


def wanted(wishes: Iterable[Wish], name: str) -> str:
    found = next((wish for wish in wishes if wish.figure == name), None)
    if found is None:
        return ""
    bounds = ((">=", found.at_least), ("<=", found.at_most))
    return " and ".join(f"{sign} {number(bound)}" for sign, bound in bounds if bound is not None)


def number(value: float | str) -> str:
    """Four significant digits; whole numbers with thousands separated."""
    if isinstance(value, str):
        return value
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def lines(items: Iterable[str]) -> str:
    return "<br>".join(items)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in one) + " |\n" for one in body)
