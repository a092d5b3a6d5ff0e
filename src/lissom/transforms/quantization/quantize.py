"""`Quantize`: post-training int8, weights of fewer bits, corrections of the rounding error.

Static: every activation that an integer kernel reads has one scale and zero point, set on calibration data by a method
of `lissom.functional.calibration`, or by the one whose rounding its readers feel least (`lissom.graph.trials`); weights
are symmetric int8 with one scale per output channel. Dynamic: the range of an input is taken at every call, no data
needed; per sample, one for each example (`lissom.functional.samples`). Hybrid: some layers so, the others static.
Formulas: `lissom.functional.affine`; where quantizers go: `placement` and the target's table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from lissom.training.checks import check
from lissom.transforms.base import ALONE, Action, Plan, Skip, Stage, Transform, Work, calibration_split, has_data
from lissom.transforms.quantization import calibrating, placement, planning, weightonly
from lissom.transforms.quantization.actions import (
    Equalize,
    Fit,
    HalveWeight,
    MultiplyActivations,
    RoundActivation,
    RoundBias,
    RoundDynamically,
    ShiftBias,
    StoreGroups,
    StoreWeight,
)
from lissom.transforms.quantization.choosing import able, also_seen, choose
from lissom.transforms.quantization.concat import united
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
from lissom.transforms.quantization.hybrid import with_later
from lissom.transforms.quantization.idle import without_idle, without_slow
from lissom.transforms.quantization.learning import learned, seconds
from lissom.transforms.quantization.operators import KINDS, RESTORED
from lissom.transforms.quantization.options import Options
from lissom.transforms.quantization.placement import Point
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
        "multiply-activations": MultiplyActivations,
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

    def _points(self, graph: Graph, target: Target, found: Findings | None = None) -> list[Point]:
        """All that any plan may round, and what those of `found` do."""
        chosen, _ = self._chosen(graph, target)
        table = planning.every_sum(target) if self._decides else target
        points = placement.points(graph, chosen, table)
        points += also_seen(graph, chosen, table, undecided=self._decides)
        if found is not None:
            chosen = [node for node in self._chosen(graph, target, found)[0] if node.name not in found.later]
            points += placement.points(graph, chosen, target)
        return list({(point.value, point.root): point for point in points}.values())

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
            found = self._scaled(trace, task, target, before)
        elif self._observes:
            found = self._seen(trace, task, target, before)
            found = self._corrected(trace, task, target, self._placed(trace, task, target, found, before), before)
        return self._decided(trace, task, target, found, work) if self._decides else found

    def _placed(self, trace: Trace, task: Task, target: Target, seen: Statistics, work: Work) -> Statistics:
        """With what is to have ranges at run time, and what is better off in float."""
        reads = self.remove_idle == "timed" or (self.remove_idle == "auto" and work.kernels is not None)
        if self.mode != "hybrid" and not reads:
            return seen
        graph, found = trace.graph, Findings.of(seen, Corrected())

        def complete(found: Findings) -> tuple[Findings, list[Node]]:
            """With the ranges that these decisions need, and what is rounded by fixed ranges."""
            chosen = [node for node in self._chosen(graph, target, found)[0] if node.name not in found.later]
            if not {point.root for point in placement.points(graph, chosen, target)} <= set(found.ranges):
                found = Findings.of(self._seen(trace, task, target, work, found), Corrected(), found)
            return found, chosen

        def written(found: Findings) -> nn.Module:
            return write(trace, self.plan(graph, found, target))

        if self.mode == "hybrid":
            dynamic = planning.able(graph, self._chosen(graph, target)[0], target)

            def planned(bits: Mapping[str, Precision], later: Mapping[str, str]) -> Plan:
                tried = {"precisions": dict(bits), "later": dict(later)}
                return self.plan(graph, Findings.of(seen, Corrected()).model_copy(update=tried), target)

            at_run_time = replace(self._shop(trace, task, target, found, work), plain=Quantize(mode="dynamic"))
            found = complete(with_later(found, at_run_time, dynamic, planned))[0]
        if reads and work.kernels is not None:
            found = without_idle(found, graph, target, complete, written, work.kernels)
        if self.remove_idle == "timed":
            found = without_slow(found, self._shop(trace, task, target, found, work), complete, written)
        return found

    def _shop(self, trace: Trace, task: Task, target: Target, found: Findings, work: Work) -> Shop:
        bits, free = self._bits(trace.graph), wanted(trace.graph, self.precision, self.exclude)[1]

        def planned(bits: Mapping[str, Precision]) -> Plan:
            return self.plan(trace.graph, found.model_copy(update={"precisions": dict(bits)}), target)

        return Shop(
            trace=trace,
            task=task,
            target=target,
            work=work,
            bits={**bits, **found.precisions},
            free=free - set(found.precisions),
            chosen=self._chosen(trace.graph, target, found)[0],
            plan=planned,
            finished=lambda plan: self._rounded(trace, plan, task)[0],
            plain=Quantize(mode="static" if self._fixed else self.mode, calibration="minmax", corrections=()),
            fewer=(4, 2) if self.mode == "weights" else (4,),
        )

    def _decided(self, trace: Trace, task: Task, target: Target, seen: Statistics | None, work: Work) -> Findings:
        """With bits of layers that keep to the bounds."""
        found = seen or Statistics(ranges={}, examples=0)
        found = found if isinstance(found, Findings) else Findings.of(found, Corrected())
        later = replace(work, tick=lambda share: work.tick(0.3 + 0.7 * share))
        shop = self._shop(trace, task, target, found, later)
        judge = None if self.max_drop is None else Judge(trace.module, task, self.max_drop, self.confidence)
        if self._auto:
            return searched(shop, found, self.size_ratio, self.latency_ratio, judge)
        assert judge is not None
        return guarded(shop, found, judge)

    def _seen(self, trace: Trace, task: Task, target: Target, work: Work, found: Findings | None = None) -> Statistics:
        batches = task.batches(calibration_split(self.name, task), limit=self.samples)
        auto = self.calibration == "auto"
        points = self._points(trace.graph, target, found)
        sample, watch = Sample(TRIED), {point.root for point in points}
        seen = observe(
            trace,
            batches,
            watch,
            histograms=self.calibration != "minmax",
            sample=sample if auto else None,
            progress=lambda n: work.tick(n / self.samples),
        )
        work.tick(1.0)
        if not auto:
            return seen
        points = [point for point in points if point.root in seen.ranges]
        return seen.model_copy(update={"trials": self._trials(trace, seen, sample, target, points)})

    def _trials(
        self, trace: Trace, seen: Statistics, sample: Sample, target: Target, points: list[Point]
    ) -> dict[str, dict[str, float]]:
        chosen, _ = self._chosen(trace.graph, target)
        seen = united(seen, placement.joined(trace.graph, chosen, target))
        widths = with_bits(trace.graph, points, {node.name for node in chosen}, self.activation_bits)
        ways = calibrating.ways(trace.graph, seen, widths, target.integers, self.percentile)
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
        graph, decided = trace.graph, seen if isinstance(seen, Findings) else None
        watch = {point.root for point in self._points(graph, target, decided)}
        products = {node.name for node in self._chosen(graph, target, seen)[0] if KINDS[node.op] in ("conv", "linear")}
        plain = self.model_copy(update={"corrections": ()})
        coarse = plain.model_copy(update={"calibration": "minmax"})

        def rounded(found: Findings, glanced: bool) -> nn.Module:
            return write(trace, (coarse if glanced else plain).plan(graph, found, target))

        found, trials = corrected(
            Bench(
                trace=trace,
                halves=halves,
                pairs=find_pairs(graph, products),
                observe=lambda scaled: Findings.of(plain._seen(scaled, task, target, work, decided), Corrected(), seen),
                glance=lambda scaled: Findings.of(glance(scaled, halves.fit, watch), Corrected(), seen),
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
        there = has_data(task) or self.corrections != "auto"
        halves = self._halves(trace, task, EXAMPLES) if self._names and there else None
        if halves is None:
            why = "no corrections are asked for" if not self._names else "there are too few calibration examples"
            work.note("nearest", f"weights are rounded to the nearest: {why}")
            return None
        if "awq" not in self._names:
            return Statistics(ranges={}, examples=halves.examples)
        free = wanted(trace.graph, self.precision, self.exclude)[1]
        bits = weightonly.narrowed(trace.graph, target, self._bits(trace.graph), free)

        def planned(found: Findings) -> Plan:
            return self.plan(trace.graph, found.model_copy(update={"precisions": bits}), target)

        found, trials = weightonly.rescaled(trace, halves, target, self._form(trace.graph, bits), planned)
        work.note("corrections", [trial.note() for trial in trials])
        return found

    def _stored(self, graph: Graph, study: Statistics | None, target: Target) -> tuple[Sequence[Action], list[Skip]]:
        bits = self._bits(graph, study)
        found = study if isinstance(study, Findings) else Findings(ranges={}, examples=study.examples if study else 0)
        return weightonly.stored(graph, target, self._form(graph, bits), bits, found, self._fit_of)

    def plan(self, graph: Graph, study: Statistics | None, target: Target) -> Plan:
        """
        Raises:
            RecipeError: a pattern of `exclude` or `precision` matches nothing.
            DataError: static mode without statistics.
        """
        weights = self.mode == "weights"
        actions, skipped = (self._stored if weights else self._integers)(graph, study, target)
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(skipped),
            predicted=planning.predicted(graph, actions),
        )

    def _integers(self, graph: Graph, study: Statistics | None, target: Target) -> tuple[Sequence[Action], list[Skip]]:
        bits = self._bits(graph, study)
        chosen, skipped = self._chosen(graph, target, study)
        actions: list[Action] = []
        if isinstance(study, Findings):
            actions += [*study.corrected.equalizations, *planning.shifts(graph, chosen, study)]
        later = study.later if isinstance(study, Findings) else {}
        fixed = [node for node in chosen if self._fixed and node.name not in later]
        if fixed:
            if study is None:
                raise DataError(
                    f"Quantize(mode={self.mode!r}) needs calibration data: give Task(calibration=...) or "
                    "Task(train=...), or use Quantize(mode='dynamic'), which needs none."
                )
            found = placement.points(graph, fixed, target)
            study = united(study, placement.joined(graph, fixed, target))
            widths = with_bits(graph, found, {node.name for node in fixed}, self.activation_bits)
            how = (self.calibration, self.percentile)
            rounded = [planning.activation(graph, point, study, target, how, bits) for point, bits in widths]
            actions += [*rounded, *planning.multiplied(fixed, target)]
            if target.integers.integer_bias:
                actions += planning.biases(graph, fixed, rounded)
        others = [node for node in chosen if node not in fixed and KINDS[node.op] not in RESTORED]
        actions += planning.at_run_time(others, target, later, samples=self.mode == "per_sample")
        steps: dict[str, Bits] = {name: self._steps(graph.by_name[name], own) for name, own in bits.items()}
        actions += planning.weights(graph, chosen, steps, self._fit_of, target, self.overflow_fix)
        actions += planning.restored(graph, chosen, steps, target)
        halved, left = halves(graph, bits, {a.parameter for a in actions if isinstance(a, StoreWeight)}, target)
        return [*actions, *halved], [*skipped, *left]

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

    def _chosen(self, graph: Graph, target: Target, study: Statistics | None = None) -> tuple[list[Node], list[Skip]]:
        """Nodes to quantize, and the others with the reason; those that are halved are in neither."""
        bits = self._bits(graph, study)
        if self.mode == "weights":
            stored, left = weightonly.partition(graph, target, self._form(graph, bits))
            return stored, explained(graph, bits, left, study.reasons if isinstance(study, Findings) else {})
        ops = target.integers.ops if self._fixed else target.dynamic.ops
        ops = planning.sampled(target) if self.mode == "per_sample" else ops
        chosen, skipped = choose(
            graph, ops, target, floats(bits), study, fix=self.overflow_fix, training=bool(self.training)
        )
        skipped = explained(graph, bits, skipped, study.reasons if isinstance(study, Findings) else {})
        if self._fixed:
            return chosen, skipped
        refuse = planning.without_examples if self.mode == "per_sample" else planning.unable
        return able(graph, chosen, skipped, target, refuse)
