"""`Sparsify`: single weights of convolutions and linear layers set to zero.

The result is the user's own class with the shapes it had: zeros are stored and multiplied like any other number, so
file, memory and latency stay what they were, except on a runtime that skips them: sparse tensor cores do for the
pattern 2:4. `Finetune` keeps the zeros. Formulas: `lissom.functional.sparsity`, `lissom.functional.nm`,
`lissom.functional.permutation`, `lissom.functional.blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import pydantic
import torch
from torch import Tensor, nn

from lissom.errors import DataError, RecipeError
from lissom.functional import sparsity as maths
from lissom.functional.blocks import Block, by_positions, pattern_of, tiles
from lissom.functional.nm import Pattern
from lissom.graph.graph import Graph, Node
from lissom.graph.moments import PRODUCTS, READABLE
from lissom.graph.select import select
from lissom.graph.trace import Trace, trace
from lissom.target import Target
from lissom.task import Split, Task
from lissom.transforms.base import ALONE, Action, Cost, Plan, Skip, Stage, Transform, Work, calibration_split, clone
from lissom.transforms.sparsity.actions import PermuteChannels, Study, ZeroWeights
from lissom.transforms.sparsity.evidence import gradient_scores, moments_by_parameter
from lissom.transforms.sparsity.masking import BY_INPUTS, Criterion, blocked, patterned, scores_of, sparse
from lissom.transforms.sparsity.permuting import find_orders, permuted
from lissom.transforms.sparsity.racing import time_layers

MOST = 0.99
"""Share of its weights that a layer can lose to the global ranking: no layer dies while others keep everything."""
HALF = 0.5


class Sparsify(Transform):
    """Single weights become zero: the share `ratio` of them (by default one half), or all but N of every M inputs.

    `pattern="4x1"`, or any other RxC, lets the share `ratio` go in whole blocks of R outputs by C inputs.

    `pattern="2:4"`, or any other N:M, is counted along the inputs of every row, for a convolution at every position of
    its kernel. `permute` first puts channels in an order in which the pattern keeps more; the model computes what it
    did. Where the target has kernels for the pattern and the run measures, a layer that is not faster stays dense.

    `criterion` says which weights go: "magnitude" the smallest; "gradient" those whose weight times gradient is
    smallest (needs `Task.loss` and labelled `Task.train` or `Task.calibration`); "wanda" those whose weight times the
    norm of its input is smallest in its row; "sparsegpt" those that the others can best make up for, and makes up for
    them. The last two need `Task.calibration` or `Task.train`, without labels. `samples` is how many examples are used.

    `scope="local"` cuts the ratio from every layer; "global" ranks the weights of all layers together, for magnitude
    and gradient. `exclude` holds patterns of layers that stay dense (`"conv1"`, `"layer3.*"`).
    """

    stage: ClassVar[Stage] = "structure"
    actions: ClassVar[dict[str, type[Action]]] = {"permute-channels": PermuteChannels, "zero-weights": ZeroWeights}

    ratio: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] | None = None
    pattern: str | None = None
    permute: bool = True
    criterion: Criterion = "magnitude"
    scope: Literal["local", "global"] = "local"
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    exclude: tuple[str, ...] = ()

    @pydantic.field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        return None if pattern is None else str(pattern_of(pattern))

    @pydantic.model_validator(mode="after")
    def _comparable(self) -> Sparsify:
        if self._nm() is not None and self.ratio is not None:
            raise ValueError(
                f"Sparsify(pattern={self.pattern!r}, ratio={self.ratio:g}) says twice how many weights go. Leave ratio "
                "out: the pattern says it"
            )
        if self._nm() is not None and self.scope == "global":
            raise ValueError(
                f"Sparsify(pattern={self.pattern!r}, scope='global') leaves nothing to rank: every group loses as "
                "many. Leave scope out"
            )
        if self.scope == "global" and self.criterion in BY_INPUTS:
            # RecipeError is no ValueError, so pydantic lets it through instead of wrapping it.
            raise RecipeError(
                f"Sparsify(criterion={self.criterion!r}, scope='global') cannot rank weights of different layers: its "
                "scores are in the units of each layer's own output. Use scope='local', or criterion='magnitude' or "
                "'gradient'."
            )
        return self

    def needs(self) -> frozenset[Split]:
        return frozenset() if self.criterion == "magnitude" else frozenset({"calibration"})

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Study:
        """For the global scope, what each layer loses; for a pattern, orders of channels, and times where the target
        has kernels for it; else only a look whether the data are there.

        Raises:
            DataError: the criterion needs data or a loss that the task lacks, or they do not fit the model.
            RecipeError: an `exclude` pattern matches nothing.
        """
        if self.criterion != "magnitude":
            self._split(task)
        chosen, _ = self._chosen(trace.graph)
        pattern = self._nm()
        if pattern is None:
            if self.scope == "local" or not chosen:
                return Study()
            return Study(zeros=self._ranked(self._scores(trace, task, chosen, work)))
        timed = {}
        if work.race is not None and self.pattern in target.patterns:
            timed = time_layers(model, trace.graph, chosen, pattern, work.race)
        chosen = {name: nodes for name, nodes in chosen.items() if name not in timed or timed[name].faster}
        if not self.permute or not chosen:
            return Study(timed=timed)
        orders, kept = find_orders(model, trace, self._scores(trace, task, chosen, work), pattern)
        return Study(orders=orders, kept_orders=kept, timed=timed)

    def plan(self, graph: Graph, study: Study | None, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing, or the global scope has not been studied.
        """
        chosen, skipped = self._chosen(graph)
        if self.scope == "global" and study is None and chosen:
            raise RecipeError("Sparsify(scope='global') ranks weights, and a plan sees none: call study() first.")
        study = study or Study()
        actions: list[ZeroWeights] = []
        for name, nodes in chosen.items():
            label = nodes[0].layer or nodes[0].name
            zeros = self._zeros(graph.tensor_by_name[name].shape, study.zeros.get(name, 0))
            timed = study.timed.get(name)
            if timed is not None and not timed.faster:
                skipped.append(Skip(layer=label, reason=f"it is not faster in this pattern here: {timed}"))
            elif zeros:
                actions.append(
                    ZeroWeights(
                        layer=label,
                        parameter=name,
                        zeros=zeros,
                        size=math.prod(graph.tensor_by_name[name].shape),
                        nodes=tuple(node.name for node in nodes),
                        pattern=self.pattern,
                        order_kept=study.kept_orders.get(name),
                        skips_zeros=self.pattern in target.patterns,
                    )
                )
            else:
                ranked = self.scope == "global"
                reason = (
                    "all its weights rank above those that go" if ranked else f"{self._share():g} of it is no weight"
                )
                skipped.append(Skip(layer=label, reason=reason))
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=(*study.orders, *actions),
            skipped=tuple(dict.fromkeys(skipped)),
            # Zeros take as much room as other numbers.
            predicted=Cost(macs=graph.macs, parameters=graph.parameters, bytes=graph.bytes),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """
        Raises:
            DataError: the criterion needs data or a loss that the task lacks, or they do not fit the model.
            VerificationError: with its channels in another order the model computes something else.
        """
        actions: list[ZeroWeights] = plan.of(ZeroWeights)
        orders: list[PermuteChannels] = plan.of(PermuteChannels)
        made, trace = self._ordered(model, orders, trace, task)
        if not actions:
            return made
        nodes = {a.parameter: [trace.graph.by_name[n] for n in a.nodes] for a in actions}
        seen = self._evidence(trace, task, nodes, work, full=True)
        pattern = None if self.pattern is None else pattern_of(self.pattern)
        for action in actions:
            weight, own = made.get_parameter(action.parameter), seen.pop(action.parameter, None)
            with torch.no_grad():
                if pattern is None:
                    weight.copy_(sparse(weight, self.criterion, own, action.zeros))
                elif isinstance(pattern, Block):
                    weight.copy_(blocked(weight, self.criterion, own, pattern, action.zeros))
                else:
                    weight.copy_(patterned(weight, self.criterion, own, pattern))
        work.tick(1.0)
        return made

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return clone(model)

    def _ordered(
        self, model: nn.Module, orders: list[PermuteChannels], before: Trace, task: Task
    ) -> tuple[nn.Module, Trace]:
        if not orders:
            return clone(model), before
        made = permuted(model, before, orders, task.example)
        return made, trace(made, task.example) if self.criterion != "magnitude" else before

    def _nm(self) -> Pattern | None:
        pattern = None if self.pattern is None else pattern_of(self.pattern)
        return pattern if isinstance(pattern, Pattern) else None

    def _block(self) -> Block:
        """What goes at a time: one weight where nothing else is said."""
        pattern = None if self.pattern is None else pattern_of(self.pattern)
        return pattern if isinstance(pattern, Block) else Block(1, 1)

    def _share(self) -> float:
        return HALF if self.ratio is None else self.ratio

    def _zeros(self, shape: tuple[int, ...], ranked: int) -> int:
        """How many weights go; `ranked` is what the global ranking says."""
        size, pattern, block = math.prod(shape), self._nm(), self._block()
        if pattern is not None:
            return pattern.zeros(size)
        if self.scope == "global":
            return ranked
        rows = shape[0] // block.rows if self.criterion == "wanda" else 1
        return rows * maths.zeros_of(self._share(), size // block.area // rows) * block.area

    def _ranked(self, scores: Mapping[str, Tensor]) -> dict[str, int]:
        """How many weights each layer loses in one ranking of all blocks."""
        block = self._block()
        summed = {name: tiles(by_positions(own), block) for name, own in scores.items()}
        found = maths.zeros_by_layer(summed, self._share(), max(MOST, self._share()))
        return {name: blocks * block.area for name, blocks in found.items()}

    def _scores(self, trace: Trace, task: Task, weights: Mapping[str, list[Node]], work: Work) -> dict[str, Tensor]:
        seen = self._evidence(trace, task, weights, work, full=False)
        return {name: scores_of(trace.module.get_parameter(name), self.criterion, seen.get(name)) for name in weights}

    def _evidence(
        self, trace: Trace, task: Task, weights: Mapping[str, list[Node]], work: Work, *, full: bool
    ) -> dict[str, Tensor]:
        """What the criterion has to know beyond the weights, by parameter, in one pass over the data.

        `full` asks for whole matrices of moments, where the criterion uses them.
        """

        def progress(done: int) -> None:
            # The same data may be looked at again when the plan is carried out.
            work.tick((0.45 if not full else 0.9) * min(1.0, done / self.samples))

        if self.criterion == "magnitude":
            return {}
        split = self._split(task)
        if self.criterion == "gradient":
            return gradient_scores(trace, task, split, self.samples, weights, progress)
        batches = task.batches(split, limit=self.samples)
        nodes = {name: [node.name for node in own] for name, own in weights.items()}
        full = full and self.criterion == "sparsegpt"
        return moments_by_parameter(trace, batches, nodes, full=full, progress=progress)

    def _split(self, task: Task) -> Split:
        if self.criterion != "gradient":
            return calibration_split(self.name, task)
        if task.loss is None:
            raise DataError(
                "Sparsify(criterion='gradient') needs to know what the weights are for, and the task has no loss. Give "
                "Task(loss=...), or use criterion='magnitude', 'wanda' or 'sparsegpt', which need none."
            )
        # Training data have labels; calibration data may have none.
        return "train" if task.has("train") else calibration_split(self.name, task)

    def _chosen(self, graph: Graph) -> tuple[dict[str, list[Node]], list[Skip]]:
        """The weights to make sparse with the nodes that multiply by them, and the layers left dense."""
        layers = [graph.by_name[layer.node] for layer in graph.layers]
        names = [name for node in layers for name in (node.layer, node.name) if name]
        excluded = select(names, self.exclude, "Sparsify(exclude=...)")
        chosen: dict[str, list[Node]] = {}
        skipped: list[Skip] = []
        for node in layers:
            reason = self._refuse(graph, node, excluded)
            weight = node.parameter(1)
            if reason is None and weight is not None:
                chosen.setdefault(weight, []).append(node)
            else:
                skipped.append(Skip(layer=node.layer or node.name, reason=reason or ""))
        return chosen, list(dict.fromkeys(skipped))

    def _refuse(self, graph: Graph, node: Node, excluded: frozenset[str]) -> str | None:
        if node.layer in excluded or node.name in excluded:
            return "excluded by the recipe"
        if node.op not in PRODUCTS:
            return f"{node.op} is no convolution or linear layer"
        name = node.parameter(1)
        if name is None:
            return "its weight is computed, not stored"
        weight = graph.tensor_by_name[name]
        if not weight.trainable:
            return "its weight is a constant, not a parameter"
        readers = [graph.by_name[reader] for reader in weight.used_by]
        others = [r for r in readers if r.op != node.op or r.parameter(1) != name]
        if others:
            return f"its weight is also read by {others[0].layer or others[0].name!r} ({others[0].op})"
        if any(r.layer in excluded or r.name in excluded for r in readers):
            return "it shares its weight with an excluded layer"
        return self._misfit(graph, node, weight.shape)

    def _misfit(self, graph: Graph, node: Node, shape: tuple[int, ...]) -> str | None:
        if node.op not in READABLE and self.criterion in BY_INPUTS:
            return f"{self.criterion} has no rows to compare in a transposed convolution; magnitude and gradient do"
        if self.pattern is None:
            return None
        if node.op not in READABLE:
            return "no kernel takes a pattern of zeros in a transposed convolution"
        pattern, block = self._nm(), self._block()
        columns = block.columns if pattern is None else pattern.m
        if shape[1] % columns:
            return f"its {shape[1]} inputs per group are no multiple of {columns}"
        outputs = shape[0] // _groups(graph, node, shape)
        if outputs % block.rows:
            return f"its {outputs} outputs per group are no multiple of {block.rows}"
        return None


def _groups(graph: Graph, node: Node, shape: tuple[int, ...]) -> int:
    """Of a convolution with this weight: the input's channels lie before the sizes that the kernel has."""
    channels = graph.shape_of(node.values[0])[1 - len(shape)]
    return channels // shape[1] if isinstance(channels, int) else 1
