"""A model as a list of steps over named values: what an ONNX graph becomes.

No source text is made of what a file says (as `torch.fx` does with names): the steps call functions and modules that
are there already, so that a file of others stays data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Held:
    """A parameter or buffer of the model."""

    name: str


@dataclass(frozen=True)
class Fixed:
    """A number, a tuple of numbers or None."""

    value: Any


Source = str | Held | Fixed
"""Where a step finds an argument; text is the name of an earlier value."""


@dataclass(frozen=True)
class Step:
    """One call: a module by its name, or a function `(values, given)`; several results come as a list."""

    call: str | Callable[[Sequence[Any], Mapping[str, Any]], Any]
    sources: tuple[Source, ...]
    results: tuple[str, ...]
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Lifted(nn.Module):
    """Runs the steps in order. One output is returned as a tensor, several as a tuple."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.steps: list[Step] = []

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        last = self._last_uses()
        for number, step in enumerate(self.steps):
            self.run(step, values)
            for name in last.get(number, ()):
                values.pop(name, None)
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def run(self, step: Step, values: dict[str, Any]) -> None:
        """Carry out one step; `values` gains its results."""
        arguments = [self._of(source, values) for source in step.sources]
        if isinstance(step.call, str):
            found = self.get_submodule(step.call)(*arguments)
        else:
            found = step.call(arguments, step.given)
        results = found if isinstance(found, list) else [found]
        values.update(zip(step.results, results, strict=False))

    def _of(self, source: Source, values: Mapping[str, Any]) -> Any:
        if isinstance(source, Fixed):
            return source.value
        if isinstance(source, str):
            return values[source]
        owner, _, leaf = source.name.rpartition(".")
        return getattr(self.get_submodule(owner), leaf)

    def _last_uses(self) -> dict[int, list[str]]:
        """Step number to the values that no later step reads."""
        last: dict[str, int] = {}
        for number, step in enumerate(self.steps):
            for name in (*step.results, *(s for s in step.sources if isinstance(s, str))):
                last[name] = number
        found: dict[int, list[str]] = {}
        for name, number in last.items():
            if name not in self.outputs:
                found.setdefault(number, []).append(name)
        return found
