"""A plan of `Quantize` written into the traced graph, and what is fitted to data on the way."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from lissom.functional.weightgrid import Grid
from lissom.graph.graph import Graph
from lissom.graph.lockstep import attribute
from lissom.graph.trace import Trace
from lissom.transforms.base import Plan, clone
from lissom.transforms.quantization import grouped, rewrite
from lissom.transforms.quantization.actions import (
    Equalize,
    HalveWeight,
    MultiplyActivations,
    RoundActivation,
    RoundBias,
    RoundDynamically,
    ShiftBias,
    StoreGroups,
    StoreWeight,
)
from lissom.transforms.quantization.attention import take_apart_
from lissom.transforms.quantization.corrections import Halves, equalized
from lissom.transforms.quantization.lookup import look_up_first_
from lissom.transforms.quantization.operators import label
from lissom.transforms.quantization.placement import Reader
from lissom.transforms.quantization.refit import Job, refit_
from lissom.transforms.quantization.simulating import quick


def write(trace: Trace, plan: Plan) -> GraphModule:
    """The rounded model, every weight on the nearest steps of its grid.

    Raises:
        FailureError: a weight holds NaN or infinite values.
    """
    module = inputs_rounded(trace, plan)
    return stored(module, plan, _rounded(module, [action for action in plan.of(StoreWeight) if action.bits < 8]))


def write_fitted(
    trace: Trace, plan: Plan, halves: Halves, *, fitted: bool = True, moves: Literal["none", "biases", "statistics"]
) -> GraphModule:
    """The rounded model, weights `fitted` to data as the plan says, or to the nearest.

    Biases take up the mean error that is left; with "statistics" every channel gets the mean and deviation that it had,
    and normalizations that were not folded those of what they read.
    """
    module = inputs_rounded(trace, plan)
    before = equalized(trace, plan.of(Equalize)).module
    again = moves == "statistics"
    jobs = _jobs(trace.graph, plan, biases=moves != "none", fitted=fitted, rescale=again)
    found = refit_(before, quick(module), jobs, halves.fit, _statistics(trace.graph) if again else {})
    few = [action for action in plan.of(StoreWeight) if action.bits < 8 and not _is_fitted(action)]
    return stored(module, plan, {**found.scales, **_rounded(module, few)}, found.grids)


def fitted_shifts(trace: Trace, plan: Plan, halves: Halves) -> tuple[ShiftBias, ...]:
    """What takes the mean error out of every product that has a bias of its own, weights as the plan says."""
    module = inputs_rounded(trace, plan)
    before = equalized(trace, plan.of(Equalize)).module
    fitted = refit_(before, quick(module), _jobs(trace.graph, plan, biases=True), halves.fit)
    readers = {name: trace.graph.by_name[trace.graph.tensor_by_name[name].used_by[0]] for name in fitted.shifts}
    return tuple(
        ShiftBias(layer=label(readers[name]), parameter=name, shift=tuple(shift.tolist()))
        for name, shift in fitted.shifts.items()
    )


def inputs_rounded(trace: Trace, plan: Plan) -> GraphModule:
    """A copy of the graph with all that comes before the rounding of weights."""
    module = clone(equalized(trace, plan.of(Equalize)).module)
    with torch.no_grad():
        for shifted in plan.of(ShiftBias):
            held = attribute(module, shifted.parameter)
            held.add_(torch.tensor(shifted.shift, dtype=held.dtype))
    for rounded in plan.of(RoundActivation):
        readers = tuple(Reader(node, position) for node, position in rounded.readers)
        rewrite.round_value_(module, rounded.value, readers, rounded.grid, clip=rounded.clip)
    for product in plan.of(MultiplyActivations):
        if product.weights is not None:
            take_apart_(module, product.node, product.weights)
    for dynamic in plan.of(RoundDynamically):
        rewrite.round_dynamically_(module, dynamic.node, dynamic.granularity, dynamic.group, dynamic.dtype)
    return module


def stored(
    module: GraphModule, plan: Plan, scales: Mapping[str, Tensor], grids: Mapping[str, Grid] = MappingProxyType({})
) -> GraphModule:
    """Biases and weights in their final form; `scales` and `grids` of the weights that are on their grid already."""
    spared = [w for w in plan.of(StoreWeight) if w.pairs_fit and w.parameter not in scales]
    scales = {**scales, **{w.parameter: rewrite.spared_scales(module, w.parameter, w.axis) for w in spared}}
    axes = {w.parameter: w.axis for w in plan.of(StoreWeight)}
    for bias in plan.of(RoundBias):
        own, axis = scales.get(bias.weight), axes[bias.weight]
        rewrite.round_bias_(module, bias.parameter, bias.weight, bias.scale, own, axis)
    for weight in plan.of(StoreWeight):
        rewrite.store_weight_(module, weight.parameter, weight.axis, scales.get(weight.parameter))
    for own in plan.of(StoreGroups):
        grouped.store_groups_(module, own, grids.get(own.parameter) or grouped.nearest_grid(module, own))
    look_up_first_(module)
    for half in plan.of(HalveWeight):
        rewrite.halve_weight_(module, half.parameter)
    rewrite.finish_(module)
    return module


def _statistics(graph: Graph) -> dict[str, tuple[str, str]]:
    """Buffers of every batch normalization that has some of its own."""
    found = {node.name: (node.parameter(3), node.parameter(4)) for node in graph.nodes if node.op == "batch_norm"}
    return {
        name: (mean, variance)
        for name, (mean, variance) in found.items()
        if mean and variance and all(graph.tensor_by_name[one].used_by == (name,) for one in (mean, variance))
    }


def _is_fitted(action: StoreWeight) -> bool:
    """Whether `refit` knows the product: convolutions and linear layers."""
    return not action.restored and action.axis == 0


def _rounded(module: GraphModule, actions: list[StoreWeight]) -> dict[str, Tensor]:
    return {w.parameter: rewrite.round_weight_(module, w.parameter, w.bits, w.axis) for w in actions}


def _jobs(graph: Graph, plan: Plan, *, biases: bool, fitted: bool = True, rescale: bool = False) -> dict[str, Job]:
    found: dict[str, Job] = {}
    for action in plan.of(StoreWeight):
        for name in action.nodes if _is_fitted(action) else ():
            bias = graph.by_name[name].parameter(2) if biases else None
            own = bias is not None and graph.tensor_by_name[bias].used_by == (name,)
            alone = len(action.nodes) == 1
            found[name] = Job(
                action.parameter,
                action.bits,
                action.fit if alone and fitted else "nearest",
                bias if own else None,
                action.pairs_fit,
                rescale=rescale and alone,
            )
    for action in plan.of(StoreGroups):
        if action.fit != "nearest" and fitted:
            (name,) = action.nodes
            found[name] = Job(action.parameter, action.bits, action.fit, group=action.group, symmetric=action.symmetric)
    return found
