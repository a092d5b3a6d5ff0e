"""Corrections of the rounding error that are kept only if they help.

The calibration examples fall into two halves: corrections are fitted on one, and the error of the rounded model is
measured on the other, as the squared error of the model's first floating-point output relative to its square. A
correction whose error is not smaller is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pydantic
import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.functional.ranges import Range, range_of
from lissom.graph.graph import Graph
from lissom.graph.lockstep import MEMORY, example_bytes
from lissom.graph.statistics import Statistics, run_over
from lissom.graph.trace import Trace
from lissom.settings import Setting
from lissom.task import Batch, fitting, sliced
from lissom.transforms.base import clone
from lissom.transforms.quantization.actions import Equalize, ShiftBias
from lissom.transforms.quantization.equalizing import (
    Pair,
    cross_layer,
    equalizations,
    equalize_,
    smoothing,
)
from lissom.transforms.quantization.precision import Precision
from lissom.transforms.quantization.simulating import quick

Correction = Literal["equalize", "smooth", "awq", "gptq", "adaround", "bias", "reestimate"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
"""In the order in which they are tried."""
RESCALINGS: tuple[Correction, ...] = ("equalize", "smooth")
ROUNDINGS: tuple[Correction, ...] = ("gptq", "adaround")
EXAMPLES, FITTED = 128, 512
"""Calibration examples, both halves together, for corrections that the plan holds, and for rounding; fewer where their
values would not fit in memory."""
WORTHWHILE = 0.95
"""Share of the error that a rescaling may leave: less gain is not worth observing all ranges anew."""
ENOUGH = 32
"""Examples below which `corrections="auto"` tries nothing: what helps half of them may not help the other half."""


class Corrected(Setting):
    """Corrections that were accepted."""

    equalizations: tuple[Equalize, ...] = ()
    shifts: tuple[ShiftBias, ...] = ()


class Findings(Statistics):
    """What was seen of activations after the corrections that were accepted."""

    corrected: Corrected = Corrected()
    precisions: dict[str, Precision] = pydantic.Field(default_factory=dict[str, Precision])
    """Bits of nodes that the work found, in place of those that the recipe asks for."""
    reasons: dict[str, str] = pydantic.Field(default_factory=dict[str, str])
    """Why, for those of them that compute in float."""
    later: dict[str, str] = pydantic.Field(default_factory=dict[str, str])
    """Nodes of `mode="hybrid"` whose inputs get their ranges at run time, and why."""

    @classmethod
    def of(cls, seen: Statistics, corrected: Corrected, like: Statistics | None = None) -> Findings:
        """What was seen, with the decisions about nodes of `like`, or of `seen` itself."""
        fields = {name: getattr(seen, name) for name in Statistics.model_fields}
        decided = like if isinstance(like, Findings) else seen
        if isinstance(decided, Findings):
            fields |= {name: getattr(decided, name) for name in ("precisions", "reasons", "later")}
        return cls(**fields, corrected=corrected)


@dataclass(frozen=True)
class Trial:
    """A correction of `layers` layers, and the error on held-out examples without and with it."""

    name: Correction
    layers: int
    before: float
    after: float
    accepted: bool

    def note(self) -> JsonValue:
        """As it is saved with the step."""
        return {
            "name": self.name,
            "layers": self.layers,
            "error_before": self.before,
            "error_after": self.after,
            "accepted": self.accepted,
        }


@dataclass(frozen=True, eq=False)
class Halves:
    """Examples that corrections are fitted on, and examples that they are judged on."""

    fit: list[Batch]
    judge: list[Batch]

    @property
    def examples(self) -> int:
        return sum(batch.size for batch in (*self.fit, *self.judge))


def halved(module: GraphModule, graph: Graph, batches: Iterable[Batch], examples: int) -> Halves:
    """Every batch cut in two, until there are `examples`; batches of one example fall to either side in turn.

    Both sides may be empty.
    """
    made = Halves([], [])
    left = min(examples, max(2, MEMORY // example_bytes(module)))
    for batch in batches:
        batch = sliced(batch, 0, left) if batch.size > left else batch
        left -= batch.size
        middle = batch.size // 2
        if middle:
            made.fit.append(sliced(batch, 0, middle))
            made.judge.append(sliced(batch, middle, batch.size))
        else:
            (made.fit if len(made.fit) <= len(made.judge) else made.judge).append(batch)
        if left <= 0:
            break
    return Halves(
        [piece for batch in made.fit for piece in fitting(batch, graph.fixed_batch)],
        [piece for batch in made.judge for piece in fitting(batch, graph.fixed_batch)],
    )


@torch.no_grad()
def first_outputs(module: nn.Module, batches: Iterable[Batch]) -> list[Tensor]:
    """The first floating-point output of `module` for every batch; none where it has no such output."""
    found: list[Tensor] = []
    module = quick(module)
    for batch in batches:
        leaves = pytree.tree_leaves(module(*batch.args, **dict(batch.kwargs)))
        found += [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()][:1]
    return found


def relative_error(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Sum of (wanted - got)^2 over the sum of wanted^2."""
    signal = sum(float(w.double().square().sum()) for w in wanted)
    noise = sum(float((w.double() - g.double()).square().sum()) for w, g in zip(wanted, got, strict=True))
    return noise / max(signal, 1e-300)


def glance(trace: Trace, batches: Iterable[Batch], watch: Collection[str]) -> Statistics:
    """Smallest and largest value of every watched node, whole batches at a time: quicker than `observe`."""
    watcher = _Ranges(trace.module, watch)
    return Statistics(examples=run_over(watcher, trace.graph, batches), ranges=watcher.found)


class _Ranges(Interpreter):
    def __init__(self, module: GraphModule, watch: Collection[str]) -> None:
        super().__init__(module)
        self._watch = watch
        self.found: dict[str, Range] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        seen = range_of(value) if n.name in self._watch and isinstance(value, Tensor) else None
        if seen is not None:
            self.found[n.name] = self.found[n.name].merge(seen) if n.name in self.found else seen
        return value


def equalized(trace: Trace, actions: Sequence[Equalize]) -> Trace:
    """The trace of the model with its channels rescaled."""
    if not actions:
        return trace
    module = clone(trace.module)
    equalize_(module, actions)
    return replace(trace, module=module)


def compared(trace: Trace, halves: Halves, name: Correction, layers: int, before: nn.Module, after: nn.Module) -> Trial:
    """Whether the rounded model `after` is closer to the original than `before` is."""
    wanted = first_outputs(trace.module, halves.judge)
    errors = [relative_error(wanted, first_outputs(module, halves.judge)) for module in (before, after)]
    return Trial(name, layers, errors[0], errors[1], errors[1] < errors[0])


@dataclass(frozen=True, eq=False)
class Bench:
    """What corrections are tried on, and with.

    `observe` looks at all calibration data as the recipe wants it; `glance` takes the smallest and largest values of
    the examples that corrections are fitted on. `rounded` makes the rounded model from either (`glanced` says which),
    `shifted` fits biases to it.
    """

    trace: Trace
    halves: Halves
    pairs: Sequence[Pair]
    observe: Callable[[Trace], Statistics]
    glance: Callable[[Trace], Statistics]
    rounded: Callable[[Findings, bool], nn.Module]
    shifted: Callable[[Findings], tuple[ShiftBias, ...]]


def corrected(bench: Bench, seen: Statistics, names: Collection[Correction]) -> tuple[Findings, list[Trial]]:
    """The corrections of `names` that help, each on top of those accepted before it, and all that was tried.

    Rescaled channels have other ranges. While they are tried, all ranges are those of a glance; what was worthwhile is
    looked at again with the ranges that the recipe wants, all together, and the errors of its trials are those.
    """
    best, trials = Findings.of(seen, Corrected()), list[Trial]()
    wanted = first_outputs(bench.trace.module, bench.halves.judge)
    if not wanted:
        return best, trials

    def error(found: Findings, glanced: bool) -> float:
        return relative_error(wanted, first_outputs(bench.rounded(found, glanced), bench.halves.judge))

    found = _rescaled(bench, names, error, trials)
    least = error(best, False) if found or "bias" in names else 0.0
    if found:
        scaled = Corrected(equalizations=found)
        candidate = Findings.of(bench.observe(equalized(bench.trace, found)), scaled)
        after = error(candidate, False)
        kept = after < least
        trials[:] = [replace(t, before=least, after=after, accepted=kept) if t.accepted else t for t in trials]
        if kept:
            best, least = candidate, after
    if "bias" in names and (shifts := bench.shifted(best)):
        candidate = Findings.of(best, best.corrected.model_copy(update={"shifts": shifts}))
        after = error(candidate, False)
        trials.append(Trial("bias", len(shifts), least, after, after < least))
        best = candidate if after < least else best
    return best, trials


def _rescaled(
    bench: Bench,
    names: Collection[Correction],
    error: Callable[[Findings, bool], float],
    trials: list[Trial],
) -> tuple[Equalize, ...]:
    kept: tuple[Equalize, ...] = ()
    wanted: list[Correction] = [name for name in RESCALINGS if name in names]
    if not bench.pairs or not wanted:
        return kept
    least = error(Findings.of(bench.glance(bench.trace), Corrected()), True)
    for name in wanted:
        module = clone(equalized(bench.trace, kept).module)
        smooth = name == "smooth"
        scale = smoothing(module, bench.pairs, bench.halves.fit, bench.trace.graph) if smooth else cross_layer
        more = equalizations(module, bench.pairs, scale)
        if not more:
            continue
        both = (*kept, *more)
        seen = bench.glance(replace(bench.trace, module=module))
        after = error(Findings.of(seen, Corrected(equalizations=both)), True)
        trials.append(Trial(name, len(more), least, after, after < WORTHWHILE * least))
        if trials[-1].accepted:
            kept, least = both, after
    return kept
