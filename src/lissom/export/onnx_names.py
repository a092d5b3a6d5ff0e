"""From the names that a runtime keeps of an ONNX file back to operators of the traced graph."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from lissom.export.base import Kind

KINDS: dict[str, Kind] = {
    "Conv": "product",
    "ConvTranspose": "product",
    "Gemm": "product",
    "MatMul": "product",
    "MatMulInteger": "product",
    "MatMulNBits": "product",
    "LSTM": "product",
    "GRU": "product",
    "Add": "add",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
    "ReduceMean": "pool",
}
NAMED = re.compile(r"(\w+)/([A-Z][A-Za-z]*)")
"""`conv2d_3/Conv`, as `lissom.export.onnx` writes it, with whatever a runtime put before or after."""


class Names:
    """Nodes and values of an exported file by the names a runtime may show."""

    def __init__(self, exported: onnx.GraphProto) -> None:
        self._producer = {output: node for node in exported.node for output in node.output}
        self._parameters = {tensor.name for tensor in exported.initializer}
        self._outputs = {value.name for value in exported.output}
        self._known = {match[1] for node in exported.node if (match := NAMED.match(node.name))}

    def parse(self, name: str) -> tuple[str, Kind | None] | None:
        """The traced node that a name belongs to, and what the named operator does there; None for other names."""
        value = name.removesuffix("_original")
        if value in self._outputs and value in self._producer:
            name = self._producer[value].name
        match = NAMED.search(name)
        return (match[1], KINDS.get(match[2])) if match and match[1] in self._known else None

    def parameter(self, name: str) -> str:
        """The name, if it is that of a parameter in the file."""
        return name if name in self._parameters else ""

    def traced(self, name: str, kind: Kind) -> str:
        """The traced node whose own operator of that kind has this name; empty when it is not told."""
        found = self.parse(name)
        return found[0] if found is not None and found[1] == kind else ""

    def absorbed(self, output: str, inputs: Iterable[str]) -> list[str]:
        """Additions that a fused convolution computes: those between its product and its output, if unambiguous."""
        given, found = set(inputs), list[str]()
        node = self._producer.get(output)
        while node is not None and node.op_type != "Conv":
            if node.op_type == "Add":
                found.append(node.name)
            sources = [name for name in node.input if name in self._producer and name not in given]
            if len(sources) != 1:
                return []
            node = self._producer[sources[0]]
        return [parsed[0] for name in found if (parsed := self.parse(name))]
