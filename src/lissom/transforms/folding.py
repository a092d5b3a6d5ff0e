"""`Fold`: batch normalizations merged into the convolution or linear layer before them.

The result is the user's own class. A plain `nn.BatchNorm*d` is replaced by `nn.Identity`; a subclass that does more
than normalize (an activation built in, say) keeps its place with neutral parameters, which is exact up to one
rounding. Formula: `lissom.functional.folding`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from lissom.errors import VerificationError
from lissom.functional.folding import Norm, fold_norm
from lissom.graph.graph import Graph, Node
from lissom.graph.statistics import Statistics
from lissom.graph.trace import Trace
from lissom.target import Target
from lissom.task import Task
from lissom.transforms.base import Action, Cost, Plan, Skip, Stage, Transform, clone

FOLDABLE = {
    "conv1d": 0,
    "conv2d": 0,
    "conv3d": 0,
    "linear": 0,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
}
"""Operator to the output axis of its weight."""

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FoldNorm(Action):
    """Merge `norm` into `layer`."""

    kind: Literal["fold-norm"] = "fold-norm"
    norm: str
    axis: int


class Fold(Transform):
    """Merge each batch normalization into the layer before it; same outputs, fewer operators."""

    stage: ClassVar[Stage] = "fold"
    actions: ClassVar[dict[str, type[Action]]] = {"fold-norm": FoldNorm}

    def plan(self, graph: Graph, statistics: Statistics | None, target: Target) -> Plan:
        actions: list[FoldNorm] = []
        skipped: list[Skip] = []
        calls: dict[str, int] = {}
        for node in graph.nodes:
            calls[node.layer] = calls.get(node.layer, 0) + (node.op in FOLDABLE or node.op == "batch_norm")
        for node in graph.nodes:
            if node.op != "batch_norm":
                continue
            before = graph.by_name.get(node.value(0) or "")
            reason = _refuse(graph, node, before, calls)
            if reason is None and before is not None:
                actions.append(FoldNorm(layer=before.layer, norm=node.layer, axis=FOLDABLE[before.op]))
            else:
                skipped.append(Skip(layer=node.layer or node.name, reason=reason or ""))
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(skipped),
            predicted=_predicted(graph, actions),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        folded = clone(model)
        for action in plan.of(FoldNorm):
            _fold_(folded, action)
        _verify(model, folded, task, len(plan.actions))
        return folded


def _refuse(graph: Graph, norm: Node, before: Node | None, calls: dict[str, int]) -> str | None:
    if before is None or before.op not in FOLDABLE:
        return f"it does not follow a convolution or linear layer (its input is {before.op if before else 'an input'})"
    if len(graph.consumers[before.name]) > 1:
        return f"{before.layer!r} feeds other operators besides this normalization"
    if norm.parameter(3) is None or norm.parameter(4) is None:
        return "it has no running statistics (track_running_stats=False)"
    if not before.layer or before.parameter(1) != f"{before.layer}.weight" or not norm.layer:
        return "its weight is not held by a module of its own"
    if norm.parameter(3) != f"{norm.layer}.running_mean":
        return "its statistics are not held by a module of its own"
    weight = graph.tensor_by_name.get(before.parameter(1) or "")
    if weight is None or len(weight.used_by) > 1:
        return f"the weight of {before.layer!r} is used more than once"
    if calls[before.layer] > 1 or calls[norm.layer] > 1:
        return "it or the layer before it is called more than once"
    return None


def _predicted(graph: Graph, actions: list[FoldNorm]) -> Cost:
    parameters, size = graph.parameters, graph.bytes
    for action in actions:
        for tensor in graph.tensors:
            if tensor.name.startswith(f"{action.norm}."):
                count = 1
                for extent in tensor.shape:
                    count *= extent
                parameters -= count if tensor.trainable else 0
                size -= tensor.bytes
        weight = graph.tensor_by_name[f"{action.layer}.weight"]
        if f"{action.layer}.bias" not in graph.tensor_by_name:
            parameters += weight.shape[action.axis]
            size += weight.shape[action.axis] * 4
    return Cost(macs=graph.macs, parameters=parameters, bytes=size)


@torch.no_grad()
def _fold_(model: nn.Module, action: FoldNorm) -> None:
    layer, norm = model.get_submodule(action.layer), model.get_submodule(action.norm)
    groups = getattr(layer, "groups", 1) if action.axis == 1 else 1
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    stats = Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, float(norm.eps))  # type: ignore[arg-type]
    bias: torch.Tensor | None = layer.bias  # type: ignore[assignment]
    if groups > 1:
        # (in, out / groups, k) has no single output axis: bring it to (in / groups, out, k) and back.
        wide = torch.cat(weight.chunk(groups, 0), 1)
        wide, shift = fold_norm(wide, bias, stats, 1)
        new = torch.cat(wide.chunk(groups, 1), 0)
    else:
        new, shift = fold_norm(weight, bias, stats, action.axis)
    layer.weight = nn.Parameter(new, requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(shift, requires_grad=weight.requires_grad)
    if type(norm) in PLAIN:
        model.set_submodule(action.norm, nn.Identity())
        return
    stats.mean.zero_()
    stats.variance.fill_(1.0)
    if stats.gamma is not None:
        stats.gamma.fill_((1.0 + stats.eps) ** 0.5)
    if stats.beta is not None:
        stats.beta.zero_()


@torch.no_grad()
def _verify(before: nn.Module, after: nn.Module, task: Task, count: int) -> None:
    """Folding is exact algebra: the outputs on the example inputs may differ by rounding only."""
    example = task.example
    pairs: list[torch.Tensor] = []
    for model in (before, after):
        training = model.training
        model.eval()
        outputs = torch.utils._pytree.tree_leaves(model(*example.args, **example.kwargs))
        model.train(training)
        pairs.append(torch.cat([o.double().flatten() for o in outputs if isinstance(o, torch.Tensor)]))
    scale = pairs[0].abs().max().clamp_min(1e-6)
    gap = float((pairs[0] - pairs[1]).abs().max() / scale)
    if not gap < 1e-3:
        raise VerificationError(
            f"Folding {count} batch normalizations changed the output by {gap:.2e} of its range (allowed 1e-3): the "
            "model reads a folded module in a way the graph does not show. Leave Fold out of the recipe."
        )
