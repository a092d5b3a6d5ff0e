"""What to do with a model in a scenario: the recommendation, counted on a dry run, and a run that starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from lissom.advise import Recommendation, Scenario, facts_of, load_evidence, recommended, scenario_of, within_reach
from lissom.advise.scenarios import Method
from lissom.errors import LissomError, OutOfReachError, TargetError, UsageError
from lissom.export.catalogue import runtime_of
from lissom.graph.blocks import find_blocks
from lissom.graph.groups import with_groups
from lissom.graph.trace import Trace, trace
from lissom.pipeline.candidates import targets_for
from lissom.pipeline.datafree import DataFree
from lissom.pipeline.searching import Wanted
from lissom.pipeline.transforming import dry_run
from lissom.recipe import Recipe
from lissom.target import Target, load_target
from lissom.task import Task
from lissom.training.synthesis.settings import Synthesis
from lissom.transforms.base import Cost, Transform, has_data
from lissom.transforms.lowrank import Factorize
from lissom.transforms.pruning import Prune, PruneDepth
from lissom.transforms.quantization import Quantize

FEW = 32
"""Examples that are looked at for the count: of blocks taken out, which ones hardly changes it."""

AMOUNTS: tuple[Method, ...] = ("prune", "low-rank", "tables")
"""Methods whose steps say how many times fewer there are to be."""


class Begun(NamedTuple):
    """What a run starts from."""

    targets: Sequence[Target]
    recipe: Recipe | None
    data_free: DataFree | Synthesis | str | None
    sought: Wanted | None


def recommend(model: nn.Module, task: Task, scenario: str, *, target: str | None = None) -> Recommendation:
    """Which methods fit this model, its task and a target, which do not, why, and a recipe to start from.

    Costs after the recipe are counted on a dry run of it without training; nothing is trained or timed. An amount that
    this run cannot reach is replaced by the nearest that it can. The model is not changed. The target need not be
    installed.

    Args:
        scenario: a name of `lissom.advise.SCENARIOS`.
        target: a name from `lissom targets`; by default the scenario's first that is installed, else its first.

    Raises:
        UsageError: no such scenario.
        TargetError: no such target; "auto".
        DataError: the scenario is for tasks without data and this one has some, or no method of it fits.
        ExportError: the model cannot be traced.
    """
    wanted = scenario_of(scenario)
    found = _recommended(trace(model, task.example), task, wanted, _target(wanted, target))
    return _counted(found, model, task)


def begin(
    model: nn.Module,
    task: Task,
    scenario: str | None,
    *,
    target: str,
    recipe: Recipe | None,
    sought: Wanted | None,
    data_free: DataFree | Synthesis | str | None,
) -> Begun:
    """The scenario's targets and recipe, or its methods for the search; without a scenario, what was asked for.

    Raises:
        UsageError: no such scenario, or a recipe is given as well.
        TargetError: the target, or with "auto" every target of the scenario, is not installed.
        DataError: as `recommend`.
    """
    if scenario is None:
        return Begun(targets_for(target), recipe, data_free, sought)
    wanted = scenario_of(scenario)
    if recipe is not None:
        raise UsageError(
            f"scenario={scenario!r} brings a recipe, and one is given: {recipe.title}. Leave one of them out; "
            "`lissom recommend --out FILE` writes the scenario's recipe to be changed."
        )
    targets = _installed(wanted) if target == "auto" else targets_for(target)
    found = _recommended(trace(model, task.example), task, wanted, targets[0])
    if any(step.stage == "train" for step in found.recipe.steps):
        targets = targets[:1]  # trying another would train all of it again
    made_up = found.data_free if data_free is None else data_free
    if sought is not None:
        return Begun(targets, None, made_up, replace(sought, scenario=wanted))
    if set(AMOUNTS) & set(found.methods_used):
        found, _, _ = _tried(found, model, task)
    return Begun(targets, found.recipe, made_up, None)


def _target(scenario: Scenario, name: str | None) -> Target:
    if name == "auto":
        raise TargetError(f"A recommendation is for one runtime. Give --target {scenario.targets[0]}, or leave it out.")
    if name is not None:
        return load_target(name)
    return next((one for one in map(load_target, scenario.targets) if _here(one)), load_target(scenario.targets[0]))


def _installed(scenario: Scenario) -> tuple[Target, ...]:
    """
    Raises:
        TargetError: none of the scenario's targets is installed.
    """
    wanted = [load_target(name) for name in scenario.targets]
    found = tuple(one for one in wanted if _here(one))
    if not found:
        missing = " ".join(f"{one.title}: {runtime_of(one).availability().detail}" for one in wanted)
        raise TargetError(
            f"The scenario {scenario.name!r} is for {' or '.join(scenario.targets)}, and none is available here. "
            f"{missing} Or name another with --target."
        )
    return found


def _here(target: Target) -> bool:
    return runtime_of(target).availability().found


def _recommended(traced: Trace, task: Task, scenario: Scenario, target: Target) -> Recommendation:
    facts = facts_of(with_groups(traced), task, target, blocks=len(find_blocks(traced)))
    return recommended(
        facts, scenario, target, load_evidence(), name=task.name, installed=_here(target)
    )  # fmt: skip


def _counted(found: Recommendation, model: nn.Module, task: Task) -> Recommendation:
    """With amounts that are within reach, and the cost after the recipe, counted on the task's example inputs."""
    found, after, refused = _tried(found, model, task)
    if refused:
        return found.model_copy(update={"counted": (f"Not counted: {refused}",)})
    if "mixed-precision" in found.methods_used:
        return found.model_copy(update={"counted": ("The search for bits has to be run: its bytes are not counted.",)})
    return found.model_copy(update={"after": after, "counted": _left_out(found)})


def _tried(found: Recommendation, model: nn.Module, task: Task) -> tuple[Recommendation, Cost | None, str]:
    """A dry run; a step whose amount is out of reach gets the nearest that is not. The cost after it, or why there is
    none.

    What costs nothing to change is left out: training, corrections, refitting, more than one cut.
    """
    # Ranges do not change costs: the example stands for the data. Channels and blocks are judged on real ones.
    judged = "prune-depth" in found.methods_used or ("prune" in found.methods_used and has_data(task))
    plain = task if judged else replace(task, train=None, calibration=[task.example], feed=lambda batch: batch)
    while True:
        steps, done, after = _counting(found), 0, None
        try:
            for planned in dry_run(model, plain, Recipe([one for _, one in steps]), load_target(found.target)):
                done, after = done + 1, planned.plan.predicted
        except OutOfReachError as wrong:
            other = within_reach(found, steps[done][0], wrong.most)
            if other is None:
                return found, None, str(wrong)
            found = other
        except LissomError as wrong:
            return found, None, str(wrong)
        else:
            return found, after, ""


def _counting(found: Recommendation) -> Sequence[tuple[int, Transform]]:
    """The recipe's steps, as short as their costs allow, each with its place in the recipe file."""
    steps: list[tuple[int, Transform]] = []
    for index, step in enumerate(found.steps):
        ((name, settings),) = step.data.items()
        if name == "Finetune":
            continue
        data = {"Prune": settings["prune"]} if name == "Progressive" else step.data
        (one,) = Recipe.from_data([data]).steps
        if isinstance(one, Prune):
            one = one.model_copy(update={"recovery": "none"})
        if isinstance(one, PruneDepth):
            one = one.model_copy(update={"recovery": "none", "samples": FEW})
        if isinstance(one, Quantize):
            if one.precision == "auto":
                continue
            one = one.model_copy(update={"corrections": (), "calibration": "minmax", "samples": FEW})
        if isinstance(one, Factorize):
            one = one.model_copy(update={"recovery": "none", "data_aware": False})
        steps.append((index, one))
    return steps


def _left_out(found: Recommendation) -> tuple[str, ...]:
    said: list[str] = []
    if "prune" in found.methods_used and "distil" in found.methods_used:
        said.append("Several cuts are counted as one: after training between them, others may be chosen.")
    if "low-rank" in found.methods_used or "tables" in found.methods_used:
        said.append("Layers are split by counting; a run that measures leaves those whole that would not be faster.")
    if "sparsify-2:4" in found.methods_used:
        said.append("Zeros count as numbers do: only kernels that skip them save time.")
    return tuple(said)
