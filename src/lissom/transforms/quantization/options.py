"""What a recipe can say about quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import pydantic

from lissom.functional.affine import ActivationBits
from lissom.functional.calibration import PERCENTILE
from lissom.functional.weightgrid import Bits
from lissom.graph.graph import Graph, Node
from lissom.graph.statistics import Statistics
from lissom.settings import Setting, only_wish
from lissom.transforms.base import Plan, SetBits
from lissom.transforms.quantization import planning
from lissom.transforms.quantization.actions import Fit
from lissom.transforms.quantization.calibrating import Calibration
from lissom.transforms.quantization.corrections import CORRECTIONS, RESCALINGS, ROUNDINGS, Correction, Findings
from lissom.transforms.quantization.idle import RemoveIdle
from lissom.transforms.quantization.learning import QAT
from lissom.transforms.quantization.precision import (
    FEWER,
    HALF,
    INTEGER,
    SURE,
    BitsWish,
    Confidence,
    DropBound,
    Precision,
    RatioBound,
    inherited,
    precisions,
    wanted,
)
from lissom.transforms.quantization.weightonly import Form, Group, bits_of


def _eight(bits: object) -> bool:
    return bits == 8


def _none(value: object) -> bool:
    return value is None


def _read(value: object) -> bool:
    return value == "auto"


Mode = Literal["static", "dynamic", "per_sample", "hybrid", "weights"]
GROUP: Group = 64
WEIGHTS: tuple[Correction, ...] = ("awq", "gptq")
"""Corrections of stored weights, in order."""
TABLE = "embedding"
"""Operator whose weight has 8 bits where `weight_bits` are fewer."""


class Options(Setting):
    """Fields of `Quantize`.

    `mode="static"` needs calibration data (`Task.calibration`, else `Task.train`), of which `samples` examples are
    used; `mode="dynamic"` needs none and quantizes linear layers only, by ranges of the runtime; `mode="per_sample"`
    needs none and gives every example of a batch its own ranges (`lissom.functional.samples`); `mode="hybrid"` is
    static but for the layers that lose much less by ranges at run time (`hybrid`); `mode="weights"` stores weights in
    integers and computes in float (`weightonly`), with one scale for `group` weights, and a zero point unless
    `symmetric`.

    `calibration` sets fixed ranges
    (`lissom.functional.calibration`); "auto" takes for each value the method whose rounding changes the outputs of its
    readers least, on a few of the examples. `percentile` is that of the method of this name. `exclude` holds patterns
    of layers that stay in float (`"conv1"`, `"layer3.*"`).

    `precision` is the bits of all layers, or of those that a pattern names (`{"*attention*": 8, "*.ffn.*": 16}`, later
    patterns win, others have 8): 32 float, 16 weights stored as float16, 8 integers, 4, 3 and 2 integers with weights
    of so few bits, "auto" what a search finds under one bound: `size_ratio` or `latency_ratio` (before / after), or
    `max_drop`.

    `max_drop` bounds the drop of the metric on validation data: its upper limit at `confidence`. Without a search, the
    fewest layers are put back in float (4-bit ones in 8 bits first).

    `weight_bits` is how many bits the steps of a weight have; the plan says how many they take in the target's file
    (`StoreWeight.stored`). Tables of embeddings have 8 all the same: no correction fits their rounding to what reads
    them. `precision={"*": 4}` is for tables too. `corrections` are kept where they lower the error on held-out
    examples: `"auto"` tries equalization, smoothing and bias correction for 8 bits, GPTQ in place of the last for
    fewer, AWQ and GPTQ for weights alone. `overflow_fix` keeps 8-bit products from saturating where kernels sum two in
    16 bits: on x86 without VNNI ("auto"), or anywhere. `remove_idle` puts operators back in float whose fixed ranges
    the runtime does not use, as read from its kernels ("auto", where a run writes files), and with "timed" those too
    that are measured slower in integers (`idle`).

    `activation_bits=4` gives what convolutions and linear layers read 16 steps; sums, poolings, and what enters and
    leaves the model keep 8 bits. `training` fine-tunes the rounded model, step sizes and weights together (`learning`);
    of the corrections, those that rescale channels come before it.
    """

    mode: Mode = "static"
    calibration: Calibration = "auto"
    percentile: Annotated[float, pydantic.Field(gt=0, le=100)] = PERCENTILE
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    exclude: tuple[str, ...] = ()
    weight_bits: Bits = 8
    precision: BitsWish = INTEGER
    max_drop: DropBound = None
    confidence: Confidence = SURE
    size_ratio: RatioBound = None
    latency_ratio: RatioBound = None
    # Left out of JSON where they are not set: recipes without them keep their ids.
    activation_bits: Annotated[ActivationBits, pydantic.Field(exclude_if=_eight)] = 8
    training: Annotated[QAT | None, pydantic.Field(exclude_if=_none)] = None
    group: Annotated[Group | None, pydantic.Field(exclude_if=lambda value: value == GROUP)] = GROUP
    symmetric: Annotated[bool, pydantic.Field(exclude_if=bool)] = True
    corrections: Literal["auto"] | tuple[Correction, ...] = "auto"
    overflow_fix: planning.OverflowFix = "auto"
    remove_idle: Annotated[RemoveIdle, pydantic.Field(exclude_if=_read)] = "auto"

    @pydantic.model_validator(mode="after")
    def _precision_fits(self) -> Self:
        if self.weight_bits != 8 and self.precision != 8:
            raise ValueError(
                f"weight_bits={self.weight_bits} is for all layers, and precision says it layer by layer; leave one of "
                "them out. precision={'*': 4} is weight_bits=4, for tables of embeddings too"
            )
        if self._auto:
            only_wish(self, ("max_drop", "size_ratio", "latency_ratio"), "It bounds the search for bits.")
        elif self.size_ratio is not None or self.latency_ratio is not None:
            raise ValueError("size_ratio and latency_ratio bound the search for bits; write precision='auto' with them")
        elif self.max_drop is not None and self.precision == HALF:
            raise ValueError("max_drop puts integer layers back in float, and precision=16 makes none")
        return self

    @pydantic.model_validator(mode="after")
    def _learns_fixed_steps(self) -> Self:
        if self._at_run_time and self.activation_bits != 8:
            raise ValueError(
                f"activation_bits={self.activation_bits} has fixed steps, and mode={self.mode!r} sets the steps at run "
                "time, in 8 bits; use mode='static'"
            )
        if not self._fixed and self.remove_idle == "timed":
            raise ValueError(
                f"remove_idle='timed' times layers with fixed ranges, and mode={self.mode!r} has none; use "
                "mode='static' or 'hybrid'"
            )
        if not self.training:
            return self
        if self.mode not in ("static", "weights"):
            raise ValueError(f"training learns fixed step sizes, and mode={self.mode!r} has none; use mode='static'")
        if self._decides or self.precision == HALF:
            raise ValueError(
                "training begins when the bits of every layer are known; give them with weight_bits or rules of "
                "precision, and leave max_drop and precision='auto' or 16 out"
            )
        for name in () if self.corrections == "auto" else self.corrections:
            if name not in RESCALINGS:
                raise ValueError(
                    f"{name!r} fits what training learns anew; leave it out of corrections, or leave training out"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.mode != "weights":
            for name, value, default in (("group", self.group, GROUP), ("symmetric", self.symmetric, True)):
                if value != default:
                    raise ValueError(f"{name}={value} is of mode='weights', and this is mode={self.mode!r}")
            if self.corrections != "auto" and "awq" in self.corrections:
                raise ValueError("'awq' scales inputs of stored weights; it is of mode='weights'")
            return self
        if self.activation_bits != 8 or self.training:
            raise ValueError(
                "mode='weights' leaves activations in float and trains nothing; leave activation_bits and training out"
            )
        if self.latency_ratio is not None:
            raise ValueError(
                f"latency_ratio={self.latency_ratio:g} goes by times of single layers in integers, and mode='weights' "
                "computes in float; use size_ratio or max_drop"
            )
        for name in () if self.corrections == "auto" else self.corrections:
            if name not in WEIGHTS:
                raise ValueError(f"{name!r} is not of mode='weights', which has {', '.join(map(repr, WEIGHTS))}")
        return self

    @pydantic.model_validator(mode="after")
    def _corrections_fit(self) -> Self:
        if self.corrections == "auto":
            return self
        if self._at_run_time and self.corrections:
            raise ValueError(f"corrections={list(self.corrections)} need calibration data; use mode='static'")
        if all(name in self.corrections for name in ROUNDINGS):
            raise ValueError("'gptq' and 'adaround' both choose the rounding; give one of them in corrections")
        return self

    def following(self, plans: Sequence[Plan], graph: Graph) -> Self:
        """With the bits that earlier steps set for layers; rules of the recipe win."""
        found = {action.layer: action.bits for plan in plans for action in plan.of(SetBits)}
        if not found:
            return self
        own = dict(self.precision) if isinstance(self.precision, tuple) else {}
        rules = {layer: bits for layer, bits in inherited(graph, found).items() if layer not in own}
        return self.model_copy(update={"precision": (*rules.items(), *own.items())})

    @property
    def _auto(self) -> bool:
        return "auto" in precisions(self.precision)

    @property
    def _decides(self) -> bool:
        """Whether bits are found by trying, so that any layer may end up in float."""
        return self._auto or self.max_drop is not None

    @property
    def _at_run_time(self) -> bool:
        """Whether all ranges are taken at run time."""
        return self.mode in ("dynamic", "per_sample")

    @property
    def _fixed(self) -> bool:
        """Whether there are ranges that do not change from call to call."""
        return self.mode in ("static", "hybrid")

    @property
    def _observes(self) -> bool:
        """Whether activations are looked at: not where they are rounded at run time, or none is."""
        return self._fixed and self.precision != HALF

    def _bits(self, graph: Graph, study: Statistics | None = None) -> dict[str, Precision]:
        """Bits of every candidate by node name: what the work found, else what the recipe says."""
        alike = self.mode == "weights" and self.precision == INTEGER
        found, _ = wanted(graph, self.weight_bits if alike else self.precision, self.exclude)
        if alike:
            found |= {name: 8 for name, own in found.items() if own != 32 and graph.by_name[name].op == TABLE}
        return {**found, **study.precisions} if isinstance(study, Findings) else found

    def _steps(self, node: Node, own: Precision) -> Bits:
        """Of the weight of a node in integers; `own` are the bits of the layer."""
        if own not in (32, 16, 8):
            return own
        return 8 if node.op == TABLE else self.weight_bits

    def _form(self, graph: Graph, bits: Mapping[str, Precision]) -> Form:
        """How `mode="weights"` stores weights."""
        return Form(bits_of(graph, bits), self.group, self.symmetric)

    @property
    def _names(self) -> tuple[Correction, ...]:
        """Corrections to try, in order."""
        if self.corrections != "auto":
            return tuple(name for name in CORRECTIONS if name in self.corrections)
        if self._at_run_time:
            return ()
        few = self.weight_bits < 8 or not {"auto", *FEWER}.isdisjoint(precisions(self.precision))
        if self.mode == "weights":
            return WEIGHTS if few else ()
        if self.training:
            return RESCALINGS
        return (*RESCALINGS, "gptq" if few else "bias")

    @property
    def _fit(self) -> Fit:
        if self.training:
            return "learned"
        names = self._names
        return "gptq" if "gptq" in names else "adaround" if "adaround" in names else "nearest"

    def _fit_of(self, steps: Bits) -> Fit:
        few = steps < 8 or self.training is not None or self.corrections != "auto"
        return self._fit if few else "nearest"
