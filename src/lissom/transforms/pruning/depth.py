"""`PruneDepth`: whole residual blocks taken out.

Channels that are cut from wide, shallow kernels often save nothing on hardware that computes sixteen at a time; a
block that is gone is always gone. Importance of a block is what its absence does:

    "output"       E |f(x) - f_without(x)|^2 / E |f(x)|^2 of the model's first output, one pass of the data per block
    "similarity"   1 - E cos(x_in, x_out) over positions, one pass for all blocks ("block influence": Men et al. 2024,
                   "ShortGPT", arXiv:2403.03853, equation 1)

The blocks of least importance go first, until the wish is met. What stays is fitted again as `Prune` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from lissom.errors import OutOfReachError, VerificationError
from lissom.graph.agreement import ALLOWED_GAP, apart, outputs, tensors_in
from lissom.graph.blocks import Block, find_blocks
from lissom.graph.channels import find_channels
from lissom.graph.graph import Graph
from lissom.graph.resize import Sizes
from lissom.graph.select import select as match
from lissom.graph.statistics import run_over
from lissom.graph.trace import Trace
from lissom.settings import only_wish
from lissom.target import Target
from lissom.task import Batch, Split, Task, contiguous, fitting
from lissom.transforms.base import (
    ALONE,
    Action,
    Cost,
    Plan,
    Recovery,
    Skip,
    Stage,
    Transform,
    Work,
    calibration_split,
    clone,
)
from lissom.transforms.pruning.own_class import unlike
from lissom.transforms.pruning.recovery import Pair, recover_
from lissom.transforms.pruning.surgery import ALREADY, EXPORTED, take_

BUDGETS = ("macs_ratio", "parameters_ratio")
WISHES = ("ratio", *BUDGETS)


class Drop(Action):
    """Take a residual block out: its output becomes its input."""

    kind: Literal["drop"] = "drop"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    importance: float
    macs: int
    parameters: int


@dataclass(frozen=True, eq=False)
class Study:
    """The residual blocks of a model, in order, and how much each matters."""

    blocks: tuple[Block, ...]
    importance: Mapping[str, float]


class PruneDepth(Transform):
    """Depth pruning: residual blocks taken out, least important first.

    How much is given by one of: `ratio`, the share of the blocks; `macs_ratio` or `parameters_ratio`, how many times
    smaller the model gets (before / after). `exclude` holds patterns of blocks that stay. It needs calibration data
    (or training data), of which `samples` examples are used, unlabelled.
    """

    stage: ClassVar[Stage] = "structure"
    actions: ClassVar[dict[str, type[Action]]] = {"drop": Drop}

    ratio: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] | None = None
    macs_ratio: Annotated[float, pydantic.Field(ge=1.0)] | None = None
    parameters_ratio: Annotated[float, pydantic.Field(ge=1.0)] | None = None
    criterion: Literal["output", "similarity"] = "output"
    exclude: tuple[str, ...] = ()
    recovery: Recovery = "reconstruct"
    samples: Annotated[int, pydantic.Field(ge=1)] = 256

    @pydantic.model_validator(mode="after")
    def _one_wish(self) -> PruneDepth:
        way_out = "Write PruneDepth(ratio=0.25) for a quarter of the blocks, or PruneDepth(macs_ratio=1.5)."
        only_wish(self, WISHES, way_out)
        return self

    def needs(self) -> frozenset[Split]:
        return frozenset({"calibration"})

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Study:
        blocks = find_blocks(trace)
        batches = list(self._batches(task))
        measured = _by_output if self.criterion == "output" else _by_similarity
        return Study(blocks, measured(trace, blocks, batches, work))

    def plan(self, graph: Graph, study: Study, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches no block.
            OutOfReachError: more is wished for than all blocks hold.
        """
        kept = match([b.module for b in study.blocks], self.exclude, "PruneDepth(exclude=...)")
        numbers = _numbers(graph, study.blocks)
        dropped = self.dropped(graph, study)
        gone = {block.module for block in dropped}
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(
                Drop(layer=b.module, importance=study.importance[b.module], macs=b.macs, parameters=numbers[b.module])
                for b in study.blocks
                if b.module in gone
            ),
            skipped=tuple(
                Skip(layer=b.module, reason="it is excluded" if b.module in kept else "others matter less")
                for b in study.blocks
                if b.module not in gone
            ),
            predicted=cost_without(graph, dropped),
        )

    def free(self, study: Study) -> list[Block]:
        """The blocks that may go, least important first.

        Raises:
            RecipeError: an `exclude` pattern matches no block.
        """
        kept = match([b.module for b in study.blocks], self.exclude, "PruneDepth(exclude=...)")
        return sorted((b for b in study.blocks if b.module not in kept), key=lambda b: study.importance[b.module])

    def dropped(self, graph: Graph, study: Study) -> list[Block]:
        """The blocks that go, least important first.

        Raises:
            RecipeError: an `exclude` pattern matches no block.
            OutOfReachError: more is wished for than all blocks hold.
        """
        free = self.free(study)
        return free[: _count(self, graph, free, _numbers(graph, free))]

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """
        Raises:
            VerificationError: the shorter network is not the original with its blocks' branches silent.
        """
        return self._shorten(model, plan, trace, task.example, self._batches(task), work)

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return self._shorten(model, plan, trace, task.example, (), ALONE)

    def _batches(self, task: Task) -> Iterable[Batch]:
        return task.batches(calibration_split(self.name, task), limit=self.samples)

    def _shorten(
        self, model: nn.Module, plan: Plan, traced: Trace, example: Batch, data: Iterable[Batch], work: Work
    ) -> nn.Module:
        gone = {drop.layer for drop in plan.of(Drop)}
        blocks = [block for block in find_blocks(traced) if block.module in gone]
        module = clone(traced.module)
        bypass_(module, blocks)
        found, reason = _own(model, blocks, module, example)
        shorter = module if found is None else found
        if found is None:
            work.note(EXPORTED, reason)
        _verify(traced, blocks, shorter, example)
        pair = Pair(traced.module, module, Sizes(find_channels(traced), {}), traced.graph.fixed_batch)
        changed = recover_(pair, data, self.recovery, work.tick)
        if found is not None:
            take_(found, module, changed)
        return shorter


def cost_without(graph: Graph, blocks: Sequence[Block]) -> Cost:
    held = {tensor.name: tensor for tensor in graph.tensors}
    return Cost(
        macs=graph.macs - sum(b.macs for b in blocks),
        parameters=graph.parameters - sum(_numbers(graph, blocks).values()),
        bytes=graph.bytes - sum(held[p].bytes for b in blocks for p in b.parameters),
    )


def _numbers(graph: Graph, blocks: Sequence[Block]) -> dict[str, int]:
    """Trainable parameters of each block."""
    held = {tensor.name: tensor for tensor in graph.tensors}
    return {b.module: sum(prod(held[p].shape) for p in b.parameters if held[p].trainable) for b in blocks}


def _count(wish: PruneDepth, graph: Graph, free: Sequence[Block], numbers: Mapping[str, int]) -> int:
    """How many of the blocks, in their order, have to go."""
    if wish.ratio is not None:
        return round(wish.ratio * len(free))
    by_macs = wish.macs_ratio is not None
    whole = graph.macs if by_macs else graph.parameters
    limit = whole / ((wish.macs_ratio if by_macs else wish.parameters_ratio) or 1.0)
    left = whole
    for count, block in enumerate(free):
        if left <= limit:
            return count
        left -= block.macs if by_macs else numbers[block.module]
    if left > limit:
        raise OutOfReachError(
            f"PruneDepth cannot reach {limit:,.0f} {'MACs' if by_macs else 'parameters'}: without all of its "
            f"{len(free)} residual blocks the model still has {left:,.0f} of {whole:,}. Wish for less, or cut channels "
            "with Prune as well.",
            whole / left if left else 1.0,
        )
    return len(free)


def bypass_(module: GraphModule, blocks: Sequence[Block]) -> None:
    """Readers of each block's output read its input instead; the input of one may be the output of another."""
    nodes = {node.name: node for node in module.graph.nodes}
    for block in blocks:
        nodes[block.output].replace_all_uses_with(nodes[block.source])
        nodes[block.output] = nodes[block.source]
    module.graph.eliminate_dead_code()
    module.recompile()


def _own(
    model: nn.Module, blocks: Sequence[Block], wanted: GraphModule, example: Batch
) -> tuple[nn.Module | None, str]:
    """A copy of the user's module with the blocks replaced, if its trace is the shortened graph; else the reason."""
    if isinstance(model, GraphModule):
        return None, ALREADY
    shorter = clone(model)
    for block in blocks:
        shorter.set_submodule(block.module, nn.Identity())
    reason = unlike(shorter, wanted, example)
    return (None, reason) if reason else (shorter, "")


class _Silent(Interpreter):
    """Runs the original with some blocks handing on what they got; `outputs` are those of the last run."""

    def __init__(self, module: GraphModule, blocks: Sequence[Block]) -> None:
        # The source of a block must outlive the block.
        super().__init__(module, garbage_collect_values=not blocks)
        names = {node.name: node for node in module.graph.nodes}
        self._handed = {names[b.output]: names[b.source] for b in blocks}
        self.outputs: list[Tensor] = []

    def run_node(self, n: FxNode) -> Any:
        return self.env[self._handed[n]] if n in self._handed else super().run_node(n)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        made = super().run(*args, **kwargs)
        self.outputs = tensors_in(made)
        return made


class _Comparing(_Silent):
    """Adds up the energy of the first output, or of its distance to the first outputs of an earlier run."""

    def __init__(self, module: GraphModule, blocks: Sequence[Block], whole: Sequence[Tensor] = ()) -> None:
        super().__init__(module, blocks)
        self._whole = iter(whole)
        self.firsts: list[Tensor] = []
        self.energy = 0.0

    def run(self, *args: Any, **kwargs: Any) -> Any:
        made = super().run(*args, **kwargs)
        first = self.outputs[0]
        self.energy += float((first.double() - next(self._whole, torch.zeros(()))).square().sum())
        self.firsts.append(first)
        return made


@torch.no_grad()
def _by_output(trace: Trace, blocks: Sequence[Block], batches: Sequence[Batch], work: Work) -> dict[str, float]:
    whole = _Comparing(trace.module, ())
    run_over(whole, trace.graph, batches)
    found: dict[str, float] = {}
    for index, block in enumerate(blocks):
        without = _Comparing(trace.module, (block,), whole.firsts)
        run_over(without, trace.graph, batches)
        found[block.module] = without.energy / max(whole.energy, 1e-30)
        work.tick((index + 1) / len(blocks))
    return found


class _Watcher(Interpreter):
    def __init__(self, module: GraphModule, blocks: Sequence[Block]) -> None:
        super().__init__(module, garbage_collect_values=False)
        names = {node.name: node for node in module.graph.nodes}
        self._sources = {names[b.output]: (b.module, names[b.source]) for b in blocks}
        self.total: dict[str, float] = {b.module: 0.0 for b in blocks}
        self.count: dict[str, int] = {b.module: 0 for b in blocks}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n in self._sources:
            module, source = self._sources[n]
            axis = 1 if value.ndim == 4 else -1
            cosine = torch.nn.functional.cosine_similarity(self.env[source], value, dim=axis)
            self.total[module] += float(cosine.double().sum())
            self.count[module] += cosine.numel()
        return value


@torch.no_grad()
def _by_similarity(trace: Trace, blocks: Sequence[Block], batches: Sequence[Batch], work: Work) -> dict[str, float]:
    watcher = _Watcher(trace.module, blocks)
    examples = sum(batch.size for batch in batches)
    run_over(watcher, trace.graph, batches, progress=lambda done: work.tick(done / examples))
    return {b.module: 1.0 - watcher.total[b.module] / max(1, watcher.count[b.module]) for b in blocks}


@torch.no_grad()
def _verify(traced: Trace, blocks: Sequence[Block], shorter: nn.Module, example: Batch) -> None:
    batch = next(iter(fitting(contiguous(example), traced.graph.fixed_batch)))
    silent = _Silent(traced.module, blocks)
    run_over(silent, traced.graph, (batch,))
    gap = max(apart(a, b) for a, b in zip(silent.outputs, outputs(shorter, batch), strict=True))
    if not gap <= ALLOWED_GAP:
        raise VerificationError(
            f"Without {', '.join(b.module for b in blocks)} the network differs from the original with those blocks "
            f"silent by {gap:.1e} of the largest output (allowed {ALLOWED_GAP:.0e}). This is a bug in Lissom: please "
            "report the model. PruneDepth(exclude=[...]) leaves blocks in place."
        )
