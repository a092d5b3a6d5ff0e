"""`Fold`: batch normalizations merged into the convolution or linear layer before them.

The result is the user's own class. A plain `nn.BatchNorm*d` is replaced by `nn.Identity`; a subclass that does more
than normalize (an activation built in, say) keeps its place with neutral parameters, which is exact up to one
rounding. Formula: `lissom.functional.folding`.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Protocol, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from lissom.errors import VerificationError
from lissom.functional.folding import Norm, fold_norm
from lissom.graph.graph import Graph, Node
from lissom.graph.trace import Trace, evaluation
from lissom.target import Target
from lissom.task import Task
from lissom.transforms.base import ALONE, Action, Cost, Plan, Skip, Stage, Transform, Work, clone

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

PLAIN = frozenset(
    f"{norm.__module__}.{norm.__qualname__}"
    for norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
)
"""Modules that only normalize, and leave nothing behind once folded."""

ALLOWED_GAP = 1e-3
"""Of the largest output: float32 rounding through a deep network stays well below, a wrong fold far above."""
ROUNDINGS = 16
"""The same in units in the last place, for shorter types (bfloat16: 0.13)."""


class FoldNorm(Action):
    """Merge `norm` into `layer`; `keep` leaves it there with neutral numbers, for what else its class does."""

    kind: Literal["fold-norm"] = "fold-norm"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    norm: str
    axis: int
    keep: bool = False


class Fold(Transform):
    """Merge each batch normalization into the layer before it; same outputs, fewer operators."""

    stage: ClassVar[Stage] = "fold"
    actions: ClassVar[dict[str, type[Action]]] = {"fold-norm": FoldNorm}

    def plan(self, graph: Graph, study: None, target: Target) -> Plan:
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
                keep = node.module not in PLAIN
                axis = FOLDABLE[before.op]
                actions.append(FoldNorm(layer=before.layer, norm=node.layer, axis=axis, keep=keep))
            else:
                skipped.append(Skip(layer=node.layer or node.name, reason=reason or ""))
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(dict.fromkeys(skipped)),
            predicted=_predicted(graph, actions),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        folded = clone(model)
        for action in plan.of(FoldNorm):
            _fold_(folded, action)
        if plan.actions:
            _verify(clone(model), clone(folded), task, len(plan.actions))
        return folded


def _refuse(graph: Graph, norm: Node, before: Node | None, calls: dict[str, int]) -> str | None:
    if before is None or before.op not in FOLDABLE:
        source = before.op if before else "an input"
        return f"it does not follow a convolution or linear layer (its input is {source})"
    if before.op == "linear" and len(before.shape) != 2:
        return f"it normalizes axis 1, and the channels of {before.layer!r} are on the last axis"
    if len(graph.consumers[before.name]) > 1:
        return f"{before.layer!r} feeds other operators besides this normalization"
    if before.name in graph.outputs:
        return f"the output of {before.layer!r} is also an output of the model"
    if norm.parameter(3) is None or norm.parameter(4) is None:
        return "it has no running statistics (track_running_stats=False)"
    if calls[before.layer] > 1 or calls[norm.layer] > 1:
        return "it or the layer before it is called more than once"
    if not _owns(graph, before, {1: "weight", 2: "bias"}):
        return f"weight or bias of {before.layer or before.name!r} are shared, or not parameters of its own"
    if not _owns(graph, norm, {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"}):
        return "its parameters or statistics are shared, or not its own"
    return None


def _owns(graph: Graph, node: Node, names: dict[int, str]) -> bool:
    """Whether the operands at these positions are attributes of the node's own module that nothing else reads."""
    for operand in node.operands:
        if operand.position not in names:
            continue
        name = names[operand.position]
        if operand.kind != "parameter" or not node.layer or operand.source != f"{node.layer}.{name}":
            return False
        tensor = graph.tensor_by_name[operand.source]
        if len(tensor.used_by) > 1 or (name in ("weight", "bias") and not tensor.trainable):
            return False
    return True


def _predicted(graph: Graph, actions: list[FoldNorm]) -> Cost:
    parameters, size = graph.parameters, graph.bytes
    for action in actions:
        if not action.keep:
            for tensor in graph.tensors:
                if tensor.name.startswith(f"{action.norm}."):
                    parameters -= math.prod(tensor.shape) if tensor.trainable else 0
                    size -= tensor.bytes
        if f"{action.layer}.bias" not in graph.tensor_by_name:
            weight = graph.tensor_by_name[f"{action.layer}.weight"]
            channels = graph.tensor_by_name[f"{action.norm}.running_mean"].shape[0]
            parameters += channels
            size += channels * (weight.bytes // math.prod(weight.shape))
    return Cost(macs=graph.macs, parameters=parameters, bytes=size)


@torch.no_grad()
def _fold_(model: nn.Module, action: FoldNorm) -> None:
    layer = cast(_Affine, model.get_submodule(action.layer))
    norm = cast(_Normalizing, model.get_submodule(action.norm))
    if not hasattr(layer, "bias"):
        raise VerificationError(
            f"{action.layer!r} ({type(layer).__name__}) has no attribute `bias` for what {action.norm!r} adds. Give "
            "it one (None will do) and use it in forward(), or leave Fold out of the recipe."
        )
    groups = int(getattr(layer, "groups", 1)) if action.axis == 1 else 1
    weight, bias = layer.weight, layer.bias
    stats = Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    if groups > 1:
        # (in, out / groups, k) has no single output axis: bring it to (in / groups, out, k) and back.
        wide = torch.cat(weight.chunk(groups, 0), 1)
        wide, shift = fold_norm(wide, bias, stats, 1)
        new = torch.cat(wide.chunk(groups, 1), 0)
    else:
        new, shift = fold_norm(weight, bias, stats, action.axis)
    layer.weight = nn.Parameter(new, requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(shift, requires_grad=weight.requires_grad)
    if not action.keep:
        model.set_submodule(action.norm, nn.Identity())
        return
    stats.mean.zero_()
    stats.variance.fill_(1.0 - stats.eps)
    if stats.gamma is not None:
        stats.gamma.fill_(1.0)
    if stats.beta is not None:
        stats.beta.zero_()


class _Affine(Protocol):
    """What a layer to fold into has."""

    weight: nn.Parameter
    bias: nn.Parameter | None


class _Normalizing(Protocol):
    """What a batch normalization has."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: torch.Tensor
    running_var: torch.Tensor
    eps: float


@torch.no_grad()
def _verify(before: nn.Module, after: nn.Module, task: Task, count: int) -> None:
    """Folding is exact algebra: the outputs on the example inputs may differ by rounding only."""
    pairs: list[torch.Tensor] = []
    allowed = ALLOWED_GAP
    for model in (before, after):
        # A forward that writes into its inputs must not change the caller's, nor what the second model sees.
        args, kwargs = pytree.tree_map(_copied, (task.example.args, dict(task.example.kwargs)))
        with evaluation(model):
            outputs = pytree.tree_leaves(model(*args, **kwargs))
        real = [o for o in outputs if isinstance(o, torch.Tensor) and o.is_floating_point()]
        allowed = max([allowed, *(ROUNDINGS * torch.finfo(o.dtype).eps for o in real)])
        pairs.append(torch.cat([o.double().flatten() for o in real]) if real else torch.zeros(1))
    scale = pairs[0].abs().max().clamp_min(1e-6)
    gap = float((pairs[0] - pairs[1]).abs().max() / scale)
    if not gap <= allowed:
        raise VerificationError(
            f"Folding {count} batch normalizations changed the output by {gap:.2e} of its range (allowed "
            f"{allowed:.0e}): the model reads a folded module in a way the graph does not show. Leave Fold out of the "
            "recipe."
        )


def _copied(leaf: object) -> object:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
