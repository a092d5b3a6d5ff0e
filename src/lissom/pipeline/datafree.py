"""A run without data: what is made up for it, by which method, for which steps, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic
from torch import nn

from lissom.errors import UsageError
from lissom.files import load_tensors, save_tensors
from lissom.measure.synthesis import SynthesisRecord
from lissom.recipe import Recipe
from lissom.runfolder import RunFolder
from lissom.settings import Setting
from lissom.task import Split, Task
from lissom.training.synthesis.examiner import NORMALIZATIONS
from lissom.training.synthesis.settings import LEARNED, Synthesis
from lissom.training.synthesis.synthesize import FEWEST, furnished, make_up
from lissom.transforms.finetuning import Finetune

STAGE = "synthesis"
READ: tuple[Split, ...] = ("train", "calibration")
AUTO = "auto"


class DataFree(Setting):
    """What a run does about data that the task does not have.

    Attributes:
        synthesis: how inputs are made up; None: by inversion where the model has batch normalizations, by a generator
            elsewhere.
        examples: inputs that are made for calibration, validation and steps that train on the task; a `Finetune`
            makes its own while it trains.
    """

    synthesis: Synthesis | None = None
    examples: Annotated[int, pydantic.Field(ge=FEWEST)] = 1024

    @classmethod
    def of(cls, given: DataFree | Synthesis | str) -> DataFree:
        """Also from a text, a method and its fields: `"auto"`, `"inversion,low=0,high=1,examples=512"`.

        Raises:
            UsageError: an unknown method or field, or a value that does not fit.
        """
        if isinstance(given, DataFree):
            return given
        if isinstance(given, Synthesis):
            return cls(synthesis=given)
        method, *rest = (part.strip() for part in str(given).split(","))
        fields: dict[str, Any] = {}
        for part in rest:
            name, sign, value = part.partition("=")
            if not sign:
                raise UsageError(
                    f"Data-free takes a method and NAME=VALUE, got {part!r} in {given!r}. Write inversion,low=0,high=1."
                )
            fields[name.strip()] = value.strip()
        own = {"examples": fields.pop("examples")} if "examples" in fields else {}
        if method == AUTO:
            if fields:
                raise UsageError(
                    f"'auto' chooses method and settings by the model, got {', '.join(fields)} too. Name the method: "
                    f"inversion,{next(iter(fields))}={next(iter(fields.values()))}."
                )
            return cls.parse(own, "data-free")
        synthesis = Synthesis.parse({"method": method, **fields}, "data-free")
        return cls.parse({"synthesis": synthesis, **own}, "data-free")


class Arranged(NamedTuple):
    """What a run without data will do, before anything is made."""

    recipe: Recipe | None
    """Every `Finetune` makes its inputs up."""
    synthesis: Synthesis
    examples: int
    """To be made for the task; 0 where no step reads any."""
    why: tuple[str, ...]
    """In sentences: what is made up, how, and for which steps."""
    splits: tuple[str, ...]
    """That the task will have: those it lacks, if inputs are made for it."""

    @property
    def words(self) -> str:
        """What tells this run from others."""
        return f"{self.synthesis.model_dump_json(exclude_none=True)} x {self.examples}"


def arranged(model: nn.Module, task: Task, recipe: Recipe | None, given: DataFree | Synthesis | str) -> Arranged:
    """
    Raises:
        UsageError: the task has training data; a `Finetune` cannot do without; as `DataFree.of`.
    """
    chosen = DataFree.of(given)
    if task.has("train"):
        raise UsageError(
            "Data are made up where there are none, and the task has training data. Leave data-free out, or give a "
            "Task without train."
        )
    synthesis = chosen.synthesis or usual(model)
    steps = [_untold(step, synthesis) for step in recipe.steps] if recipe else []
    lacking: list[Split] = [split for split in READ if not task.has(split)]
    readers = [step.name for step in steps if step.uses() & set(lacking)]
    told = [step.name for step in steps if isinstance(step, Finetune) and step.synthesis is not None]
    needed = bool(readers) or (recipe is None and "calibration" in lacking)
    why = _why(synthesis, lacking, readers if recipe else ["Quantize"], told, chosen.examples if needed else 0)
    splits = tuple(split for split in (*READ, "validation") if not task.has(split)) if needed else ()
    return Arranged(Recipe(steps) if recipe else None, synthesis, chosen.examples if needed else 0, why, splits)


def usual(model: nn.Module) -> Synthesis:
    """Inversion aims at statistics that batch normalizations keep; where there are none, a generator."""
    kept = any(isinstance(m, NORMALIZATIONS) and m.running_mean is not None for m in model.modules())
    return Synthesis(method="inversion" if kept else "generator")


def _untold(step: Any, synthesis: Synthesis) -> Any:
    """A `Finetune` that says nothing of synthesis, with it."""
    if not isinstance(step, Finetune) or step.synthesis is not None:
        return step
    given = {"synthesis": synthesis, "teacher": step.teacher or "original"}
    return Finetune.parse({**step.model_dump(), **given}, "data-free, Finetune")


def _why(
    synthesis: Synthesis, lacking: list[Split], readers: list[str], told: list[str], examples: int
) -> tuple[str, ...]:
    no = " and no ".join({"train": "training", "calibration": "calibration"}.get(one, one) for one in lacking)
    said: list[str] = []
    if examples:
        said.append(
            f"The task has no {no} data: {examples:,} inputs are made up by {synthesis.method} from the original model "
            f"and labelled by it, for {', '.join(dict.fromkeys(readers))}."
        )
    if told:
        said.append(
            f"{', '.join(dict.fromkeys(told))} makes its inputs up by {synthesis.method} while it trains, and learns "
            "the original model's answers to them."
        )
    return tuple(said)


def expected_seconds(plan: Arranged | None) -> float:
    """On a small convolutional network."""
    if plan is None or not plan.examples:
        return 0.0
    batches = plan.examples / plan.synthesis.batch_size
    learned = plan.synthesis.steps if plan.synthesis.method in LEARNED else 0
    return 0.05 * (batches * max(1, int(plan.synthesis.chosen("updates"))) + learned)


def supplied(
    model: nn.Module,
    task: Task,
    plan: Arranged | None,
    *,
    seed: int,
    folder: RunFolder | None = None,
    tick: Callable[[float], None] = lambda _: None,
) -> tuple[Task, SynthesisRecord | None]:
    """The task with what the plan makes up; the same task where nothing is. In a folder it is made once.

    Raises:
        DataError: inputs that cannot be made, or a synthesis that diverged.
    """
    if plan is None or not plan.examples:
        return task, None
    made: list[Any] = []

    def compute() -> SynthesisRecord:
        found = make_up(model, task, plan.synthesis, examples=plan.examples, seed=seed, tick=tick)
        made.extend(found.values)
        if folder:
            path = _place(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, {str(index): one.cpu() for index, one in enumerate(made)})
        return found.record

    def holds(_: SynthesisRecord) -> bool:
        if not _place(folder).is_file():
            return False
        held = load_tensors(_place(folder))
        made.extend(held[str(index)] for index in range(len(held)))
        return True

    record = folder.stage(STAGE, SynthesisRecord, compute, holds=holds) if folder else compute()
    return furnished(model, task, plan.synthesis, made), record


def _place(folder: RunFolder | None) -> Path:
    assert folder is not None
    return folder.state / f"{STAGE}.safetensors"


def notes_of(record: SynthesisRecord | None) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    if record is None:
        return ()
    splits = " and ".join([", ".join(record.splits[:-1]), record.splits[-1]] if record.splits[1:] else record.splits)
    said = [
        f"No real data: {record.examples:,} inputs were made up by {record.settings['method']} for {splits}. What is "
        "measured on them says how far the models agree, not how good they are."
    ]
    if record.signs.collapsed:
        said.append(f"The made up inputs have collapsed ({record.signs.collapsed}): do not trust figures made on them.")
    return tuple(said)
