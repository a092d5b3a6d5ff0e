"""Names of modules and parameters from those in an ONNX file."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx
from torch import nn

_TAKEN = frozenset(dir(nn.Module())) | {"inputs", "outputs", "steps", "run"}


class Places:
    """Dotted names, each given out once, none inside another."""

    def __init__(self) -> None:
        self._leaves: set[str] = set()
        self._owners: set[str] = set()

    def free(self, wish: str) -> str:
        """`wish`, or the nearest name that torch accepts and nobody has."""
        parts = [re.sub(r"\W", "_", part) or "_" for part in wish.split(".") if part] or ["_"]
        parts = [f"{part}_" if part in _TAKEN else part for part in parts]
        for number in range(len(parts) - 1):
            while ".".join(parts[: number + 1]) in self._leaves:
                parts[number] += "_"
        while (name := ".".join(parts)) in self._leaves or name in self._owners:
            parts[-1] += "_"
        self._leaves.add(name)
        self._owners.update(".".join(parts[:number]) for number in range(1, len(parts)))
        return name


def layer_name(node: onnx.NodeProto, weights: Sequence[str]) -> str:
    """The module that a layer was: from its weights (`fc.weight`), else its node (`/layer1/layer1.0/conv1/Conv`)."""
    for name in weights:
        owner, _, leaf = name.rpartition(".")
        if owner and leaf in ("weight", "bias"):
            return owner
    path = ""
    for part in [part for part in node.name.split("/") if part][:-1]:
        path = part if part.startswith(f"{path}.") or not path else f"{path}.{part}"
    return path or node.name or node.output[0]
