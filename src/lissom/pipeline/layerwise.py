"""What each method does to each layer by itself, for the heat map of a search.

    effect (l, m) = metric (w) - metric (w with w_l := m(w_l)),     and the rise of the loss likewise

    prune    half of the outputs, those with the smallest |w_i|_2, are zero          (Li et al. 2017, arXiv:1608.08710)
    rank     the nearest matrix with half of the products: r = floor(m n / 2 (m + n))      (Eckart and Young 1936)
    int8, int4    w rounded symmetrically, one scale for each output

One layer is changed at a time, nothing is fitted or trained afterwards, activations stay as they are. So the figures
tell layers apart; they do not foretell what a recovered network reaches. A weight that several layers read is changed
for all of them and stands under the first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.functional.importance import magnitude
from lissom.functional.svd import factors
from lissom.functional.weightgrid import grid
from lissom.graph.graph import Graph
from lissom.graph.trace import evaluation
from lissom.measure.quality import evaluate
from lissom.measure.search_records import LayerEffect, LayerSensitivity
from lissom.metrics import as_metric
from lissom.search import Space
from lissom.task import Batch, Task

EXAMPLES, FEW = 256, 16
SECONDS, SHARE = 60.0, 0.05
"""What it may take: without a budget, and of a budget."""
LOOKS = 4
"""So many looks must fit at least, or none is taken."""
OPS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})


def layers_seconds(budget: float | None) -> float:
    """What it may take of a budget in seconds."""
    return SECONDS if budget is None else min(SECONDS, SHARE * budget)


def half_pruned(weight: Tensor) -> Tensor:
    """`(rows, n)` without the half of its rows, rounded down, that are smallest."""
    kept = magnitude(weight, 2).argsort(descending=True, stable=True)[: weight.shape[0] - weight.shape[0] // 2]
    made = torch.zeros_like(weight)
    made[kept] = weight[kept]
    return made


def half_ranked(weight: Tensor) -> Tensor:
    """`(rows, n)` of the rank at which its two factors have half of its products, and at least of rank 1."""
    rows, columns = weight.shape
    left, right = factors(weight, max(1, rows * columns // (2 * (rows + columns))))
    return (left @ right).to(weight.dtype)


METHODS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "prune": half_pruned,
    "rank": half_ranked,
    "int8": lambda weight: grid(weight, 8).rounded(weight),
    "int4": lambda weight: grid(weight, 4).rounded(weight),
}


def open_methods(space: Space) -> tuple[str, ...]:
    """Those that a search of the space may use; int8 weights are those of dynamic quantization, too."""
    rounds = {"int8" if one == "dynamic" else one for one in space.precision}
    return tuple(name for name in METHODS if name in rounds or name in space.open)


def layer_sensitivity(
    model: nn.Module,
    task: Task,
    graph: Graph,
    space: Space,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> LayerSensitivity:
    """On the first validation examples, layer by layer from the costliest on, as far as `seconds` reach.

    The model is not changed. Cells there is no time for are missing, and counted in `left`.
    """
    weights = dict(_weights(model, graph))
    methods = open_methods(space)
    cells = [(layer, name, method) for layer, name in weights.items() for method in methods]
    end = clock() + seconds
    effects: list[LayerEffect] = []
    examples = 0
    with evaluation(model):
        began = clock()
        _look(model, task, {}, FEW)
        if LOOKS * (clock() - began) * EXAMPLES / FEW <= seconds and cells:
            metric, loss, examples = _look(model, task, {}, EXAMPLES)
            for layer, name, method in cells:
                if clock() > end:
                    break
                own = model.state_dict()[name].detach()
                changed = METHODS[method](own.flatten(1).float()).reshape(own.shape).to(own.dtype)
                other, risen, _ = _look(model, task, {name: changed}, EXAMPLES)
                rise = None if risen is None or loss is None else risen - loss
                effects.append(LayerEffect(layer=layer, method=method, drop=metric - other, loss=rise))
    return LayerSensitivity(examples=examples, effects=tuple(effects), left=len(cells) - len(effects))


def _weights(model: nn.Module, graph: Graph) -> Iterator[tuple[str, str]]:
    """Layers and the names of their weights, the costliest layer first."""
    held, seen = model.state_dict(), set[str]()
    for node in sorted((n for n in graph.nodes if n.op in OPS), key=lambda node: -node.macs):
        name = node.parameter(1)
        if name in held and name not in seen and held[name].is_floating_point():
            seen.add(name)
            yield node.layer or node.name, name


@torch.no_grad()
def _look(
    model: nn.Module, task: Task, changed: Mapping[str, Tensor], examples: int
) -> tuple[float, float | None, int]:
    """Metric, loss (None without one) and how many examples they are of, with these weights."""
    total, count = 0.0, 0

    def predict(batch: Batch) -> Any:
        nonlocal total, count
        outputs = torch.func.functional_call(model, dict(changed), batch.args, dict(batch.kwargs), tie_weights=True)
        if task.loss is not None and batch.target is not None:
            total += float(task.loss(outputs, batch.target)) * batch.size
            count += batch.size
        return outputs

    found = evaluate(predict, task.batches("validation", limit=examples), as_metric(task.metric), split="validation")
    loss = total / count if count else None
    return found.value, loss if loss is not None and math.isfinite(loss) else None, found.samples
