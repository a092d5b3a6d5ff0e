"""From facts and a scenario to a recommendation: what fits, what does not, why, the recipe, what was measured."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import yaml

from lissom.advise.evidence import Evidence, of_method, of_methods
from lissom.advise.facts import Facts
from lissom.advise.methods import METHODS, Verdict, verdict
from lissom.advise.scenarios import ROUNDINGS, SCENARIOS, Method, Scenario
from lissom.advise.steps import Step, lowered, steps_of
from lissom.errors import DataError
from lissom.recipe import Recipe
from lissom.settings import Setting
from lissom.target import Target
from lissom.transforms.base import Cost

NOT_MEASURED = "not measured yet"


class Judged(Setting):
    """One method: whether it fits, whether the recipe uses it, why, and our own runs of it alone."""

    method: Method
    fits: bool
    used: bool
    why: str
    evidence: tuple[Evidence, ...]
    """Runs on the same kind of model first; empty: not measured yet."""


class Recommendation(Setting):
    """What `lissom recommend` says. Costs are counted, not measured; latency and loss are those of `evidence` alone."""

    name: str
    scenario: str
    title: str
    target: str
    installed: bool
    """Whether the target's runtime is here."""
    facts: Facts
    methods: tuple[Judged, ...]
    steps: tuple[Step, ...]
    data_free: str | None
    """What `lissom compress --data-free` has to be given for this recipe; None: nothing."""
    before: Cost
    after: Cost | None = None
    """Counted after the recipe without its training; None: not counted."""
    counted: tuple[str, ...] = ()
    """What was left out of the count, and why it was not made."""
    lowered: tuple[str, ...] = ()
    """Amounts of the scenario that are out of reach for this model, and what the recipe has instead."""
    evidence: tuple[Evidence, ...]
    """Our own runs of exactly the recipe's methods together, the same kind of model first."""

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_data([step.data for step in self.steps])

    @property
    def recipe_yaml(self) -> str:
        """The steps as a recipe file writes them, gradual pruning as one."""
        return yaml.safe_dump([step.data for step in self.steps], sort_keys=False)

    @property
    def methods_used(self) -> tuple[Method, ...]:
        return tuple(one.method for one in self.methods if one.used)


def recommended(
    facts: Facts,
    scenario: Scenario,
    target: Target,
    evidence: Collection[Evidence],
    *,
    name: str,
    installed: bool,
) -> Recommendation:
    """
    Raises:
        DataError: the scenario is for tasks without data and there are some, or none of its methods fits.
    """
    if scenario.without_data and "train" in facts.splits:
        others = ", ".join(one.name for one in SCENARIOS if not one.without_data)
        raise DataError(
            f"The scenario {scenario.name!r} is for tasks without training data, and this one has some. Take one of "
            f"{others}, or give a Task without train."
        )
    verdicts: dict[Method, Verdict] = {method: verdict(method, facts, target) for method in METHODS}
    fitting: list[Method] = [method for method, one in verdicts.items() if one.fits]
    chosen = _chosen(scenario, facts, fitting)
    if not set(chosen) - {"fold", "distil", "made-up-inputs"}:
        reasons = "; ".join(f"{method}: {verdicts[method].why}" for method in scenario.methods if method != "distil")
        raise DataError(
            f"No method of the scenario {scenario.name!r} fits this model and its data on {target.title}. {reasons}. "
            "Give the task the data that is missing, or choose another scenario or target."
        )
    methods = tuple(
        Judged(
            method=method,
            fits=found.fits,
            used=method in chosen,
            why=found.why,
            evidence=of_method(evidence, method, facts.kind, target.name),
        )
        for method, found in verdicts.items()
    )
    steps = steps_of(scenario, chosen, facts, target)
    return Recommendation(
        name=name,
        scenario=scenario.name,
        title=scenario.title,
        target=target.name,
        installed=installed,
        facts=facts,
        methods=methods,
        steps=steps,
        data_free="auto" if "made-up-inputs" in chosen else None,
        before=Cost(macs=facts.macs, parameters=facts.parameters, bytes=facts.bytes),
        evidence=of_methods(evidence, set(chosen) - {"fold"}, facts.kind, target.name),
    )


def within_reach(found: Recommendation, index: int, most: float) -> Recommendation | None:
    """The same with `most` times fewer at one of its steps, which its dry run has refused; None if that is no less."""
    step = found.steps[index]
    other = lowered(step, most)
    if other is None:
        return None
    steps = (*found.steps[:index], other, *found.steps[index + 1 :])
    said = f"{other.comment[0].upper()}{other.comment[1:]}."
    return found.model_copy(update={"steps": steps, "lowered": (*found.lowered, said)})


def _chosen(scenario: Scenario, facts: Facts, fitting: Sequence[Method]) -> tuple[Method, ...]:
    """The scenario's methods that fit, with one rounding at most, and made-up inputs only where one reads any."""
    wanted: list[Method] = list(scenario.methods)
    if scenario.prefers_dynamic and facts.kind == "transformer":
        wanted.sort(key=lambda method: method == "int8")  # last, the others as they were
    structure: list[Method] = [m for m in wanted if m in fitting and m not in (*ROUNDINGS, "distil", "made-up-inputs")]
    rounding: Method | None = next((method for method in wanted if method in ROUNDINGS and method in fitting), None)
    found: list[Method] = ["fold", *structure, *([rounding] if rounding else [])]
    if "distil" in wanted and "distil" in fitting and structure:
        found.append("distil")
    if rounding == "int8" and not facts.observed:
        found.append("made-up-inputs")
    return tuple(found)


def to_yaml(found: Recommendation, project: str, file: str) -> str:
    """The text of the recipe `file`: every step with its comment and what was measured of its methods."""
    data_free = f" --data-free {found.data_free}" if found.data_free else ""
    head = [
        f"Scenario {found.scenario} ({found.title}) for {found.name}, target {found.target}.",
        "Made by lissom recommend: a place to start from, not a promise. Change the amounts and measure:",
        f"lissom compress {project} --target {found.target} --recipe {file}{data_free} --out runs/{found.scenario}",
        *([counted_text(found)] if found.after else []),
    ]
    parts = ["".join(f"# {line}\n" for line in head)]
    by_method = {one.method: one for one in found.methods}
    for step in found.steps:
        comments = [step.comment[0].upper() + step.comment[1:] + "."]
        for method in step.methods:
            judged = by_method[method]
            comments.append(f"{method}: {judged.why}.")
            if method != "fold":
                comments.append(f"{method}, measured: {measured_text(judged, found.facts.kind)}.")
        parts.append("".join(f"# {line}\n" for line in comments) + yaml.safe_dump([step.data], sort_keys=False))
    return "\n".join(parts)


def counted_text(found: Recommendation) -> str:
    """`Counted, not measured: 3.1 times fewer MACs, ...`."""
    assert found.after is not None
    before, after = found.before, found.after
    times = [
        (name, one / other)
        for name, one, other in (
            ("multiply-accumulates", before.macs, after.macs),
            ("parameters", before.parameters, after.parameters),
            ("bytes of tensors", before.bytes, after.bytes),
        )
        if one and other  # a look-up has no products, and its factors have
    ]
    return "Counted, not measured: " + ", ".join(f"{ratio:.2f} times fewer {name}" for name, ratio in times) + "."


def measured_text(judged: Judged, kind: str) -> str:
    """The first run on the same kind of model, else the first, with a word that it is another kind; with its source."""
    if not judged.evidence:
        return NOT_MEASURED
    row = judged.evidence[0]
    other = "" if row.kind == kind else f"; another kind of model ({row.kind}) than this one ({kind})"
    more = len(judged.evidence) - 1
    return evidence_text(row) + other + (f"; {more} more run{'s' * (more > 1)} with --json" if more else "")


def evidence_text(row: Evidence) -> str:
    """`ResNet-56, CIFAR-10 test split: size 3.73x, lost -0.18 points (Q2, 2026-11-24, AMD EPYC, 2 threads)`."""
    where = ", ".join(one for one in (row.model, row.data) if one != "none")
    return f"{where}: {figures_text(row)} ({row.experiment}, {row.date}, {row.machine})"


def figures_text(row: Evidence) -> str:
    ratios = [f"{cost} {value:.2f}x" for cost, value in row.ratios.items()]
    loss = "loss not measured" if row.loss is None else f"lost {row.loss:.2f} {row.unit}"
    if row.loss is not None and row.unit == "RMSE":
        loss = f"RMSE {row.loss:+.4f}"
    return ", ".join([*ratios, loss])
