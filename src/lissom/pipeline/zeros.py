"""What of the weights is exactly zero: by layer, in all, and whether a pattern that was asked for still holds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lissom.functional.blocks import Block, pattern_of
from lissom.graph.lockstep import attribute
from lissom.graph.trace import Trace
from lissom.pipeline.transforming import Step
from lissom.transforms.sparsity import ZeroWeights


def unrounded(steps: Sequence[Step], after: Trace) -> Trace:
    """The compressed model as it was before its numbers were rounded, which hides its parameters."""
    return steps[-1].trace if steps and steps[-1].transform.stage == "quantize" else after


def nonzeros(trace: Trace) -> int:
    """Trainable parameters that are not exactly zero."""
    return sum(int(_weight(trace, one.name).count_nonzero()) for one in trace.graph.tensors if one.trainable)


def zero_shares(steps: Sequence[Step], after: Trace) -> dict[str, tuple[float, str]]:
    """Layer to the share of its weight that is zero and the pattern that it has of those that were asked for; only
    layers that `Sparsify` made sparse."""
    trace = unrounded(steps, after)
    found: dict[str, tuple[float, str]] = {}
    for step in steps:
        for action in step.plan.of(ZeroWeights):
            if action.parameter in trace.graph.tensor_by_name:
                weight = _weight(trace, action.parameter)
                held = _held(action, weight)
                share = 1 - int(weight.count_nonzero()) / weight.numel()
                found[action.layer] = (share, action.pattern or "" if held else "")
    return found


def _held(action: ZeroWeights, weight: Tensor) -> bool:
    """Whether the weight has the pattern that was asked for, if one was."""
    if action.pattern is None:
        return False
    pattern = pattern_of(action.pattern)
    return pattern.held_by(weight, action.zeros) if isinstance(pattern, Block) else pattern.held_by(weight)


def _weight(trace: Trace, name: str) -> Tensor:
    return attribute(trace.module, name).detach()
