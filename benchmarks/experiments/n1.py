"""N1: a supernet on CIFAR-10 against a ResNet made by hand, with the same short schedule.

The network that is searched is wider and less deep than the one by hand. It is trained, as a user's would be, then as a
supernet; what both cost is counted as the search's. The chosen subnet and the network by hand are trained alike; both
are far from what 200 epochs give, and what is compared is that of a short schedule. Controls: the chosen subnet with
fresh weights, and a subnet drawn at random. Beside it: do subnets rank as they do when trained alone, and what does the
search cost?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import lissom.data
from benchmarks.answers import difference, percent, right
from benchmarks.cifar import project, trained
from benchmarks.context import Context, remembered
from benchmarks.protocol import Contender, exported, faster, race
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.data import Images
from lissom.graph.trace import trace
from lissom.measure.quality import evaluate
from lissom.metrics import as_metric
from lissom.pipeline.timing import Stopwatch
from lissom.settings import Setting
from lissom.target import load_target
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training
from lissom.transforms.architecture import Supernet
from lissom.transforms.architecture.candidates import Aim, Candidate, searched
from lissom.transforms.architecture.extracting import extracted
from lissom.transforms.architecture.programs import Programs, Trained, tensors_of
from lissom.transforms.architecture.sandwich import Sandwich
from lissom.transforms.architecture.space import Subnet
from lissom.transforms.base import calibration_split

TITLE = "Architecture search on CIFAR-10: a subnet against a ResNet-20 made by hand, short schedule"
NEEDS = ("data", "weights")
TARGET = "onnxruntime"
BY_HAND = 20
WIDTHS, BLOCKS = (24, 48, 96), 2
HAND, CHOSEN, FRESH, CHANCE = "by hand", "chosen", "chosen, fresh weights", "drawn at random"
CONTROLS = {
    HAND: f"ResNet-{BY_HAND} by hand",
    FRESH: "the chosen subnet, fresh weights",
    CHANCE: "subnet drawn at random that keeps the wish",
}
LESS = 0.4
"""Share of the hand-made network's latency that is to go."""
MARGIN = 1.03
"""More than that is asked of the search, since what it times is timed again."""


SCHEDULE = Training(learning_rate=0.1, weight_decay=5e-4)


class Sizes(Setting):
    """How long everything is. Image passes: `images` an epoch, each subnet of a step counted by itself."""

    images: int = 12_500
    batch: int = 64
    whole: Training = SCHEDULE.model_copy(update={"epochs": 8})
    shared: Training = SCHEDULE.model_copy(update={"epochs": 6, "learning_rate": 0.05})
    alike: Training = SCHEDULE.model_copy(update={"epochs": 16})
    """Of the network by hand, of the chosen subnet and of the controls."""
    random: int = 2
    candidates: int = 60
    samples: int = 512
    judged: int = 4000
    ranked: int = 30
    alone: Training = SCHEDULE.model_copy(update={"epochs": 6})

    def step(self, faster: float) -> Supernet:
        return Supernet(
            latency_ratio=faster, training=self.shared, random=self.random, candidates=self.candidates,
            samples=self.samples, judged=self.judged, widths=(0.75, 0.5, 0.33), depth=1.0, round_to=8,
        )  # fmt: skip


def goal() -> Goal:
    return Goal(
        text=(
            f"{LESS:.0%} less measured latency at batch 1 than a ResNet-{BY_HAND} at no lower test accuracy, last "
            "epoch, trained alike; Kendall's tau of at least 0.7 between the accuracy of 30 subnets drawn at "
            "random with the supernet's weights and trained alone; image passes of the search at most a fifth of those "
            "that training every candidate by itself would take"
        ),
        wishes=(
            Wish(figure="speed", at_least=1 / (1 - LESS)),
            Wish(figure="accuracy over the network by hand", at_least=0.0),
            Wish(figure="Kendall's tau", at_least=0.7),
            Wish(figure="search over training one by one", at_most=0.2),
        ),
    )


class Block(nn.Module):
    """relu(shortcut(x) + f(x)); the shortcut is a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else short

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + out)


class Wide(nn.Module):
    """The whole network of the space: (n, 3, 32, 32) to (n, 10)."""

    def __init__(
        self, widths: Sequence[int] = WIDTHS, blocks: int = BLOCKS, classes: int = 10, inputs: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages: list[nn.Module] = []
        before = widths[0]
        for at, width in enumerate(widths):
            first = Block(before, width, 2 if at else 1)
            stages.append(nn.Sequential(first, *[Block(width, width, 1) for _ in range(blocks - 1)]))
            before = width
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.stages(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def run(context: Context) -> Outcome:
    _, task = trained(context, 56)
    hand: nn.Module = project().ResNet(BY_HAND)
    return compared(context, fresh(hand, 0), fresh(Wide(), 0), task, Sizes())


def compared(context: Context, hand: nn.Module, whole: nn.Module, task: Task, sizes: Sizes) -> Outcome:
    """The experiment for any two networks of one task."""
    task = fewer(task, sizes.images, sizes.batch)
    right: dict[str, list[int]] = {}

    def train(name: str, model: nn.Module) -> None:
        context.say(f"{name}, {sizes.alike.epochs} epochs")
        folder = context.kept / name.replace(" ", "-").replace(",", "")
        right[name] = remembered(folder, lambda place: answered(model, task, sizes.alike, place / "training"))

    train(HAND, hand)
    context.say("how much faster than the whole network a subnet has to be")
    ratio = remembered(context.kept / "wish", lambda _: wished(context, hand, whole, task))
    step = sizes.step(ratio)
    context.say(f"the whole network, {sizes.whole.epochs} epochs, as a supernet {sizes.shared.epochs} more")
    supernet, model = shared(context, whole, task, step, sizes.whole)
    context.say(f"{sizes.candidates} candidates, {ratio:.2f} times faster are wished for")
    measure = measuring(context, supernet, model, whole, task, step)
    aim = Aim(step.search, 1 / ratio, step.exponent, step.soft, 0)
    found = searched(
        supernet.programs.space, aim, sizes.candidates, measure, folder=context.kept / "search",
        of=f"{step.model_dump_json()} {ratio}",
    )  # fmt: skip
    chosen = aim.best(found)
    if chosen is None:
        nearest = min(found, key=lambda one: one.cost)
        raise SystemExit(f"N1: no candidate is {ratio:.2f} times faster; the nearest is {1 / nearest.cost:.2f} times.")

    def plain(subnet: Subnet) -> nn.Module:
        return extracted(model, supernet.programs, subnet, task.example, supernet.statistics(subnet)).module

    train(CHOSEN, plain(chosen.subnet))
    train(FRESH, fresh(plain(chosen.subnet), 0))
    chance = next((one for one in found if one.by == "chance" and one.cost <= aim.goal), None)
    if chance is not None:
        train(CHANCE, plain(chance.subnet))
    ranks = ranked(context, supernet, model, task, sizes)
    context.say("speed")
    contenders: list[Contender] = [
        exported(module, task, TARGET, context.scratch, name=name)
        for name, module in ((HAND, hand), (CHOSEN, plain(chosen.subnet)), ("whole", whole))
    ]
    samples = race(contenders, task.example, 1, rounds=context.rounds, threads=1)
    return outcome(sizes, found, right, ranks, samples, len(supernet.programs.space.axes))


def outcome(
    sizes: Sizes,
    found: Sequence[Candidate],
    right: dict[str, list[int]],
    ranks: list[dict[str, float]],
    samples: dict[str, tuple[float, ...]],
    axes: int,
) -> Outcome:
    """`right`: 1 for every test example that a network gets right, by its name."""
    before = sizes.whole.epochs + sizes.shared.epochs * (2 + sizes.random)
    passes = sizes.images * before + len(found) * (sizes.samples + sizes.judged)
    one_by_one = len(found) * sizes.images * sizes.alike.epochs
    tau = stats.kendalltau([one["predicted"] for one in ranks], [one["alone"] for one in ranks])
    return Outcome(
        goal=goal(),
        value={
            "speed": faster(samples, f"{TARGET}/{HAND}", f"{TARGET}/{CHOSEN}", "batch 1, one thread, float32"),
            "accuracy over the network by hand": difference(right[CHOSEN], right[HAND]),
            "accuracy of the chosen subnet": Figure(value=percent(right[CHOSEN]), unit="%"),
            "accuracy over the same subnet with fresh weights": difference(right[CHOSEN], right[FRESH]),
            "Kendall's tau": Figure(value=round(float(tau.statistic), 3), note=f"{len(ranks)} subnets"),
            "search over training one by one": Figure(
                value=round(passes / one_by_one, 4),
                unit="x",
                note=f"{passes:,} image passes for {len(found)} candidates, axes: {axes}",
            ),
        },
        reference=(),
        control=tuple(
            Beside(what=CONTROLS[name], value=percent(right[name]), unit="%", source="trained alike")
            for name in CONTROLS
            if name in right
        ),
        seeds=(0,),
        runs=(
            *(Run(name=f"subnet {at}", figures=dict(one)) for at, one in enumerate(ranks)),
            *(Run(name=f"candidate {at}", figures=_figures(one)) for at, one in enumerate(found)),
            *(Run(name=f"latency of {name}", samples_ms=own) for name, own in samples.items()),
        ),
    )


def _figures(one: Candidate) -> dict[str, float | str]:
    return {"validation": one.metric, "cost": one.cost, "MACs": one.macs, "by": one.by}


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """With weights as if it had just been made, whatever it held."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return model.eval()


def fewer(task: Task, images: int, batch: int | None = None) -> Task:
    """With the first `images` training images, which come in no order of classes; `batch` of them a step."""
    train = task.train
    if isinstance(train, lissom.data.Batches) and isinstance(train.data, Images):
        rows = torch.arange(min(images, len(train.data)))
        return replace(task, train=replace(train, data=train.data.take(rows), batch_size=batch or train.batch_size))
    return task


def answered(model: nn.Module, task: Task, settings: Training, folder: Path) -> list[int]:
    """Trained to the last epoch; 1 for every test example that it gets right. A killed training goes on in `folder`."""
    made = finetune(model, replace(task, validation=None), settings, folder=folder, seed=0).model
    return right(made, task.batches("test"))


def wished(context: Context, hand: nn.Module, whole: nn.Module, task: Task) -> float:
    """Latency of the whole network over what is left of the hand-made one's when `LESS` of it is gone."""
    watch = Stopwatch(whole, task, load_target(TARGET), 1, 1, context.scratch / "wish")
    return max(1.0, MARGIN * watch(hand) / (1 - LESS))


def shared(
    context: Context, whole: nn.Module, task: Task, step: Supernet, before: Training
) -> tuple[Trained, nn.Module]:
    """The supernet, trained whole `before` it is one; a killed training goes on."""
    alone = replace(task, validation=None)
    model = finetune(whole, alone, before, folder=context.kept / "whole", seed=0).model
    study = step.study(model, trace(model, task.example), task, load_target(TARGET))
    programs = Programs(study.space)
    objective = Sandwich(programs, step.random, step.distill)
    model = finetune(model, alone, step.training, folder=context.kept / "supernet", seed=0, objective=objective).model
    batches = tuple(task.batches(calibration_split("Supernet", task), limit=step.samples))
    return Trained(programs, tensors_of(model), batches), model


def predicted(supernet: Trained, subnet: Subnet, task: Task, judged: int) -> float:
    """Validation metric with the supernet's weights and statistics of its own."""
    statistics = supernet.statistics(subnet)
    return evaluate(
        lambda batch: supernet.run(subnet, batch, statistics),
        task.batches("validation", limit=judged),
        as_metric(task.metric),
        split="validation",
    ).value


def measuring(
    context: Context, supernet: Trained, model: nn.Module, whole: nn.Module, task: Task, step: Supernet
) -> Callable[[Subnet], Candidate]:
    space = supernet.programs.space
    watch = Stopwatch(whole, task, load_target(TARGET), 1, 1, context.scratch / "timed")

    def measure(subnet: Subnet) -> Candidate:
        cost = space.cost(subnet)
        times = 1.0
        if subnet != space.largest:
            times = watch(extracted(model, supernet.programs, subnet, task.example).module)
        value = predicted(supernet, subnet, task, step.judged)
        context.say(f"candidate: {value:.4f} on validation, {times:.2f} times faster")
        return Candidate(subnet=subnet, metric=value, cost=1 / times, macs=cost.macs, parameters=cost.parameters)

    return measure


def ranked(context: Context, supernet: Trained, model: nn.Module, task: Task, sizes: Sizes) -> list[dict[str, float]]:
    """Subnets drawn at random: accuracy on validation as the supernet predicts it, and trained alone."""
    found = alone(context, supernet.programs, model, task, sizes)
    for at, subnet in enumerate(_drawn(supernet.programs, sizes)):
        place = context.kept / f"predicted-{at}"
        found[at]["predicted"] = remembered(place, lambda _, own=subnet: predicted(supernet, own, task, sizes.judged))
    return found


def alone(context: Context, programs: Programs, model: nn.Module, task: Task, sizes: Sizes) -> list[dict[str, float]]:
    """Subnets drawn at random, trained from fresh weights: needs no supernet; `model` has the shapes of the largest."""
    found: list[dict[str, float]] = []
    for at, subnet in enumerate(_drawn(programs, sizes)):

        def one(folder: Path, own: Subnet = subnet) -> dict[str, float]:
            module = fresh(extracted(model, programs, own, task.example).module, 1)
            made = finetune(module, replace(task, validation=None), sizes.alone, folder=folder / "training", seed=1)
            answers = right(made.model, task.batches("validation"))
            return {"alone": sum(answers) / len(answers), "MACs": programs.space.cost(own).macs}

        context.say(f"subnet {at + 1} of {sizes.ranked}, trained alone")
        found.append(remembered(context.kept / f"alone-{at}", one))
    return found


def _drawn(programs: Programs, sizes: Sizes) -> list[Subnet]:
    generator = torch.Generator().manual_seed(1)
    return [programs.space.drawn(generator) for _ in range(sizes.ranked)]
