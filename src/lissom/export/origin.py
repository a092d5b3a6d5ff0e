"""Where things come from: names of the traced graph behind those of exporters, operators behind their failures."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.fx import Node as FxNode

from lissom.graph.describe import layer_of

KEY = "lissom"

OPERATOR = re.compile(r"torch\._?ops\.(\w+)\.(\w+)|op='(\w+)\.(\w+)'|\b([a-z]\w*)::(\w+)")
"""How torch, torch.onnx and ExecuTorch write an operator in their messages."""


def mark_(program: ExportedProgram) -> None:
    """Write each operator's name into its `custom` metadata, which torch's passes hand on."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        node.meta["custom"] = {**(node.meta.get("custom") or {}), KEY: node.name}


def origin(node: FxNode) -> str:
    """The name that a node of a transformed program had when it was marked; empty for a new one."""
    return str((node.meta.get("custom") or {}).get(KEY, ""))


def explain(wrong: BaseException, program: ExportedProgram) -> str:
    """What failed and why, from an exporter's chain of exceptions: the operator, its layer, the innermost reason."""
    causes = list(_causes(wrong))
    reasons = (line.strip() for one in reversed(causes) for line in str(one).splitlines() if line.strip())
    reason = next(reasons, type(wrong).__name__).rstrip(".") + "."
    found = next(filter(None, (_operator(str(one)) for one in reversed(causes))), None)
    if found is None:
        return reason
    layers = {layer_of(node) for node in program.graph.nodes if _is(node, found)} - {""}
    where = f" (in {', '.join(sorted(layers)[:3])})" if layers else ""
    return f"operator {found}{where}: {reason}"


def _causes(wrong: BaseException) -> Iterator[BaseException]:
    """An exception and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = wrong
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _operator(text: str) -> str | None:
    match = OPERATOR.search(text)
    return ".".join(part for part in match.groups() if part) if match else None


def _is(node: FxNode, operator: str) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and str(schema.name).replace("::", ".") == operator
