"""The original network with channels masked: the reference that a physically smaller one has to equal.

Every cut place of every parameter is zero. Where an operator averages or normalizes over channels that were cut, or
chooses among them, it runs over those that are kept; where values, not parameters, are summed over such channels, the
cut ones count as zero. Everything else runs at its original size with its original constants, so a wrong coupling
shows.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch.fx import Interpreter
from torch.fx import Node as FxNode

from lissom.graph.axes import Term
from lissom.graph.coupling import Call, Value
from lissom.graph.coupling_maths import MEANS, SUMS
from lissom.graph.coupling_routes import CHOICES, CONTRACTIONS
from lissom.graph.describe import op_name
from lissom.graph.resize import Sizes
from lissom.graph.trace import Trace

NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "_weight_norm"})
"""`batch_norm` and `instance_norm` normalize weights over their inputs in networks that standardize them."""
GATES = CHOICES | {"softmax", "log_softmax", "_softmax"}
"""Operators that weigh or choose the places of one axis."""


class Masked(Interpreter):
    """Runs the traced graph of the original; `names` maps the graph's tensors to the listed ones."""

    def __init__(self, trace: Trace, sizes: Sizes, names: Mapping[str, str]) -> None:
        super().__init__(trace.module)
        self._sizes = sizes
        self._names = names
        self._values = sizes.channels.on(trace.module)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found: object = operator.attrgetter(str(target))(self.module)
        listed = self._names.get(str(target))
        if listed is None or not isinstance(found, torch.Tensor):
            return found
        return self._zeroed(found, self._sizes.channels.parameters[listed])

    def run_node(self, n: FxNode) -> Any:
        op = op_name(n)
        if n.op != "call_function" or op not in NORMS | MEANS | SUMS | GATES | CONTRACTIONS:
            return super().run_node(n)
        call = Call.of(self._sizes.channels.axes, n, self._values)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if op in CONTRACTIONS:
            args, kwargs = _map(self._zeroed, n, self._values, args, kwargs)
            return self.call_function(cast(Any, n.target), args, kwargs)
        mixed = [term for terms in call.every() for term in terms]
        if op in GATES:
            mixed = [mixed[call.axis("dim", len(mixed))]]
        if not self._sizes.changed(mixed):
            return super().run_node(n)
        args, kwargs = _map(self._compact, n, self._values, args, kwargs)
        args = self._constants(call, op, args)
        made = self.call_function(cast(Any, n.target), args, kwargs)
        # What has the form of its input is put back where that came from, whatever the rule says that it is.
        value = call.every()[0] if op in NORMS | GATES - CHOICES else self._values[n]
        if isinstance(value, tuple):
            return self._spread(made, value)
        if op in CHOICES:
            # It numbered the kept places; everything else numbers all of them.
            numbers = torch.from_numpy(self._sizes.places(mixed[0])).to(made[1].device)
            made = (made[0], numbers[made[1]])
        return tuple(self._spread(one, terms) for one, terms in zip(made, value, strict=True))

    def _constants(self, call: Call, op: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if op in ("layer_norm", "rms_norm"):
            count = len(call.numbers("normalized_shape"))
            return (args[0], [self._sizes.after(term) for term in call.need("input")[-count:]], *args[2:])
        if op == "group_norm":
            term, groups = call.need("input")[1], call.number("num_groups")
            rows = call.axes.divide(term, [groups, term.size // groups])[0]
            return (args[0], self._sizes.after(rows) if groups > 1 else 1, *args[2:])
        return args

    def _zeroed(self, tensor: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
        for at, term in enumerate(terms):
            if self._sizes.after(term) != term.size:
                mask = torch.zeros(term.size, dtype=tensor.dtype, device=tensor.device)
                mask[torch.from_numpy(self._sizes.places(term))] = 1
                # where, not a product: zero times infinity is no zero
                shape = [-1 if index == at else 1 for index in range(tensor.ndim)]
                tensor = torch.where(mask.reshape(shape) > 0, tensor, torch.zeros((), dtype=tensor.dtype))
        return tensor

    def _compact(self, tensor: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
        for at, term in enumerate(terms):
            if self._sizes.after(term) != term.size:
                tensor = tensor.index_select(at, torch.from_numpy(self._sizes.places(term)))
        return tensor

    def _spread(self, tensor: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
        for at, term in enumerate(terms):
            if self._sizes.after(term) != term.size:
                shape = [term.size if index == at else size for index, size in enumerate(tensor.shape)]
                whole = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
                tensor = whole.index_copy(at, torch.from_numpy(self._sizes.places(term)), tensor)
        return tensor


def _map(
    change: Any, node: FxNode, values: Mapping[FxNode, Value], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply `change` to every tensor argument that has terms."""

    def one(given: object, real: Any) -> Any:
        if isinstance(given, FxNode) and isinstance(real, torch.Tensor):
            terms = values.get(given)
            return change(real, terms) if isinstance(terms, tuple) else real
        if isinstance(given, (list, tuple)) and isinstance(real, (list, tuple)):
            return type(real)(one(g, r) for g, r in zip(given, real, strict=True))  # pyright: ignore
        return real

    found = tuple(one(given, real) for given, real in zip(node.args, args, strict=True))
    return found, {name: one(node.kwargs[name], real) for name, real in kwargs.items()}
