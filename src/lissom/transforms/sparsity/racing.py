"""Whether a layer in its pattern is faster than the dense layer: measured on the target, one beside the other.

Asked only where the target's table says that it has kernels for the pattern. The layer runs by itself on random inputs
of the shape that it meets for one example, with its weights as they are and with the smallest in every group set to
zero. Equal layers (class, weight shape, stride, input shape) are timed once. It is faster if the 95 % interval of
dense / sparse, paired by round, lies above 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lissom.functional.nm import Pattern
from lissom.graph.graph import Graph, Node
from lissom.measure.latency import paired_ratio
from lissom.task import Batch
from lissom.transforms.base import Race, clone
from lissom.transforms.sparsity.actions import Timed
from lissom.transforms.sparsity.masking import patterned

DENSE, SPARSE = "dense", "sparse"


def time_layers(
    model: nn.Module, graph: Graph, weights: Mapping[str, Sequence[Node]], pattern: Pattern, race: Race
) -> dict[str, Timed]:
    """Every weight of a module that the model calls, timed; by parameter."""
    known: dict[str, Timed] = {}
    found: dict[str, Timed] = {}
    for name, nodes in weights.items():
        path = name.rpartition(".")[0]
        module = model.get_submodule(path) if name.endswith(".weight") else None
        if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            continue
        shape = _reads(graph, nodes[0])
        signature = f"{module}, {module.weight.dtype}, on {shape}"
        if signature not in known:
            known[signature] = _time(module, shape, pattern, race)
        found[name] = known[signature]
    return found


def _reads(graph: Graph, node: Node) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in graph.shape_of(node.values[0]))


@torch.no_grad()
def _time(module: nn.Module, shape: tuple[int, ...], pattern: Pattern, race: Race) -> Timed:
    dense, sparse = clone(module).cpu().eval(), clone(module).cpu().eval()
    weight = cast(Tensor, sparse.weight)
    weight.copy_(patterned(weight, "magnitude", None, pattern))
    draws = torch.Generator().manual_seed(0)
    samples = race({DENSE: dense, SPARSE: sparse}, Batch((torch.randn(shape, generator=draws).to(weight.dtype),)))
    ratio = paired_ratio(samples[DENSE], samples[SPARSE])
    return Timed(
        dense_ms=float(np.median(samples[DENSE])),
        sparse_ms=float(np.median(samples[SPARSE])),
        low=ratio.low,
        high=ratio.high,
    )
