"""`Quantize`: post-training int8, weights of fewer bits, corrections of the rounding error.

Static: every activation that an integer kernel reads has one scale and zero point, set on calibration data by a method
of `lissom.functional.calibration`, or by the one whose rounding its readers feel least (`lissom.graph.trials`); weights
are symmetric int8 with one scale per output channel. Dynamic: the range of an input is taken at every call, no data
needed. Formulas: `lissom.functional.affine`; where quantizers go: `placement` and the target's table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import ClassVar

from torch import nn

from lissom.errors import DataError
from lissom.functional.weightgrid import Bits
from lissom.graph.graph import Graph, Node
from lissom.graph.sample import Sample
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace
from lissom.graph.trials import trial_errors
from lissom.target import Target
from lissom.task import Split, Task
from lissom.training.finetune import check
from lissom.transforms.base import ALONE, Action, Plan, Skip, Stage, Transform, Work, calibration_split
from lissom.transforms.quantization import calibrating, placement, planning, weightonly
from lissom.transforms.quantization.actions import (
    Equalize,
    Fit,
    HalveWeight,
    RoundActivation,
    RoundBias,
    RoundDynamically,
    ShiftBias,
    StoreGroups,
    StoreWeight,
)
from lissom.transforms.quantization.corrections import (
    ENOUGH,
    EXAMPLES,
    FITTED,
    ROUNDINGS,
    Bench,
    Corrected,
    Correction,
    Findings,
    Halves,
    Trial,
    compared,
    corrected,
    glance,
    halved,
)
from lissom.transforms.quantization.equalizing import find_pairs
from lissom.transforms.quantization.guarding import Judge, check_judged, guarded
from lissom.transforms.quantization.learning import learned, seconds
from lissom.transforms.quantization.options import Options
from lissom.transforms.quantization.placement import KINDS, Point
from lissom.transforms.quantization.precision import (
    Precision,
    explained,
    floats,
    halves,
    wanted,
)
from lissom.transforms.quantization.searching import searched
from lissom.transforms.quantization.shop import Shop
from lissom.transforms.quantization.widths import with_bits
from lissom.transforms.quantization.writing import fitted_shifts, write, write_fitted

TRIED = 16
"""Examples on which calibration methods are compared."""


class Quantize(Options, Transform):
    """Integers, after training or trained; every field of `options`."""

    stage: ClassVar[Stage] = "quantize"
    actions: ClassVar[dict[str, type[Action]]] = {
        "equalize": Equalize,
        "shift-bias": ShiftBias,
        "round-activation": RoundActivation,
        "round-dynamically": RoundDynamically,
        "round-bias": RoundBias,
        "store-weight": StoreWeight,
        "store-groups": StoreGroups,
        "halve-weight": HalveWeight,
    }

    @property
    def expected_seconds(self) -> float:
        return 1.0 + seconds(self.training)

    def needs(self) -> frozenset[Split]:
        judged: frozenset[Split] = frozenset({"validation"} if self.max_drop is not None else ())
        fitted = self.mode == "weights" and self.corrections not in ("auto", ())
        observed: frozenset[Split] = frozenset({"calibration"} if self._observes or fitted else ())
        return judged | observed | (self.training.needs if self.training else set())

    def watch(self, graph: Graph, target: Target) -> Collection[str]:
        return {point.root for point in self._points(graph, target)} if self._observes else ()

    def _points(self, graph: Graph, target: Target) -> list[Point]:
        """All that any plan may round."""
        chosen, _ = self._chosen(graph, target)
        return placement.points(graph, chosen, planning.every_sum(target) if self._decides else target)

    def study(
        self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE
    ) -> Statistics | None:
        if self._decides and self.max_drop is not None:
            check_judged(task, self.max_drop)
        if self.training:
            check(model, task, self.training)
        share_of = 0.3 if self._decides else 1.0 / self.expected_seconds
        before = replace(work, tick=lambda share: work.tick(share_of * share))
        found: Statistics | None = None
        if self.mode == "weights":
            return self._scaled(trace, task, target, before)
        if self._observes:
            found = self._corrected(trace, task, target, self._seen(trace, task, target, before), before)
        return self._decided(trace, task, target, found, work) if self._decides else found

    def _decided(self, trace: Trace, task: Task, target: Target, seen: Statistics | None, work: Work) -> Findings:
        """With bits of layers that keep to the bounds."""
        found = seen or Statistics(ranges={}, examples=0)
        found = found if isinstance(found, Findings) else Findings.of(found, Corrected())
        bits, free = wanted(trace.graph, self.precision, self.exclude)

        def planned(bits: Mapping[str, Precision]) -> Plan:
            return self.plan(trace.graph, found.model_copy(update={"precisions": dict(bits)}), target)

        shop = Shop(
            trace=trace,
            task=task,
            target=target,
            work=replace(work, tick=lambda share: work.tick(0.3 + 0.7 * share)),
            bits=bits,
            free=free,
            chosen=self._chosen(trace.graph, target)[0],
            plan=planned,
            finished=lambda plan: self._rounded(trace, plan, task)[0],
            plain=Quantize(mode=self.mode, calibration="minmax", corrections=()),
        )
        judge = None if self.max_drop is None else Judge(trace.module, task, self.max_drop, self.confidence)
        if self._auto:
            return searched(shop, found, self.size_ratio, self.latency_ratio, judge)
        assert judge is not None
        return guarded(shop, found, judge)

    def _seen(self, trace: Trace, task: Task, target: Target, work: Work) -> Statistics:
        batches = task.batches(calibration_split(self.name, task), limit=self.samples)
        auto = self.calibration == "auto"
        sample, watch = Sample(TRIED), self.watch(trace.graph, target)
        seen = observe(
            trace,
            batches,
            watch,
            histograms=self.calibration != "minmax",
            sample=sample if auto else None,
            progress=lambda n: work.tick(n / self.samples),
        )
        work.tick(1.0)
        return seen.model_copy(update={"trials": self._trials(trace, seen, sample, target)}) if auto else seen

    def _trials(self, trace: Trace, seen: Statistics, sample: Sample, target: Target) -> dict[str, dict[str, float]]:
        points = [p for p in self._points(trace.graph, target) if p.root in seen.ranges]
        widths = with_bits(
            trace.graph, points, {node.name for node in self._chosen(trace.graph, target)[0]}, self.activation_bits
        )
        ways = calibrating.ways(seen, widths, target.integers, self.percentile)
        tried = trial_errors(trace, sample, calibrating.probes(trace.graph, points), ways)
        return calibrating.estimates(seen, tried, ways)

    def _corrected(self, trace: Trace, task: Task, target: Target, seen: Statistics, work: Work) -> Statistics:
        """What was seen, after the corrections that help and that a plan can hold."""
        # A bias makes up for the rounding that was chosen, so it comes after a rounding that is fitted.
        later = (*ROUNDINGS, "reestimate") if self._fit == "nearest" else (*ROUNDINGS, "bias", "reestimate")
        names: list[Correction] = [name for name in self._names if name not in later]
        halves = self._halves(trace, task, EXAMPLES) if names else None
        if halves is None:
            return seen
        graph, watch = trace.graph, self.watch(trace.graph, target)
        products = {node.name for node in self._chosen(graph, target)[0] if KINDS[node.op] in ("conv", "linear")}
        plain = self.model_copy(update={"corrections": ()})
        coarse = plain.model_copy(update={"calibration": "minmax"})

        def rounded(found: Findings, glanced: bool) -> nn.Module:
            return write(trace, (coarse if glanced else plain).plan(graph, found, target))

        found, trials = corrected(
            Bench(
                trace=trace,
                halves=halves,
                pairs=find_pairs(graph, products),
                observe=lambda scaled: plain._seen(scaled, task, target, work),
                glance=lambda scaled: glance(scaled, halves.fit, watch),
                rounded=rounded,
                shifted=lambda found: fitted_shifts(trace, plain.plan(graph, found, target), halves),
            ),
            seen,
            names,
        )
        work.note("corrections", [trial.note() for trial in trials])
        return found

    def _halves(self, trace: Trace, task: Task, examples: int) -> Halves | None:
        """Examples to fit and to judge on; None where there are too few."""
        examples = min(self.samples, examples)
        batches = task.batches(calibration_split(self.name, task), limit=examples)
        found = halved(trace.module, trace.graph, batches, examples)
        few = found.examples < ENOUGH if self.corrections == "auto" else not (found.fit and found.judge)
        return None if few else found

    def _scaled(self, trace: Trace, task: Task, target: Target, work: Work) -> Statistics | None:
        """Scales of the inputs of stored weights; None where there are no data to fit anything to."""
        there = task.has("calibration") or task.has("train") or self.corrections != "auto"
        halves = self._halves(trace, task, EXAMPLES) if self._names and there else None
        if halves is None:
            why = "no corrections are asked for" if not self._names else "there are too few calibration examples"
            work.note("nearest", f"weights are rounded to the nearest: {why}")
            return None
        if "awq" not in self._names:
            return Statistics(ranges={}, examples=halves.examples)
        chosen, _ = self._weighed(trace.graph, target)
        found, trials = weightonly.rescaled(
            trace, halves, self._form, chosen, lambda found: self.plan(trace.graph, found, target)
        )
        work.note("corrections", [trial.note() for trial in trials])
        return found

    def _weighed(self, graph: Graph, target: Target) -> tuple[list[Node], list[Skip]]:
        return weightonly.partition(graph, target, self._form, floats(self._bits(graph)))

    def _stored(self, graph: Graph, study: Statistics | None, target: Target) -> Plan:
        chosen, skipped = self._weighed(graph, target)
        fit = self._fit_of(self.weight_bits) if study is not None else "nearest"
        scalings = study.corrected.equalizations if isinstance(study, Findings) else ()
        actions = (*scalings, *weightonly.actions(graph, chosen, target, self._form, fit))
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=actions,
            skipped=tuple(skipped),
            predicted=planning.predicted(graph, actions),
        )

    def plan(self, graph: Graph, study: Statistics | None, target: Target) -> Plan:
        """
        Raises:
            RecipeError: a pattern of `exclude` or `precision` matches nothing.
            DataError: static mode without statistics.
        """
        if self.mode == "weights":
            return self._stored(graph, study, target)
        bits = self._bits(graph, study)
        chosen, skipped = self._chosen(graph, target, study)
        actions: list[Action] = []
        if isinstance(study, Findings):
            actions += [*study.corrected.equalizations, *planning.shifts(graph, chosen, study)]
        if self.mode == "static" and chosen:
            if study is None:
                raise DataError(
                    "Quantize(mode='static') needs calibration data: give Task(calibration=...) or "
                    "Task(train=...), or use Quantize(mode='dynamic'), which needs none."
                )
            found = placement.points(graph, chosen, target)
            widths = with_bits(graph, found, {node.name for node in chosen}, self.activation_bits)
            how = (self.calibration, self.percentile)
            rounded = [planning.activation(graph, point, study, target, how, bits) for point, bits in widths]
            actions += rounded
            if target.integers.integer_bias:
                actions += planning.biases(graph, chosen, rounded)
        elif chosen:
            table = target.dynamic
            actions += [
                RoundDynamically(
                    layer=placement.label(node),
                    node=node.name,
                    granularity=table.granularity,
                    group=table.group,
                    dtype=table.dtype,
                )
                for node in chosen
            ]
        products = [node for node in chosen if KINDS[node.op] in ("conv", "linear")]
        steps: dict[str, Bits] = {name: 4 if own == 4 else self.weight_bits for name, own in bits.items()}
        actions += planning.weights(products, steps, self._fit_of, target, self.overflow_fix)
        halved, left = halves(graph, bits, {a.parameter for a in actions if isinstance(a, StoreWeight)}, target)
        actions += halved
        skipped += left
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(skipped),
            predicted=planning.predicted(graph, actions),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        if self.training:
            done = 1.0 / self.expected_seconds
            work = replace(work, tick=lambda share, tick=work.tick: tick(done + (1.0 - done) * share))
            return learned(trace, plan, task, self.training, work.original or model, work)
        model, trials = self._rounded(trace, plan, task)
        if trials:
            work.note("rounding", [trial.note() for trial in trials])
        return model

    def _rounded(self, trace: Trace, plan: Plan, task: Task) -> tuple[nn.Module, list[Trial]]:
        """The plan carried out, roundings fitted where that helps, and what was tried."""
        nearest = write(trace, plan)
        held = (*plan.of(StoreWeight), *plan.of(StoreGroups))
        fits: set[Fit] = {action.fit for action in held} - {"nearest"}
        names: list[Correction] = [
            name for name in self._names if name in fits or name == "reestimate" or (fits and name == "bias")
        ]
        halves = self._halves(trace, task, FITTED) if names and held else None
        if halves is None:
            return nearest, []
        best, trials, fitted = nearest, list[Trial](), False
        for name in names:
            fitted = fitted or name in fits
            moves = "biases" if name == "bias" else "statistics" if name == "reestimate" else "none"
            candidate = write_fitted(trace, plan, halves, fitted=fitted, moves=moves)
            trial = compared(trace, halves, name, len(held), best, candidate)
            trials.append(trial)
            best = candidate if trial.accepted else best
            fitted = fitted and (trial.accepted or name not in fits)
        return best, trials

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return write(trace, plan)

    def _bits(self, graph: Graph, study: Statistics | None = None) -> dict[str, Precision]:
        """Bits of every candidate by node name: what the work found, else what the recipe says."""
        found, _ = wanted(graph, self.precision, self.exclude)
        return {**found, **study.precisions} if isinstance(study, Findings) else found

    def _chosen(self, graph: Graph, target: Target, study: Statistics | None = None) -> tuple[list[Node], list[Skip]]:
        """Nodes to quantize, and the others with the reason; those that are halved are in neither."""
        bits = self._bits(graph, study)
        ops = target.integers.ops if self.mode == "static" else target.dynamic.ops
        chosen, skipped = placement.partition(graph, ops, target, floats(bits))
        skipped = explained(graph, bits, skipped, study.reasons if isinstance(study, Findings) else {})
        if self.mode == "static":
            return chosen, skipped
        narrow = {node.name: width for node in chosen if (width := planning.width(graph, node)) < target.dynamic.group}
        skipped += [
            Skip(
                layer=placement.label(node),
                reason=f"its input has {narrow[node.name]} values, fewer than the {target.dynamic.group} of a group: "
                f"{target.title} would keep it in float",
            )
            for node in chosen
            if node.name in narrow
        ]
        return [node for node in chosen if node.name not in narrow], skipped
