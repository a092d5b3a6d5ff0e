"""`Sparsify`: single weights of convolutions and linear layers set to zero.

The result is the user's own class with the shapes it had: zeros are stored and multiplied like any other number, so
file, memory and latency stay what they were. What zeros buy is a file that compresses well afterwards, and speed on a
runtime that skips them. `Finetune` keeps them zero. Formulas: `lissom.functional.sparsity`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

import pydantic
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import DataError, RecipeError
from lissom.functional import sparsity as maths
from lissom.graph.graph import Graph, Node
from lissom.graph.moments import PRODUCTS, READABLE, input_moments
from lissom.graph.select import select
from lissom.graph.statistics import check_inputs
from lissom.graph.trace import Trace
from lissom.settings import Setting
from lissom.target import Target
from lissom.task import Batch, Split, Task, sliced
from lissom.training.objective import checked
from lissom.transforms.base import ALONE, Action, Cost, Plan, Skip, Stage, Transform, Work, calibration_split, clone

MOST = 0.99
"""Share of its weights that a layer can lose to the global ranking: no layer dies while others keep everything."""


class ZeroWeights(Action):
    """Set `zeros` of the `size` weights of `parameter` to zero; `nodes` multiply by it."""

    kind: Literal["zero-weights"] = "zero-weights"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    zeros: int
    size: int
    nodes: tuple[str, ...]


class Shares(Setting):
    """What the global ranking gives each weight to lose, by parameter."""

    zeros: dict[str, int]


class Sparsify(Transform):
    """Unstructured pruning: the share `ratio` of single weights becomes zero.

    `criterion` says which: "magnitude" the smallest; "gradient" those whose weight times gradient is smallest (needs
    `Task.loss` and labelled `Task.train` or `Task.calibration`); "wanda" those whose weight times the norm of its input
    is smallest in its row; "sparsegpt" those that the others can best make up for, and makes up for them. The last two
    need `Task.calibration` or `Task.train`, without labels. `samples` is how many examples are used.

    `scope="local"` cuts the ratio from every layer; "global" ranks the weights of all layers together, for magnitude
    and gradient. `exclude` holds patterns of layers that stay dense (`"conv1"`, `"layer3.*"`).
    """

    stage: ClassVar[Stage] = "structure"
    actions: ClassVar[dict[str, type[Action]]] = {"zero-weights": ZeroWeights}

    ratio: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.5
    criterion: Literal["magnitude", "gradient", "wanda", "sparsegpt"] = "magnitude"
    scope: Literal["local", "global"] = "local"
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    exclude: tuple[str, ...] = ()

    @pydantic.model_validator(mode="after")
    def _comparable(self) -> Sparsify:
        if self.scope == "global" and self.criterion in ("wanda", "sparsegpt"):
            # RecipeError is no ValueError, so pydantic lets it through instead of wrapping it.
            raise RecipeError(
                f"Sparsify(criterion={self.criterion!r}, scope='global') cannot rank weights of different layers: its "
                "scores are in the units of each layer's own output. Use scope='local', or criterion='magnitude' or "
                "'gradient'."
            )
        return self

    def needs(self) -> frozenset[Split]:
        return frozenset() if self.criterion == "magnitude" else frozenset({"calibration"})

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Shares | None:
        """For the global scope, what each layer loses; else only a look whether the data are there.

        Raises:
            DataError: the criterion needs data or a loss that the task lacks, or they do not fit the model.
            RecipeError: an `exclude` pattern matches nothing.
        """
        if self.criterion != "magnitude":
            self._split(task)
        chosen, _ = self._chosen(trace.graph)
        if self.scope == "local" or not chosen:
            return None
        if self.criterion == "gradient":
            scores = self._gradient_scores(trace, task, chosen, work)
        else:
            scores = {name: trace.module.get_parameter(name).detach().abs().float() for name in chosen}
        return Shares(zeros=maths.zeros_by_layer(scores, self.ratio, max(MOST, self.ratio)))

    def plan(self, graph: Graph, study: Shares | None, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing, or the global scope has not been studied.
        """
        chosen, skipped = self._chosen(graph)
        if self.scope == "global" and study is None and chosen:
            raise RecipeError("Sparsify(scope='global') ranks weights, and a plan sees none: call study() first.")
        actions: list[ZeroWeights] = []
        for name, nodes in chosen.items():
            shape = graph.tensor_by_name[name].shape
            size = math.prod(shape)
            label = nodes[0].layer or nodes[0].name
            zeros = study.zeros[name] if study else self._local_zeros(shape)
            if zeros:
                at = tuple(node.name for node in nodes)
                actions.append(ZeroWeights(layer=label, parameter=name, zeros=zeros, size=size, nodes=at))
            else:
                reason = "all its weights rank above those that go" if study else f"{self.ratio:g} of it is no weight"
                skipped.append(Skip(layer=label, reason=reason))
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(dict.fromkeys(skipped)),
            # Zeros take as much room as other numbers.
            predicted=Cost(macs=graph.macs, parameters=graph.parameters, bytes=graph.bytes),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """
        Raises:
            DataError: the criterion needs data or a loss that the task lacks, or they do not fit the model.
        """
        sparse = clone(model)
        actions: list[ZeroWeights] = plan.of(ZeroWeights)
        if not actions:
            return sparse
        seen = self._evidence(trace, task, actions, work)
        for action in actions:
            weight = sparse.get_parameter(action.parameter)
            with torch.no_grad():
                weight.copy_(self._sparse(weight, seen.pop(action.parameter, None), action.zeros))
        work.tick(1.0)
        return sparse

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return clone(model)

    def _local_zeros(self, shape: tuple[int, ...]) -> int:
        size = math.prod(shape)
        if self.criterion == "wanda":
            return shape[0] * maths.zeros_of(self.ratio, size // shape[0])
        return maths.zeros_of(self.ratio, size)

    def _evidence(self, trace: Trace, task: Task, actions: list[ZeroWeights], work: Work) -> dict[str, Tensor]:
        """What the criterion has to know beyond the weights, by parameter, in one pass over the data."""
        match self.criterion:
            case "magnitude":
                return {}
            case "gradient":
                nodes = {a.parameter: [trace.graph.by_name[n] for n in a.nodes] for a in actions}
                return self._gradient_scores(trace, task, nodes, work)
            case "wanda" | "sparsegpt":
                found = input_moments(
                    trace,
                    task.batches(self._split(task), limit=self.samples),
                    [node for action in actions for node in action.nodes],
                    full=self.criterion == "sparsegpt",
                    progress=lambda n: work.tick(0.9 * min(1.0, n / self.samples)),
                )
                # A weight that is used twice reads the rows of both uses.
                return {a.parameter: cast(Tensor, sum(found.pop(node) for node in a.nodes)) for a in actions}

    def _sparse(self, weight: Tensor, seen: Tensor | None, zeros: int) -> Tensor:
        rows = weight.detach().float().flatten(1)
        if self.criterion == "magnitude" or seen is None:
            return weight * maths.keep_largest(weight.detach().abs().float(), zeros)
        if self.criterion == "gradient":
            return weight * maths.keep_largest(seen, zeros)
        # seen has one entry per group; the rows of a group follow each other.
        parts = rows.chunk(len(seen))
        if self.criterion == "wanda":
            scores = torch.cat([maths.wanda_scores(part, own) for part, own in zip(parts, seen, strict=True)])
            return weight * maths.keep_largest_in_rows(scores, zeros // len(rows)).reshape(weight.shape)
        due = [zeros * i // len(seen) for i in range(len(seen) + 1)]
        made = [
            maths.sparse_gpt(part, own, stop - start)
            for part, own, (start, stop) in zip(parts, seen, itertools.pairwise(due), strict=True)
        ]
        return torch.cat(made).reshape(weight.shape).to(weight.dtype)

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

    def _gradient_scores(
        self, trace: Trace, task: Task, weights: Mapping[str, list[Node]], work: Work
    ) -> dict[str, Tensor]:
        """Mean over batches of |w dL/dw|, by parameter, in evaluation mode."""
        split, loss = self._split(task), task.loss
        assert loss is not None
        module = clone(trace.module)
        parameters = {name: module.get_parameter(name).requires_grad_(True) for name in weights}
        total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        done = 0
        for batch in _whole(task.batches(split, limit=self.samples), trace.graph.fixed_batch):
            if batch.target is None:
                raise DataError(
                    f"Sparsify(criterion='gradient') needs labels, and Task({split}=...) gives none. Give batches of "
                    "(input, target), or use criterion='magnitude', 'wanda' or 'sparsegpt'."
                )
            check_inputs(trace.graph, pytree.tree_leaves((batch.args, dict(batch.kwargs))))
            for name, gradient in _gradients(module, batch, loss, parameters).items():
                total[name] += (parameters[name].detach() * gradient).abs()
            done += batch.size
            work.tick(0.9 * min(1.0, done / self.samples))
        if not done:
            raise DataError(
                f"The model takes batches of exactly {trace.graph.fixed_batch} examples, and Task({split}=...) has "
                "none of that size. Give batches of that size."
            )
        for name, score in total.items():
            if not torch.isfinite(score).all():
                raise DataError(
                    f"The loss has infinite or NaN gradients at {name!r} on Task({split}=...); look for overflow in "
                    "the model or the loss before compressing."
                )
        return total

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
        if self.criterion in ("wanda", "sparsegpt") and node.op not in READABLE:
            return f"{self.criterion} has no rows to compare in a transposed convolution; magnitude and gradient do"
        return None


def _whole(batches: Iterable[Batch], size: int | None) -> Iterable[Batch]:
    """The batches, in whole pieces of `size` where the traced program takes no other."""
    for batch in batches:
        if size is None:
            yield batch
            continue
        for start in range(0, batch.size - size + 1, size):
            yield sliced(batch, start, start + size)


def _gradients(
    module: GraphModule, batch: Batch, loss: Callable[[Any, Any], Tensor], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    with torch.enable_grad():
        value = checked(loss(module(*batch.args, **batch.kwargs), batch.target))
        # A weight that the loss does not depend on gets zeros.
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))
