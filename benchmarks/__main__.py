"""`python -m benchmarks`: list, run, report, zoo."""

from __future__ import annotations

import argparse
import datetime
import importlib
import pkgutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import evidence, experiments, report, results
from benchmarks.context import Context, MissingDataError
from benchmarks.protocol import machine
from benchmarks.results import Outcome, Result
from lissom.errors import nearest
from lissom.measure.environment import available_cores

DEFAULT_ROUNDS = 40
ZOO = ("ZOO", "P6")
"""Have a command of their own, and are not in --all."""


def known() -> tuple[str, ...]:
    return tuple(sorted(module.name.upper() for module in pkgutil.iter_modules(experiments.__path__)))


def experiment(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.experiments.{name.lower()}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Lissom beside other tools.")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="experiments, what they need, whether there is a result")
    run = verbs.add_parser("run", help="measure, and write results/ID.json and RESULTS.md")
    run.add_argument("ids", nargs="*", metavar="ID")
    run.add_argument("--all", action="store_true", help="every experiment whose data is here")
    zoo = verbs.add_parser("zoo", help="quantize and prune many architectures, export and run them")
    for one in (run, zoo):
        one.add_argument("--data", type=Path, metavar="FOLDER")
        one.add_argument("--weights", type=Path, metavar="FOLDER")
        one.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="blocks of time a contender")
        one.add_argument("--force", action="store_true", help="measure again where there is a result")
    verbs.add_parser("report", help="write RESULTS.md, and the table of lissom recommend, from results/*.json")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    if asked.verb == "list":
        return show_list()
    if asked.verb == "report":
        return write_report()
    if asked.verb == "zoo":
        asked.ids, asked.all = list(ZOO), False
    return run_many(asked)


def show_list() -> int:
    done = {result.id: result for result in results.read_all(results.FOLDER)}
    for name in known():
        module = experiment(name)
        needs = ", ".join(f"--{need}" for need in module.NEEDS) or "nothing"
        state = f"{'met' if done[name].met else 'not met'}, {done[name].date}" if name in done else "no result"
        print(f"{name:6} {module.TITLE} (needs {needs}; {state})")
    return 0


def write_report() -> int:
    found = results.read_all(results.FOLDER)
    results.write_text(report.PAGE, report.render(found))
    evidence.write(found)
    return 0


def run_many(asked: argparse.Namespace) -> int:
    """Exit code 2 for a wrong question, 1 where an experiment that was named could not be run."""
    wrong = [name for name in asked.ids if name.upper() not in known()]
    if wrong or not (asked.ids or asked.all):
        unknown = f"Unknown experiment {wrong[0]!r}. {nearest(wrong[0].upper(), known())}" if wrong else ""
        print(unknown or "Name an ID, or --all.", file=sys.stderr)
        return 2
    named = tuple(name.upper() for name in asked.ids)
    missing = False
    for name in named or (one for one in known() if one not in ZOO):
        path = results.FOLDER / f"{name}.json"
        if path.exists() and not asked.force:
            print(f"{name}: {path.name} is there; --force measures again.")
            continue
        try:
            result = run_one(name, asked)
        except MissingDataError as absent:
            print(f"{name}: skipped. {absent}")
            missing = missing or name in named
            continue
        results.write(result, results.FOLDER)
        print(f"{name}: {'met' if result.met else 'not met'}")
    write_report()
    return int(missing)


def run_one(name: str, asked: argparse.Namespace) -> Result:
    module, started, threads = experiment(name), time.monotonic(), available_cores()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        context = Context(
            scratch=Path(scratch),
            kept=results.FOLDER.parent / "kept" / name,
            threads=threads,
            rounds=asked.rounds,
            data=asked.data,
            weights=asked.weights,
            say=lambda text: print(f"{name} {time.monotonic() - started:6.0f} s  {text}", flush=True),
        )
        outcome: Outcome = module.run(context)
    return Result(
        id=name,
        title=module.TITLE,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        met=results.met(outcome.goal, outcome.value),
        command=command(name, module, asked),
        environment=machine(threads),
        **{field: getattr(outcome, field) for field in Outcome.model_fields},
    )


def command(name: str, module: ModuleType, asked: argparse.Namespace) -> str:
    """What reproduces the result, without anybody's folders in it."""
    verb = "zoo" if name == "ZOO" else f"run {name}"
    folders = "".join(f" --{need} FOLDER" for need in module.NEEDS)
    rounds = f" --rounds {asked.rounds}" if asked.rounds != DEFAULT_ROUNDS else ""
    return f"python -m benchmarks {verb}{folders}{rounds} --force"


if __name__ == "__main__":
    sys.exit(main())
