"""Which precision and memory order trains this model fastest here, and whether compiling it pays: measured on its own
batches, not assumed.

Candidates run in turns on copies; each round times one forward and backward pass of each. Another one than plain
float32 is taken only if its median is at least 5 % lower. A model is compiled where training would take long enough for
that to be worth while, and stays so if that is at least as much faster.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import statistics
import time
from pathlib import Path

import pydantic
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import RecipeError, first_line
from lissom.files import write_text
from lissom.graph.trace import quiet
from lissom.task import Batch, Task
from lissom.training.augment import augmented
from lissom.training.chance import Chance, generator_of, seed_of
from lissom.training.compiling import Compiled, shapes_of
from lissom.training.epochs import epoch_of
from lissom.training.history import Pace
from lissom.training.objective import Objective, checked, criterion_of
from lissom.training.orders import VECTOR, Watch
from lissom.training.settings import Training

GAIN = 0.95
"""Largest ratio to plain float32 that counts as faster."""
ROUNDS = 5
SECONDS = 20.0
"""After which no further round starts."""
HOPELESS = 2.0
"""A candidate whose first step takes this many times the baseline's is not measured further."""
BATCHES = 2
WORTH_SECONDS = 600.0
"""Of a whole training: below, compiling (half a minute to two for networks of 20 to 60 layers) is not tried."""
FEW_STEPS = 100
"""Fewer are not even timed: that asks the teacher, and draws a batch."""


def pace_of(
    model: nn.Module, task: Task, settings: Training, objective: Objective, *, folder: Path | None, seed: int
) -> Pace:
    """What the settings say, and the faster where they say "auto".

    A measured choice is kept in `folder`: a training that goes on computes as it began.

    Raises:
        DataError: no training data, or a loss that cannot be trained on.
        RecipeError: `channels_last=True` for a model that PyTorch cannot train so on a CPU.
    """
    criterion_of(task, settings)
    if settings.channels_last is True and _crashes(model, task, settings, objective, seed):
        raise RecipeError(
            "channels_last=True, and the model has a convolution with a 1 x 1 kernel, a stride and fewer than "
            f"{VECTOR} input channels: PyTorch damages memory when it trains that on a CPU with channels last. Leave "
            "channels_last out, or prune with round_to=16."
        )
    if settings.precision != "auto" and settings.channels_last != "auto":
        return Pace(precision=settings.precision, channels_last=settings.channels_last)
    kept = folder / "pace.json" if folder else None
    if kept and kept.is_file():
        with contextlib.suppress(pydantic.ValidationError, UnicodeDecodeError):
            pace = Pace.model_validate_json(kept.read_text(encoding="utf-8"))
            if settings.precision in ("auto", pace.precision) and settings.channels_last in (
                "auto",
                pace.channels_last,
            ):
                return pace
    batches = list(itertools.islice(epoch_of(task, seed, 0), BATCHES))
    chosen = _measured(model, batches, task, settings, objective, seed)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, chosen.model_dump_json(indent=2))
    return chosen


def compiled(
    pace: Pace, model: nn.Module, task: Task, settings: Training, objective: Objective, *, steps: int, seed: int
) -> Pace:
    """That pace, compiled if the settings say so, or if they leave it open and `steps` of it are faster by it.

    Raises:
        RecipeError: `compile=True`, and the model cannot be compiled here.
    """
    if not settings.compile or settings.inner or (settings.compile == "auto" and steps < FEW_STEPS):
        return pace
    batch = augmented(next(epoch_of(task, seed, 0)), settings, generator_of("pace", seed, 0))
    plain = _Runner(model, pace)
    with Chance(seed_of("pace", seed))():
        plain.step(batch, task, settings, objective)
        seconds = plain.step(batch, task, settings, objective)
        if settings.compile == "auto" and seconds * steps < WORTH_SECONDS:
            return pace
        try:
            fast = _Runner(model, pace.model_copy(update={"compiled_for": shapes_of(batch.args, dict(batch.kwargs))}))
            fast.step(batch, task, settings, objective)
        except Exception as wrong:
            # Whatever a compiler, its absence or the way it reads Python code brings up; the model itself ran.
            if settings.compile == "auto":
                return pace
            raise RecipeError(
                f"compile=True, and torch.compile failed ({type(wrong).__name__}: {first_line(wrong)}). On a CPU it "
                "needs a C++ compiler. Install one, or leave compile out."
            ) from wrong
        for _ in range(ROUNDS):
            for runner in (plain, fast):
                runner.seconds.append(runner.step(batch, task, settings, objective))
            if fast.seconds[-1] > HOPELESS * plain.seconds[-1]:
                break
    before, after = (statistics.median(runner.seconds) for runner in (plain, fast))
    # Timed at another moment than what `pace` was chosen by.
    raced = {f"{_name(plain.pace)}, not compiled": 1000 * before, _name(fast.pace): 1000 * after}
    pays = settings.compile != "auto" or after <= GAIN * before
    return (fast if pays else plain).pace.model_copy(update={"step_ms": {**pace.step_ms, **raced}})


def computed(batch: Batch, device: torch.device, pace: Pace) -> Batch:
    """The batch on the model's device, in its memory order."""

    def place(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.to(device)
        return leaf.contiguous(memory_format=torch.channels_last) if pace.channels_last and leaf.ndim == 4 else leaf

    args, kwargs, target = pytree.tree_map(place, (batch.args, dict(batch.kwargs), batch.target))
    return Batch(args, kwargs, target)


def autocast(device: torch.device, pace: Pace) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=pace.precision == "bfloat16")


def order_(model: nn.Module, memory: torch.memory_format) -> None:
    """Put every weight with four axes into that memory order, in place."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            # A clone, not contiguous(): with axes of length 1 a tensor has both orders, and strides of one of them.
            parameter.data = parameter.data.clone(memory_format=memory)


def called(model: nn.Module, pace: Pace) -> nn.Module:
    """What a training step calls: the model, or its compiled form, which has the same weights."""
    return Compiled(model, pace.compiled_for) if pace.compiled_for else model


def device_of(model: nn.Module) -> torch.device:
    return next((t.device for t in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))


def train_mode_(model: nn.Module) -> None:
    """Training mode; an exported graph has none, and keeps its normalizations as they are (frozen)."""
    if not isinstance(model, GraphModule):
        model.train()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself. Where a processor has to emulate it, a step of a convolutional
    network takes ten times as long: too long to be tried."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _crashes(model: nn.Module, task: Task, settings: Training, objective: Objective, seed: int) -> bool:
    """Whether a step with channels last would damage memory; taken in the usual order."""
    runner = _Runner(model, Pace(precision="float32", channels_last=False))
    with Chance(seed_of("pace", seed))(), Watch() as seen:
        runner.step(next(epoch_of(task, seed, 0)), task, settings, objective)
    return seen.crashes


def _candidates(settings: Training, batch: Batch, device: torch.device) -> list[Pace]:
    """Plain float32 first, where it is allowed."""
    images = any(tensor.ndim == 4 and tensor.is_floating_point() for tensor in batch.tensors())
    both = ("float32", "bfloat16") if has_bfloat16(device) else ("float32",)
    precisions = both if settings.precision == "auto" else (settings.precision,)
    orders = (settings.channels_last,) if settings.channels_last != "auto" else (False, True) if images else (False,)
    return [Pace(precision=p, channels_last=o) for o in orders for p in precisions]


def _name(pace: Pace) -> str:
    named = {"channels last": pace.channels_last, "compiled": pace.compiled_for}
    return ", ".join([pace.precision, *(name for name, is_so in named.items() if is_so)])


class _Runner:
    """A copy of the model that computes at one pace."""

    def __init__(self, model: nn.Module, pace: Pace) -> None:
        with quiet():
            self.model = copy.deepcopy(model)
        train_mode_(self.model)
        order_(self.model, torch.channels_last if pace.channels_last else torch.contiguous_format)
        self.called = called(self.model, pace)
        self.pace, self.device = pace, device_of(model)
        self.seconds: list[float] = []

    def step(self, batch: Batch, task: Task, settings: Training, objective: Objective) -> float:
        batch = computed(batch, self.device, self.pace)
        self.model.zero_grad(set_to_none=True)
        started = time.perf_counter()
        with autocast(self.device, self.pace):
            loss = checked(objective(self.called, batch, criterion_of(task, settings)))
        loss.backward()
        loss.item()  # waits for the device
        return time.perf_counter() - started


def _measured(
    model: nn.Module, batches: list[Batch], task: Task, settings: Training, objective: Objective, seed: int
) -> Pace:
    candidates = _candidates(settings, batches[0], device_of(model))
    if len(candidates) == 1:
        return candidates[0]
    started = time.perf_counter()
    with Chance(seed_of("pace", seed))():
        batches = [augmented(b, settings, generator_of("pace", seed, i)) for i, b in enumerate(batches)]
        runners: list[_Runner] = []
        first = 0.0
        watch = Watch()
        for candidate in candidates:
            # Where the order is left open, all steps in the usual one come first.
            if watch.crashes and candidate.channels_last:
                continue
            runner = _Runner(model, candidate)
            try:
                with watch:
                    runner.step(batches[0], task, settings, objective)  # compiles kernels, fills caches
                seconds = runner.step(batches[0], task, settings, objective)
            except RuntimeError:
                # An operator without a kernel for this precision; in plain float32 it is the model's own error.
                if not runners:
                    raise
                continue
            first = first or seconds
            if seconds <= HOPELESS * first:
                runners.append(runner)
        for index in range(ROUNDS):
            for runner in runners:
                runner.seconds.append(runner.step(batches[index % len(batches)], task, settings, objective))
            if time.perf_counter() - started > SECONDS:
                break
    medians = [statistics.median(runner.seconds) for runner in runners]
    best = min(range(len(runners)), key=medians.__getitem__)
    chosen = runners[best if medians[best] <= GAIN * medians[0] else 0].pace
    step_ms = {_name(runner.pace): 1000 * median for runner, median in zip(runners, medians, strict=True)}
    return chosen.model_copy(update={"step_ms": step_ms})
