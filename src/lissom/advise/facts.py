"""What decides which methods fit: where a model's products and numbers are, what can be cut, what data there are."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from lissom.graph.graph import Graph, Node
from lissom.search.opening import ATTENTIVE, learns_classes
from lissom.settings import Setting
from lissom.target import Target
from lissom.task import SPLITS, Split, Task
from lissom.transforms.quantization.operators import KINDS

Part = Literal["convolution", "depthwise", "linear", "attention", "embedding", "recurrent"]
PARTS: tuple[Part, ...] = ("convolution", "depthwise", "linear", "attention", "embedding", "recurrent")
ModelKind = Literal["convolutional", "transformer", "recurrent", "tables", "dense"]
"""Kinds of model that figures are compared within."""

_PARTS: dict[str, Part] = {
    "conv": "convolution",
    "transposed_conv": "convolution",
    "linear": "linear",
    "matmul": "attention",
    "attention": "attention",
    "embedding": "embedding",
    "recurrent": "recurrent",
}


class Share(Setting):
    """Of one kind of layer, in the whole model: shares of the multiply-accumulates and of the parameters."""

    macs: float
    parameters: float


class Channels(Setting):
    """Coupled channels: how many there are, how many can be cut, and why most of the others cannot."""

    total: int
    free: int
    groups: int
    free_groups: int
    reason: str | None


class Facts(Setting):
    """A model, its task and a target, as far as they decide. No tensors, no modules; JSON."""

    kind: ModelKind
    macs: int
    parameters: int
    bytes: int
    shares: dict[Part, Share]
    integer_share: float
    """Share of the multiply-accumulates that the target has static integer kernels for."""
    dynamic_share: float
    """The same of kernels that take ranges at run time."""
    stored_share: float
    """Share of the parameters that the target restores from integers while it computes in float."""
    channels: Channels
    blocks: int
    """Residual blocks that can be taken out."""
    splits: tuple[Split, ...]
    """Data that the task has."""
    loss: bool
    metric: bool
    classes: bool
    """Whether targets are classes, so that a teacher's answers can be learned as probabilities."""
    answer_bytes: int
    """What the outputs for one example take in half precision, as answers of a teacher are kept."""
    attentive: bool
    """Whether it holds operators of models that plain SGD trains badly."""
    real_inputs: bool
    """Whether all inputs are floating-point numbers, so that inputs can be made up."""

    @property
    def observed(self) -> bool:
        """Whether there are real inputs to calibrate on."""
        return bool({"calibration", "train"} & set(self.splits))

    @property
    def trains(self) -> bool:
        return "train" in self.splits and self.loss

    @property
    def judged(self) -> bool:
        """Whether choices can be made by the metric."""
        return "validation" in self.splits and self.metric

    def share(self, part: Part) -> Share:
        return self.shares.get(part, Share(macs=0.0, parameters=0.0))


def facts_of(graph: Graph, task: Task, target: Target, *, blocks: int) -> Facts:
    """The facts of a graph that has its channel groups (`lissom.analyze`); `blocks` as `graph.blocks` finds them."""
    macs, parameters = _by_part(graph)
    all_macs, all_parameters = max(graph.macs, 1), max(graph.parameters, 1)
    shares: dict[Part, Share] = {
        part: Share(macs=macs[part] / all_macs, parameters=parameters[part] / all_parameters)
        for part in PARTS
        if macs[part] or parameters[part]
    }
    kinds = [(KINDS.get(node.op), node) for node in graph.nodes]
    stored = [p for p, kind in _stored(graph) if kind in target.weights.ops]
    trains = task.has("train") and task.loss is not None
    attentive = bool(ATTENTIVE & {node.op for node in graph.nodes})
    return Facts(
        kind=_kind(shares, attentive=attentive),
        macs=graph.macs,
        parameters=graph.parameters,
        bytes=graph.bytes,
        shares=shares,
        integer_share=sum(node.macs for kind, node in kinds if kind in target.integers.ops) / all_macs,
        dynamic_share=sum(node.macs for kind, node in kinds if kind in target.dynamic.ops) / all_macs,
        stored_share=min(1.0, sum(stored) / all_parameters),
        channels=_channels(graph),
        blocks=blocks,
        splits=tuple(split for split in SPLITS if task.has(split)),
        loss=task.loss is not None,
        metric=task.metric is not None,
        classes=trains and learns_classes(task),
        answer_bytes=_answer_bytes(graph, task),
        attentive=attentive,
        real_inputs=all(dtype.startswith(("float", "bfloat")) for dtype in graph.input_dtypes),
    )


def _answer_bytes(graph: Graph, task: Task) -> int:
    def values(name: str) -> int:
        shape = graph.shape_of(name)
        count = math.prod(size for size in shape if isinstance(size, int))
        return count if "N" in shape else count // task.example.size

    return 2 * sum(values(name) for name in graph.outputs)


def _by_part(graph: Graph) -> tuple[Counter[Part], Counter[Part]]:
    """Multiply-accumulates and parameters of each kind of layer; a parameter that is read twice counts once."""
    macs, parameters = Counter[Part](), Counter[Part]()
    seen: set[str] = set()
    for node in graph.nodes:
        part = _part(graph, node)
        if part is None:
            continue
        macs[part] += node.macs
        for operand in node.operands:
            if operand.kind == "parameter" and operand.source not in seen:
                seen.add(operand.source)
                parameters[part] += math.prod(graph.tensor_by_name[operand.source].shape)
    return macs, parameters


def _part(graph: Graph, node: Node) -> Part | None:
    part = _PARTS.get(KINDS.get(node.op, ""))
    weight = node.parameter(1)
    if part == "convolution" and weight is not None:
        shape = graph.tensor_by_name[weight].shape
        # (out, in / groups, *kernel): one input channel for every output.
        return "depthwise" if shape[1] == 1 and shape[0] > 1 and not _one_channel(graph, node) else part
    return part


def _one_channel(graph: Graph, node: Node) -> bool:
    """Whether the layer reads a single channel, as the first layer on grey images does."""
    source = graph.shape_of(node.values[0]) if node.values else ()
    return len(source) > 1 and source[1] == 1


def _stored(graph: Graph) -> list[tuple[int, str]]:
    """Parameters of each weight with the kind of layer that reads it."""
    found: dict[str, tuple[int, str]] = {}
    for node in graph.nodes:
        kind = KINDS.get(node.op)
        for operand in node.operands:
            tensor = graph.tensor_by_name.get(operand.source)
            if kind and operand.kind == "parameter" and tensor and len(tensor.shape) > 1:
                found[operand.source] = (math.prod(tensor.shape), kind)
    return list(found.values())


def _kind(shares: dict[Part, Share], *, attentive: bool) -> ModelKind:
    def macs(*parts: Part) -> float:
        return sum(shares[part].macs for part in parts if part in shares)

    if "embedding" in shares and shares["embedding"].parameters >= 0.5 and not attentive and "recurrent" not in shares:
        return "tables"
    named: dict[ModelKind, float] = {
        "convolutional": macs("convolution", "depthwise"),
        "recurrent": macs("recurrent"),
        "transformer" if attentive else "dense": macs("linear", "attention"),
    }
    return max(named, key=lambda kind: named[kind])


def _channels(graph: Graph) -> Channels:
    free = [group for group in graph.groups if group.reason is None]
    reasons = Counter(group.reason for group in graph.groups if group.reason is not None)
    return Channels(
        total=sum(group.size for group in graph.groups),
        free=sum(group.size for group in free),
        groups=len(graph.groups),
        free_groups=len(free),
        reason=reasons.most_common(1)[0][0] if reasons else None,
    )
