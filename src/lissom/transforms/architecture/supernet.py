"""`Supernet`: a smaller network found inside the user's own, all of whose subnets are trained at once.

    space     `axes`: widths of channel groups and heads, blocks of residual chains, sides of kernels
    training  `sandwich`, in the one loop (`lissom.training.finetune`)
    search    `candidates`: metric on validation data after recalibrated normalizations, against the cost
    result    `extracting`: the chosen subnet as a plain module, with the supernet's weights

The plan of a dry run holds the largest uniform subnet within the wish; what was found replaces it. With `bits`, a
candidate is judged as `Quantize` rounds it (`rounding`), and the plan tells that step the bits of every layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pydantic
import torch
from torch import nn
from torch.fx import GraphModule

from lissom.errors import DataError, GoalError, RecipeError, UsageError
from lissom.functional.reward import SOFT
from lissom.graph.blocks import find_blocks
from lissom.graph.channels import Channels, find_channels
from lissom.graph.graph import Graph
from lissom.graph.narrowed import narrowed
from lissom.graph.trace import Trace
from lissom.measure.quality import evaluate
from lissom.metrics import as_metric
from lissom.settings import only_wish
from lissom.target import Target
from lissom.task import Batch, Split, Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training
from lissom.transforms.architecture.axes import Axis, order_of
from lissom.transforms.architecture.candidates import Aim, Candidate, Searcher, front, searched
from lissom.transforms.architecture.deriving import (
    Bounds,
    Choose,
    Derived,
    actions_of,
    axes_of,
    derived,
    replayed,
    rules_of,
    space_of,
    subnet_of,
)
from lissom.transforms.architecture.extracting import extracted
from lissom.transforms.architecture.programs import Programs, Trained, tensors_of
from lissom.transforms.architecture.resolutions import scales_of
from lissom.transforms.architecture.rounding import rounded
from lissom.transforms.architecture.sandwich import Sandwich
from lissom.transforms.architecture.space import Orders, Space, Subnet
from lissom.transforms.base import ALONE, Action, Plan, SetBits, Skip, Stage, Transform, Work, calibration_split
from lissom.transforms.pruning import Cut
from lissom.transforms.pruning.scores import Criterion, Reading, score
from lissom.transforms.pruning.surgery import EXPORTED
from lissom.transforms.quantization.precision import FLOAT
from lissom.transforms.quantization.simulating import quick

WISHES = ("macs_ratio", "parameters_ratio", "latency_ratio", "size_ratio")
SEARCHING = 0.25
"""Share of the work that the search is expected to be."""
STEPS = 64
"""Uniform subnets that a dry run looks at."""
Times = Annotated[float, pydantic.Field(ge=1.0)]
Share = Annotated[float, pydantic.Field(gt=0.0, le=1.0)]
Side = Annotated[float, pydantic.Field(ge=0.5, lt=1.0)]
"""Below a half, bilinear interpolation would pass over pixels."""


@dataclass(frozen=True, eq=False)
class Study:
    """The subnets of a model, and the layers that stay whole in all of them."""

    space: Space
    skipped: tuple[Skip, ...]


class Supernet(Transform):
    """Architecture search inside the user's own network.

    How much smaller is given by one of `macs_ratio`, `parameters_ratio`, `size_ratio` (before / after; the last in
    bytes of weights) and `latency_ratio`, measured on the target for every candidate by `lissom.compress`. `training`
    says how the supernet is trained, `widths`, `depth` and `kernels` what may be left out, `bits` what weights of a
    block may be rounded to, `resolutions` to which shares of its height and width the image may shrink behind the
    input; `search` proposes `candidates` subnets.
    """

    stage: ClassVar[Stage] = "structure"
    trains: ClassVar[bool] = True
    actions: ClassVar[dict[str, type[Action]]] = {"choose": Choose, "cut": Cut, "set-bits": SetBits}

    macs_ratio: Times | None = None
    parameters_ratio: Times | None = None
    latency_ratio: Times | None = None
    # Left out of JSON where they are not set: recipes without them keep their ids.
    size_ratio: Annotated[Times | None, pydantic.Field(exclude_if=lambda value: value is None)] = None
    widths: Annotated[tuple[Share, ...], pydantic.Field(min_length=1)] = (0.75, 0.5, 0.25)
    depth: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.5
    kernels: bool = True
    bits: Annotated[tuple[Literal[8, 4], ...], pydantic.Field(exclude_if=lambda value: value == ())] = ()
    resolutions: Annotated[tuple[Side, ...], pydantic.Field(exclude_if=lambda value: value == ())] = ()
    exclude: tuple[str, ...] = ()
    criterion: Criterion = "magnitude"
    round_to: Annotated[int, pydantic.Field(ge=1)] | None = None
    training: Training = Training(epochs=30)
    random: Annotated[int, pydantic.Field(ge=0)] = 2
    distill: bool = True
    search: Searcher = "reward"
    candidates: Annotated[int, pydantic.Field(ge=2)] = 64
    exponent: Annotated[float, pydantic.Field(le=0.0)] = SOFT
    soft: bool = True
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    judged: Annotated[int, pydantic.Field(ge=1)] = 1000

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Supernet:
        only_wish(self, WISHES, "Write Supernet(macs_ratio=2) for half the multiplications.")
        given = [n for n in ("teacher", "regularizer", "synthesis") if getattr(self.training, n) is not None]
        if given:
            raise ValueError(
                f"training.{given[0]} says what a step minimizes, and the sandwich of subnets does. Leave it out; a "
                "Finetune after the Supernet can have it"
            )
        if self.bits and self.size_ratio is None and self.latency_ratio is None:
            raise ValueError(
                f"bits={list(self.bits)} save bytes and time, and {self._wished} counts neither. Wish for size_ratio "
                "or latency_ratio, or leave bits out"
            )
        if self.resolutions and self._wished in ("parameters_ratio", "size_ratio"):
            raise ValueError(
                f"resolutions={list(self.resolutions)} save multiplications and time, and {self._wished} counts "
                "neither. Wish for macs_ratio or latency_ratio, or leave resolutions out"
            )
        return self

    @property
    def wish(self) -> float:
        return float(getattr(self, self._wished))

    @property
    def _wished(self) -> str:
        return next(name for name in WISHES if getattr(self, name) is not None)

    @property
    def expected_seconds(self) -> float:
        return 30.0 * self.training.epochs * (2 + self.random) / (1 - SEARCHING)

    def needs(self) -> frozenset[Split]:
        return frozenset({"train", "validation"})

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Study:
        """
        Raises:
            DataError: there is no metric, or the batch size of the model is fixed.
            RecipeError: an `exclude` pattern matches nothing, nothing can be left out, no smaller image goes through,
                or the model is an exported graph.
        """
        if isinstance(model, GraphModule):
            raise RecipeError(
                "Supernet trains the model's own code, and an exported graph has no training mode. Put Supernet first "
                "in the recipe, or leave out the step before it that had to export the model."
            )
        if task.metric is None:
            raise DataError("Supernet chooses by the metric on validation data. Give Task(metric=...).")
        if not trace.graph.dynamic_batch:
            raise DataError(
                "Supernet needs a model that takes any batch size, and the first axis of this one's inputs is fixed. "
                "Let forward() take its sizes from x.shape[0]."
            )
        if task.loss is None:
            raise DataError("Supernet trains, and the task has no loss. Give Task(loss=...).")
        found = self._derived(model, trace, task, target)
        return Study(space_of(trace, found, self._orders(trace, found.channels, found.axes, task)), found.skipped)

    def _derived(self, model: nn.Module, trace: Trace, task: Task, target: Target) -> Derived:
        bounds = Bounds(self.widths, self.depth, self.kernels, self.exclude, self.round_to, self.bits, self.resolutions)
        return derived(model, trace, task.example, target, bounds)

    def _orders(self, trace: Trace, channels: Channels, axes: Sequence[Axis], task: Task) -> Orders:
        names = {name for axis in axes if axis.kind == "width" for name in axis.members}
        groups = [group for group in channels.groups if group.name in names]
        reading = Reading(self.criterion, "mean", "mean")
        batches = lambda: task.batches(calibration_split(self.name, task), limit=self.samples)  # noqa: E731
        scores = score(trace, channels, groups, reading, batches, task.loss)
        return {name: order_of(found) for name, found in scores.items()}

    def plan(self, graph: Graph, study: Study, target: Target) -> Plan:
        """
        Raises:
            GoalError: no subnet is that small.
        """
        return self._planned(study, self._first(study.space))

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """
        Raises:
            GoalError: no candidate meets the wish; names the nearest.
            UsageError: `latency_ratio`, where nothing is measured; `bits`, where no target is known.
            VerificationError: a subnet is not what the supernet computes.
        """
        if self.latency_ratio is not None and work.faster is None:
            raise UsageError(
                "Supernet(latency_ratio=...) measures candidates on the target. Use lissom.compress, or "
                "Supernet(macs_ratio=...)."
            )
        if self.bits and work.target is None:
            raise UsageError(
                "Supernet(bits=...) rounds candidates as the target does. Use Recipe.run or lissom.compress, which say "
                "which."
            )
        channels, blocks = find_channels(trace), find_blocks(trace)
        axes = axes_of(plan, trace, channels)
        orders, scales = self._orders(trace, channels, axes, task), scales_of(model, trace, task.example, axes)
        study = Study(Space(trace, channels, narrowed(trace, channels), blocks, axes, orders, scales), plan.skipped)
        programs = Programs(study.space)
        training = self.training
        if training.channels_last == "auto":
            training = training.model_copy(update={"channels_last": False})
        trained = finetune(
            model,
            task,
            training,
            folder=work.folder / "supernet" if work.folder else None,
            tick=lambda share: work.tick(share * (1 - SEARCHING)),
            seed=work.seed,
            objective=Sandwich(programs, self.random, self.distill),
        )
        work.note("history", trained.history.model_dump(mode="json"))
        batches = tuple(task.batches(calibration_split(self.name, task), limit=self.samples))
        supernet = Trained(programs, tensors_of(trained.model), batches)
        aim = Aim(self.search, 1.0 / self.wish, self.exponent, self.soft, work.seed)
        found = searched(
            study.space,
            aim,
            self.candidates,
            self._measure(trained.model, supernet, task, work),
            folder=work.folder,
            of=_identity(self, supernet),
            tick=lambda share: work.tick(1 - SEARCHING * (1 - share)),
        )
        chosen = aim.best(found)
        if chosen is None:
            nearest = min(found, key=lambda one: one.cost)
            raise GoalError(self._unreachable(nearest.cost, f"the nearest of {len(found)} candidates"))
        work.note("architecture", self._record(study.space, aim, found, chosen, as_metric(task.metric).name))  # pyright: ignore[reportArgumentType]  there is one
        work.settle(self._planned(study, chosen.subnet))
        made = extracted(trained.model, programs, chosen.subnet, task.example, supernet.statistics(chosen.subnet))
        if not made.own:
            work.note(EXPORTED, made.reason)
        return made.module

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return extracted(model, Programs(replayed(plan, trace)), subnet_of(plan), task.example).module

    def _measure(self, model: nn.Module, supernet: Trained, task: Task, work: Work) -> Callable[[Subnet], Candidate]:
        space, metric = supernet.programs.space, as_metric(task.metric)  # pyright: ignore[reportArgumentType]
        whole = space.cost(space.largest)

        def measure(subnet: Subnet) -> Candidate:
            statistics, rules = supernet.statistics(subnet), rules_of(space, subnet)
            made: nn.Module | None = None

            def plain() -> nn.Module:
                return extracted(model, supernet.programs, subnet, task.example, statistics).module

            predict: Callable[[Batch], object] = lambda batch: supernet.run(subnet, batch, statistics)  # noqa: E731
            if set(rules.values()) - {FLOAT} and work.target is not None:
                made = rounded(plain(), rules, self.samples, task, work.target)
                predict = _predictor(quick(made))
            value = evaluate(
                predict,
                task.batches("validation", limit=self.judged),
                metric,
                split="validation",
            ).value
            own = space.cost(subnet)
            if subnet == space.largest:
                cost = 1.0  # the model itself: a ratio that was timed would be noise
            elif self.latency_ratio is not None and work.faster is not None:
                cost = 1.0 / work.faster(plain() if made is None else made)
            elif self.size_ratio is not None:
                cost = own.bytes / whole.bytes
            elif self.parameters_ratio is not None:
                cost = own.parameters / whole.parameters
            else:
                cost = own.macs / whole.macs
            return Candidate(subnet=subnet, metric=value, cost=cost, macs=own.macs, parameters=own.parameters)

        return measure

    def _first(self, space: Space) -> Subnet:
        """The largest uniform subnet within the wish; the network itself where the wish is for a latency."""
        if self.latency_ratio is not None:
            return space.largest
        whole = self._counted(space, space.largest)
        share = 1.0
        for step in range(STEPS + 1):
            subnet = space.uniform(step / STEPS)
            share = self._counted(space, subnet) / whole
            if share * self.wish <= 1.0:
                return subnet
        raise GoalError(self._unreachable(share, "the smallest subnet"))

    def _counted(self, space: Space, subnet: Subnet) -> int:
        cost = space.cost(subnet)
        if self.size_ratio is not None:
            return cost.bytes
        return cost.macs if self.parameters_ratio is None else cost.parameters

    def _unreachable(self, share: float, who: str) -> str:
        more = " Weights of fewer bits, bits=[8, 4], go further." if self._rounds_none else ""
        return (
            f"Supernet({self._wished}={self.wish:g}) is out of reach: {who} comes to {1 / share:.3g}. Wish for "
            f"less, or allow smaller subnets: widths={list(self.widths)} and depth={self.depth:g} bound them.{more}"
        )

    @property
    def _rounds_none(self) -> bool:
        """Whether bits would count and are not asked for."""
        return not self.bits and (self.size_ratio is not None or self.latency_ratio is not None)

    def _record(
        self, space: Space, aim: Aim, found: Sequence[Candidate], chosen: Candidate, metric: str
    ) -> pydantic.JsonValue:
        """What the report shows of the search."""
        return {
            "wish": self._wished,
            "metric": metric,
            "subnets": str(space.size),
            "searcher": aim.searcher,
            "goal": aim.goal,
            "candidates": [{**one.model_dump(mode="json"), "reward": aim.reward(one)} for one in found],
            "front": list(front(found)),
            "chosen": found.index(chosen),
        }

    def _planned(self, study: Study, subnet: Subnet) -> Plan:
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions_of(study.space, subnet)),
            skipped=study.skipped,
            predicted=study.space.cost(subnet),
        )


def _predictor(module: nn.Module) -> Callable[[Batch], object]:
    def predict(batch: Batch) -> object:
        with torch.no_grad():
            return module(*batch.args, **batch.kwargs)

    return predict


def _identity(settings: Supernet, supernet: Trained) -> str:
    """Sixteen hexadecimal digits of what the figures of a candidate depend on."""
    hashed = hashlib.sha256(f"{settings.model_dump_json()} {supernet.programs.space.axes}".encode())
    for name, tensor in supernet.tensors.items():
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]
