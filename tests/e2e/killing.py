"""The command line in processes that can be killed, each a fork of one that has everything imported already."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna

HERE = Path(__file__).parent
PRELOADED = ["lissom.cli", "lissom.pipeline", "lissom.search", "lissom.terminal", "optuna", "onnxruntime", "torch"]


def context() -> ForkServerContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


def lissom(arguments: Sequence[str], said: str) -> None:
    """The command, as the shell would start it; what it says goes to the file `said`."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from lissom import cli

    sys.argv = ["lissom", *arguments]
    cli.main()


def begin(made: ForkServerContext, folder: Path, storage: Path, *more: str) -> BaseProcess:
    """A search of the lawful project for a goal out of reach, in a run folder, with a storage that outlives it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        "compress", str(HERE / "lawful_project.py"), "--target", "onnxruntime", "--out", str(folder), "--threads", "1",
        "--search", "random", "--drop", "90%", "--macs", "9x", "--size", "6x",
        "--storage", f"sqlite:///{storage}", "--set", f"log={storage.with_suffix('.log')}", *more,
    ]  # fmt: skip
    process = made.Process(target=lissom, args=(arguments, str(storage.with_suffix(".said"))), daemon=False)
    process.start()
    return process


def told(folder: Path) -> dict[str, object]:
    """What a finished run found, less what depends on the clock and on who was first."""
    record = json.loads((folder / "result.json").read_text())
    kept = ("recipe", "by", "metric", "latency_ratio", "size_bytes", "macs", "on_front", "chosen", "failure")
    trials = sorted(tuple(trial[name] for name in kept) for trial in record["search"]["trials"])
    return {"trials": trials, "hypervolume": record["search"]["hypervolume"], "recipe": record["recipe"]}


def closed(storage: Path) -> list[str]:
    """Recipes of the trials that came to an end, as the database has them."""
    held = optuna.load_study(study_name="bars", storage=f"sqlite:///{storage}").get_trials(deepcopy=False)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [json.loads(trial.user_attrs["lissom"])["recipe"] for trial in held if trial.state in ended]


def evaluated(storage: Path) -> list[str]:
    """Recipes as they were evaluated, whatever became of them."""
    log = storage.with_suffix(".log")
    return [line.split()[1] for line in log.read_text().splitlines()] if log.exists() else []
