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


RENAMED = re.compile(r"(_nchwc|_token_\d+)+$")
"""What ONNX Runtime puts behind the names of nodes that it made."""


class Names:
    """Nodes and values of an exported file by the names a runtime may show."""

    def __init__(self, exported: onnx.GraphProto) -> None:
        self._producer = {output: node for node in exported.node for output in node.output}
        self._parameters = {tensor.name for tensor in exported.initializer}
        self._outputs = {value.name for value in exported.output}
        self._by_name = {node.name: node for node in exported.node}
        self._order = {node.name: place for place, node in enumerate(exported.node)}
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

    def product(self, name: str) -> str:
        """The traced node of the product behind a kernel, which may have the name of what is fused into it: of the
        products that feed this one, the last. Empty when it is not told."""
        name = RENAMED.sub("", name)
        if found := self.traced(name, "product"):
            return found
        start = self._producer.get(name) or self._by_name.get(name)
        feeding, seen, waiting = dict[int, str](), set[str](), [start] if start else []
        while waiting:
            node = waiting.pop()
            if node.name in seen:
                continue
            seen.add(node.name)
            if found := self.traced(node.name, "product"):
                feeding[self._order[node.name]] = found
            else:
                waiting += [self._producer[one] for one in node.input if one in self._producer]
        return feeding[max(feeding)] if feeding else ""

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
