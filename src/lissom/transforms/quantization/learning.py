"""Quantization-aware training: the rounded graph is trained, its step sizes with its weights.

Where the plan rounds a value, the graph in training rounds it by `functional.stepsize`, to the same grid:

    x̂ = (clamp(round(x / s) + z, low, high) - z) s

One s is learned for each rounded activation and each output channel of a weight, from the calibrated ones on. A free
zero point is learned by way of the offset beta = (low - z) s; where a target wants symmetric grids, or a value is never
negative, z stays. Biases are learned in float32 and put on the accumulator's grid afterwards, as without training.
Afterwards the learned numbers stand in the plan and the weights on their steps: the graph is that of the same
quantization without training.

Behind convolutions stand batch normalizations while it trains (`renormalizing`). Those of the graph itself, which could
not be folded, keep their statistics.

Method: Esser et al. 2020, "Learned Step Size Quantization" (arXiv:1902.08153). Deviations: steps begin where
calibration put them; no layer has more bits for being first or last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

import pydantic
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.functional.affine import DEAD_CHANNEL, SMALLEST_SCALE, WEIGHT_LIMIT, Affine, middle_of
from lissom.functional.overflow import LARGEST_INPUT, safe_scales
from lissom.functional.stepsize import fake_quantize_learned, gain_of
from lissom.functional.weightgrid import Bits, low_bit_grid, weight_limit
from lissom.graph.graph import Graph
from lissom.graph.lockstep import attribute
from lissom.graph.trace import Trace
from lissom.measure.records import DistillationRecord
from lissom.task import Split, Task
from lissom.training.agreement import compared
from lissom.training.epochs import steps_of
from lissom.training.finetune import finetune
from lissom.training.settings import TeacherName, Training, named_teacher
from lissom.transforms.base import Action, Plan, Work, calibration_split, clone
from lissom.transforms.quantization import rewrite
from lissom.transforms.quantization.actions import Equalize, RoundActivation, RoundBias, StoreWeight
from lissom.transforms.quantization.corrections import equalized
from lissom.transforms.quantization.placement import Reader, root_of
from lissom.transforms.quantization.renormalizing import (
    EXAMPLES,
    Moments,
    Renormalization,
    fold_,
    insert_,
    moments,
    renormalizable,
)
from lissom.transforms.quantization.writing import inputs_rounded, stored

RATES = {"sgd": 1e-3, "adamw": 1e-4}
"""Learning rates of a training that was not told one: a tenth and a third of those in float. A step size that jumps
moves every weight that it stands for."""
SECONDS_PER_EPOCH = 60.0
"""Of tens of thousands of small images, on a few cores."""
SMALLEST = 2.0**-5
"""Of its first value: what a scale does not fall below."""


class QAT(Training):
    """How the rounded model is trained: `lissom.training.settings.Training`, and the float model teaches it.

    Attributes:
        learning_rate: the largest, after the warm-up; None: 0.001 for sgd, 0.0001 for adamw.
        renormalize: a batch normalization behind every convolution while it trains.
        freeze: share of the steps, the last ones, in which its statistics stand still.
    """

    teacher: Annotated[
        TeacherName | tuple[TeacherName, ...] | None,
        pydantic.BeforeValidator(named_teacher),
    ] = "original"
    renormalize: bool = True
    freeze: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.2

    @pydantic.model_validator(mode="after")
    def _is_one_training_on_data(self) -> Self:
        if self.regularizer is not None:
            raise ValueError(
                f"regularizer={self.regularizer!r} prepares a Prune that follows, and none follows Quantize. Leave it "
                "out, or put it into a Finetune before Prune"
            )
        if self.rounds is not None:
            raise ValueError(
                f"rounds={self.rounds} teaches the next generation with rounded outputs, and training with rounding "
                "learns from float ones. Leave it out, or put it into a Finetune before Quantize"
            )
        if self.synthesis is not None:
            raise ValueError(
                "synthesis makes inputs up while it trains, and training with rounding needs them before. Make them "
                "with lissom.synthesize, and give them as Task(train=...)"
            )
        return self

    @property
    def rate(self) -> float:
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def needs(self) -> set[Split]:
        return {"train"} if self.patience is None else {"train", "validation"}


def seconds(training: QAT | None) -> float:
    """What training is expected to take, as a share of a progress bar."""
    return SECONDS_PER_EPOCH * training.epochs if training else 0.0


def learned(trace: Trace, plan: Plan, task: Task, settings: QAT, original: nn.Module, work: Work) -> GraphModule:
    """The graph of `plan`, trained. `work` hears the plan with the numbers that were learned, and the history.

    Raises:
        DataError: no training data or loss, a loss that is not finite, a teacher whose outputs cannot be compared.
        FailureError: a weight holds NaN or infinite values.
    """
    live = round((1 - settings.freeze) * settings.epochs * steps_of(task, work.seed))
    seen = _moments(trace, plan, task) if settings.renormalize else {}
    begun = rehearsal(trace, plan, seen, live).eval()
    made = finetune(
        begun, task, settings, folder=work.folder, tick=work.tick, seed=work.seed, original=original,
        answers=work.answers,
    )  # fmt: skip
    student = cast(Rehearsal, made.model)
    work.note("history", made.history.model_dump(mode="json"))
    if made.history.lesson is not None:
        record = DistillationRecord(
            **made.history.lesson.model_dump(),
            losses=made.history.epochs[made.history.chosen].parts,
            comparison=compared(student, task, settings, original),
        )
        work.note("distillation", record.model_dump(mode="json"))
    final = settled(plan, trace.graph, student)
    work.settle(final)
    return written(trace, final, student)


class LearnedRounding(nn.Module):
    """An activation on the grid `numbers`, whose scale is a parameter `(1,)`, and the offset too where it is `free`."""

    def __init__(self, numbers: Affine, *, free: bool) -> None:
        super().__init__()
        self.first = numbers
        self.scale = nn.Parameter(torch.tensor([numbers.scale]))
        self.offset = nn.Parameter(torch.tensor([numbers.low])) if free else None
        self.register_buffer("zero", torch.tensor([float(numbers.zero_point)]))

    def steps(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, not rounded yet."""
        scale = _bounded(self.scale, self.first.scale * SMALLEST)
        if self.offset is None:
            return scale, cast(Tensor, self.zero)
        low, high = self.first.limits
        return scale, _bounded(low - self.offset / scale, low, high)

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self.steps()
        low, high = self.first.limits
        gain = gain_of(x.numel() // max(x.shape[0], 1) if x.ndim else 1, high - self.first.zero_point)
        return fake_quantize_learned(x.float(), scale, zero, low, high, gain)

    @torch.no_grad()
    def numbers(self) -> Affine:
        scale, zero = self.steps()
        return self.first.model_copy(update={"scale": float(scale), "zero_point": int(torch.round(zero))})


class LearnedSteps(nn.Module):
    """A weight on a symmetric grid of `bits` with one scale for each slice of its first axis: a parameter `(out,)`."""

    def __init__(self, weight: Tensor, bits: Bits) -> None:
        super().__init__()
        self.limit = weight_limit(bits)
        first = low_bit_grid(weight.flatten(1), bits).scale[:, 0]
        self.scale = nn.Parameter(first.clone())
        self.register_buffer("least", first * SMALLEST)

    def scales(self) -> Tensor:
        return _bounded(self.scale, cast(Tensor, self.least))

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scales().reshape(-1, *[1] * (weight.ndim - 1))
        gain = gain_of(weight[0].numel(), self.limit)
        return fake_quantize_learned(weight.float(), scale, scale.new_zeros(()), -self.limit, self.limit, gain)


class Rehearsal(nn.Module):
    """A traced graph that rounds as the finished one will, and learns how."""

    def __init__(
        self, graph: GraphModule, activations: list[str], weights: dict[str, str], norms: dict[str, str]
    ) -> None:
        super().__init__()
        self.graph = graph
        self.activations, self.weights, self.norms = activations, weights, norms

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.graph(*args, **kwargs)

    def rounding(self, index: int) -> LearnedRounding:
        """Of the plan's activation number `index`."""
        return cast(LearnedRounding, self.graph.get_submodule(self.activations[index]))

    def steps(self, parameter: str) -> LearnedSteps:
        return cast(LearnedSteps, self.graph.get_submodule(self.weights[parameter]))

    def norm(self, parameter: str) -> Renormalization:
        """Behind the convolution with the weight `parameter`."""
        return cast(Renormalization, self.graph.get_submodule(self.norms[parameter]))


def _moments(trace: Trace, plan: Plan, task: Task) -> dict[str, Moments]:
    before = equalized(trace, plan.of(Equalize))
    names = renormalizable(trace.graph, plan)
    return moments(before, names, task.batches(calibration_split("Quantize", task), limit=EXAMPLES)) if names else {}


def rehearsal(trace: Trace, plan: Plan, seen: Mapping[str, Moments], live: int) -> Rehearsal:
    """The graph of `plan` in float, with a module that learns wherever the plan rounds.

    Convolutions whose outputs were `seen` are normalized, in `live` steps by their batch.

    Raises:
        FailureError: a weight holds NaN or infinite values.
    """
    module = clone(equalized(trace, plan.of(Equalize)).module)
    place = "learned"
    while hasattr(module, place):
        place += "_"
    activations: list[str] = []
    shared: dict[tuple[str, Affine], str] = {}
    for index, rounded in enumerate(plan.of(RoundActivation)):
        numbers = rounded.numbers
        # Rounded on both sides of what only moves it: one grid, so that the second rounding changes nothing.
        name = shared.setdefault((root_of(trace.graph, rounded.value), numbers), f"{place}.activation_{index}")
        if name not in activations:
            free = rounded.range.low < 0 and numbers.zero_point != middle_of(numbers.dtype, numbers.bits)
            module.add_submodule(name, LearnedRounding(numbers, free=free))
        activations.append(name)
        readers = tuple(Reader(node, position) for node, position in rounded.readers)
        rewrite.insert_after_(module, rounded.value, readers, name)
    norms: dict[str, str] = {}
    for name, parameter in renormalizable(trace.graph, plan).items():
        if name in seen:
            norms[parameter] = f"{place}.norm_{len(norms)}"
            insert_(module, name, parameter, seen[name], live, norms[parameter])
    weights: dict[str, str] = {}
    for index, stored_ in enumerate(plan.of(StoreWeight)):
        weights[stored_.parameter] = f"{place}.weight_{index}"
        weight = attribute(module, stored_.parameter)
        with rewrite.explained(stored_.parameter):
            module.add_submodule(weights[stored_.parameter], LearnedSteps(weight, stored_.bits))
        for node in _reading(module, weight):
            with module.graph.inserting_after(node):
                made = module.graph.call_module(weights[stored_.parameter], (node,))
            node.replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    # A graph module of its own: exported ones refuse train() and eval().
    return Rehearsal(GraphModule(module, module.graph), activations, weights, norms)


def settled(plan: Plan, graph: Graph, student: Rehearsal) -> Plan:
    """The plan with what was learned."""
    scales: dict[tuple[str, int], float] = {}
    actions: list[Action] = []
    index = 0
    for action in plan.actions:
        if isinstance(action, RoundActivation):
            action = action.model_copy(update={"learned": student.rounding(index).numbers()})
            index += 1
            scales |= dict.fromkeys(action.readers, action.grid.scale)
        elif isinstance(action, RoundBias):
            (node,) = graph.tensor_by_name[action.parameter].used_by
            action = action.model_copy(update={"scale": scales[node, 0]})
        actions.append(action)
    return plan.model_copy(update={"actions": tuple(actions)})


@torch.no_grad()
def written(trace: Trace, plan: Plan, student: Rehearsal) -> GraphModule:
    """The finished graph: that of the plan, with the student's weights on their steps."""
    module = inputs_rounded(trace, plan)
    held = {*student.activations, *student.weights.values(), *student.norms.values()}
    biases = {a.parameter: trace.graph.by_name[a.nodes[0]].parameter(2) or "" for a in plan.of(StoreWeight)}
    for name, value in (*student.graph.named_parameters(), *student.graph.named_buffers()):
        if name.rpartition(".")[0] not in held:
            attribute(module, name).copy_(value)
    spared = {a.parameter for a in plan.of(StoreWeight) if a.pairs_fit}
    scales: dict[str, Tensor] = {}
    for parameter in student.weights:
        steps, weight = student.steps(parameter), attribute(module, parameter)
        weight.copy_(weight if parameter in spared else steps(weight))
        scale = steps.scales().detach().clone()
        if parameter in student.norms:
            scale *= fold_(module, biases, parameter, student.norm(parameter)).abs()
        # As `weight_scales` has it: integer kernels refuse smaller multipliers.
        scale = scale.clamp_min(max(float(weight.abs().max()) * DEAD_CHANNEL, SMALLEST_SCALE))
        if parameter in spared:
            # What was learned stays wherever it fits into 16 bits. Clipped as in training: widening counts on it.
            reach = WEIGHT_LIMIT * scale.reshape(-1, *[1] * (weight.ndim - 1))
            weight.copy_(weight.clamp(-reach, reach))
            scale = safe_scales(weight, scale, LARGEST_INPUT)
        scales[parameter] = scale
    return stored(module, plan, scales)


def _bounded(value: Tensor, low: Tensor | float, high: float | None = None) -> Tensor:
    """Inside the bounds; gradients pass as if it had been, so that it can come back."""
    with torch.no_grad():
        gap = torch.maximum(value, torch.as_tensor(low, dtype=value.dtype, device=value.device)) - value
        if high is not None:
            gap = (value + gap).clamp_max(high) - value
    return value + gap


def _reading(module: GraphModule, weight: Tensor) -> list[FxNode]:
    found = [node for node in module.graph.nodes if node.op == "get_attr"]
    return [node for node in found if attribute(module, str(node.target)) is weight]
