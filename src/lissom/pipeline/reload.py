"""Runs read back: the compressed model on a fresh original, the result, the artifacts measured again."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic
from torch import nn

from lissom.errors import LissomError, RecipeError, RunFolderError, UsageError, first_line
from lissom.export.base import Artifact, require
from lissom.export.catalogue import runtime_of
from lissom.files import load_tensors
from lissom.graph.trace import trace
from lissom.inputs import load_example
from lissom.measure.latency import interleave, paired_ratio, summarise
from lissom.measure.records import Interval, Latency, RunRecord
from lissom.pipeline.candidates import caller
from lissom.reading import json_of, text_of
from lissom.recipe import Recipe
from lissom.runfolder import check_file, fingerprint, read_manifest, verify
from lissom.settings import explain
from lissom.target import load_target
from lissom.task import Batch, Task, repeated
from lissom.transforms.base import Plan

RESULT, PLANS, WEIGHTS = "result.json", "plan.json", "model.safetensors"


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """The compressed model of a run: its plans replayed on `model`, a fresh original, and its weights loaded.

    Raises:
        RunFolderError: the folder is unfinished, truncated or altered, or was made from another model.
    """
    place = Path(folder)
    manifest = verify(place)
    found = fingerprint(model)
    if found != manifest.source.model:
        raise RunFolderError(
            f"The run in {place} was made from another model: its fingerprint is {manifest.source.model}, this one's "
            f"is {found}. Give lissom.load the original with the same class and weights that were compressed."
        )
    try:
        recipe = Recipe.read(place / "recipe.yaml")
    except RecipeError as wrong:
        raise RunFolderError(f"{place / 'recipe.yaml'} is damaged: {wrong} Make the run again.") from wrong
    plans = read_plans(place, recipe)
    example, weights = load_example(place / "example.safetensors"), load_tensors(place / WEIGHTS)
    with _believed(f"The plans in {place} cannot be carried out on this model"):
        after = replay(model, example, recipe, plans)
        after.load_state_dict(weights, strict=True)
    return after


@contextlib.contextmanager
def _believed(what: str) -> Generator[None]:
    """Files that are whole and do not fit each other fail anywhere below, with errors of any class."""
    try:
        yield
    except LissomError:
        raise
    except Exception as wrong:
        raise RunFolderError(
            f"{what}: {type(wrong).__name__}: {first_line(wrong)}. Copy the folder again or make the run again."
        ) from wrong


def replay(model: nn.Module, example: Batch, recipe: Recipe, plans: Sequence[Plan]) -> nn.Module:
    """Plans carried out again, without data."""
    task = Task(example_inputs=example.args, example_kwargs=example.kwargs)
    for one, plan in zip(recipe.steps, plans, strict=True):
        model = one.restructure(model, plan, trace(model, example), task)
    return model


def read_plans(folder: Path, recipe: Recipe) -> tuple[Plan, ...]:
    """
    Raises:
        RunFolderError: `plan.json` is damaged or of another recipe.
    """
    path = folder / PLANS
    try:
        data = json_of(text_of(path))
        plans = recipe.read_plans(data)
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise RunFolderError(f"{path} is damaged: {first_line(wrong)}. Make the run again.") from wrong
    if len(plans) != len(recipe.steps):
        raise RunFolderError(f"{path} holds {len(plans)} plans for {len(recipe.steps)} steps. Make the run again.")
    return plans


def read_result(folder: str | Path) -> RunRecord:
    """`result.json` of a finished run.

    Raises:
        RunFolderError: the run is not finished, or the file is missing, truncated or altered.
    """
    manifest = read_manifest(Path(folder))
    if manifest.status != "finished":
        raise RunFolderError(f"The run in {folder} is not finished. The command that started it continues it.")
    check_file(Path(folder), manifest, RESULT)
    path = Path(folder) / RESULT
    try:
        data = json_of(text_of(path))
        if isinstance(data, dict) and data.get("format") != 1:
            raise RunFolderError(
                f"{path} is of format {data.get('format')!r}, this Lissom reads format 1. Use the Lissom that made it."
            )
        return RunRecord.model_validate(data)
    except pydantic.ValidationError as wrong:
        raise RunFolderError(
            f"{explain(wrong, str(path), RunRecord)} The file is damaged; make the run again."
        ) from wrong
    except (OSError, ValueError) as wrong:
        raise RunFolderError(f"{path} cannot be read: {first_line(wrong)}. Make the run again.") from wrong


@dataclass(frozen=True)
class Remeasured:
    """One artifact of a fresh interleaved measurement; `faster` is original / this, None for the original."""

    run: str
    model: str
    target: str
    batch_size: int
    latency_ms: Latency
    size_bytes: int
    faster: Interval | None


def remeasure(
    folders: Sequence[str | Path],
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    rounds: int = 40,
) -> list[Remeasured]:
    """Original and compressed artifacts of one or more runs, all interleaved in one run of this process.

    Raises:
        RunFolderError: a folder is unfinished or altered.
        TargetError: a runtime is not installed here.
        UsageError: no folder.
    """
    from lissom.measure.environment import available_cores

    if not folders:
        raise UsageError("measure needs at least one run folder.")
    calls = {}
    rows: list[tuple[str, str, Artifact, int]] = []
    for folder in map(Path, folders):
        manifest = verify(folder)
        assert manifest.target  # verify looked
        assert manifest.artifact
        assert manifest.original
        target = load_target(manifest.target)
        runtime = runtime_of(target)
        require(runtime.availability(), target.title)
        example = load_example(folder / "example.safetensors")
        example = repeated(example, batch_size or read_result(folder).before.batch_size)
        for name, artifact in (("original", manifest.original), ("compressed", manifest.artifact)):
            with _believed(f"{target.title} cannot load the {name} model in {folder}"):
                runner = runtime.load(artifact, folder, threads or available_cores())
            calls[f"{folder}:{name}"] = caller(runner, artifact, example)
            rows.append((str(folder), name, artifact, example.size))
    samples = interleave(calls, rounds=rounds)
    return [
        Remeasured(
            run=folder,
            model=name,
            target=artifact.target,
            batch_size=size,
            latency_ms=summarise(samples[f"{folder}:{name}"]),
            size_bytes=artifact.size_bytes,
            faster=None
            if name == "original"
            else paired_ratio(samples[f"{folder}:original"], samples[f"{folder}:{name}"]),
        )
        for folder, name, artifact, size in rows
    ]
