"""Attention as two integer products with a float softmax between them.

    S = Q K' scale                                             Q, K rounded
    P = softmax(S + mask)                                      rounded to 256 steps of [0, 1]
    O = P V                                                    V rounded

`scale` is 1 / sqrt(width) unless it is given. A mask of truths leaves -inf where it is false, and rows without a key
are all zero, as torch has it. Grouped queries (n query heads to each key head) are rows of one product: (..., heads, L,
width) becomes (..., heads / n, n L, width), so that keys are not repeated.

References: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; Ainslie et al. 2023 (arXiv:2305.13245) for groups.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from lissom.functional.affine import Affine
from lissom.graph.cost import MACS
from lissom.graph.describe import hint_of, is_free, op_name, schema_of
from lissom.graph.lockstep import attribute
from lissom.transforms.quantization.rewrite import OPS, fixed

ATEN = torch.ops.aten
DEQUANTIZE = OPS.dequantize_per_tensor.default
PART_OF = "lissom_part_of"
"""Metadata of a product: the attention of the traced graph that it belongs to."""


def take_apart_(module: GraphModule, attention: str, weights: Affine | None) -> None:
    """Make the node `attention` the last product of its parts; the attention weights are rounded to `weights`.

    None leaves them as they are: then nothing but the order of the sums changes.
    """
    node = next(one for one in module.graph.nodes if one.name == attention)
    with module.graph.inserting_before(node):
        target, args = _Parts(module, node).last(weights)
    # The node keeps its name and place: what reads it by name finds the same values.
    node.target, node.args, node.kwargs = target, args, {}


def products_of(module: GraphModule) -> list[str]:
    """The products of a written graph in order, those of an attention by its name."""
    return [str(node.meta.get(PART_OF, node.name)) for node in module.graph.nodes if op_name(node) in MACS]


class _Parts:
    """The calls that one attention is made of."""

    def __init__(self, module: GraphModule, node: Node) -> None:
        self.module, self.node, self.graph = module, node, module.graph
        names = [argument.name for argument in schema_of(cast(Any, node.target)).arguments]
        self.given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        query, key = self.given["query"], self.given["key"]
        self.heads, self.groups = _heads(query), _heads(key)
        self.grouped = bool(self.given.get("enable_gqa")) and self.heads != self.groups

    def last(self, numbers: Affine | None) -> tuple[Any, tuple[Any, ...]]:
        """The call that gives the result, all others being made."""
        query, key, value = (self.given[name] for name in ("query", "key", "value"))
        scale = self.given.get("scale")
        factor = 1 / math.sqrt(hint_of(_shape(query)[-1])) if scale is None else float(scale)
        if self.grouped:
            query = self._again(self._gathered(query), query)
        turned = self._again(self._call(ATEN.transpose.int, key, -2, -1), key)
        product = self._call(ATEN.matmul.default, query, turned)
        product.meta[PART_OF] = self.node.name
        scores = self._call(ATEN.mul.Tensor, product, factor)
        weights = self._softmax(self._spread(scores) if self.grouped else scores)
        weights = self._gathered(weights) if self.grouped else weights
        if numbers is not None:
            rounded = self._call(OPS.quantize_per_tensor.default, weights, *fixed(numbers))
            weights = self._call(DEQUANTIZE, rounded, *fixed(numbers))
        if not self.grouped:
            return ATEN.matmul.default, (weights, value)
        product = self._call(ATEN.matmul.default, weights, value)
        product.meta[PART_OF] = self.node.name
        return ATEN.flatten.using_ints, (self._by_head(product), -4, -3)

    def _softmax(self, scores: Node) -> Node:
        if self.given.get("is_causal"):
            # Every query sees its own key: no row is empty.
            hidden = self._call(ATEN.logical_not.default, self._causal())
            lowest = torch.finfo(torch.float32).min
            return self._call(ATEN.softmax.int, self._call(ATEN.masked_fill.Scalar, scores, hidden, lowest), -1)
        mask = self.given.get("attn_mask")
        if not isinstance(mask, Node):
            return self._call(ATEN.softmax.int, scores, -1)
        if self._is_of_truths(mask):
            hidden = self._call(ATEN.logical_not.default, mask)
            lowest = torch.finfo(torch.float32).min
            masked = self._call(ATEN.masked_fill.Scalar, scores, hidden, lowest)
        else:
            hidden = self._call(ATEN.eq.Scalar, mask, -math.inf)
            masked = self._call(ATEN.add.Tensor, scores, mask)
        return self._call(ATEN.masked_fill.Scalar, self._call(ATEN.softmax.int, masked, -1), hidden, 0.0)

    def _causal(self) -> Node:
        rows, columns = (hint_of(_shape(self.given[name])[-2]) for name in ("query", "key"))
        name = f"causal_{rows}_{columns}"
        if not hasattr(self.module, name):
            self.module.register_buffer(name, torch.ones(rows, columns, dtype=torch.bool).tril())
        return self.graph.get_attr(name)

    def _is_of_truths(self, mask: Node) -> bool:
        if mask.op == "get_attr":
            return attribute(self.module, str(mask.target)).dtype is torch.bool
        return "val" in mask.meta and mask.meta["val"].dtype is torch.bool

    def _gathered(self, value: Node) -> Node:
        """The heads that share a key, as rows of one."""
        split = self._call(ATEN.unflatten.int, value, -3, [self.groups, self.heads // self.groups])
        return self._call(ATEN.flatten.using_ints, split, -3, -2)

    def _by_head(self, value: Node) -> Node:
        rows = hint_of(_shape(self.given["query"])[-2])
        return self._call(ATEN.unflatten.int, value, -2, [self.heads // self.groups, rows])

    def _spread(self, value: Node) -> Node:
        """Undo `_gathered`."""
        return self._call(ATEN.flatten.using_ints, self._by_head(value), -4, -3)

    def _again(self, moved: Node, source: Node) -> Node:
        """Rounded once more to the grid that its source is on: integer kernels want it next to the product."""
        if source.target is not DEQUANTIZE:
            return moved
        grid = source.args[1:]
        return self._call(DEQUANTIZE, self._call(OPS.quantize_per_tensor.default, moved, *grid), *grid)

    def _call(self, target: Any, *args: Any) -> Node:
        return self.graph.call_function(target, args)


def _heads(value: Node) -> int:
    shape = _shape(value)
    return hint_of(shape[-3]) if len(shape) > 2 and not is_free(shape[-3]) else 1


def _shape(value: Node) -> Any:
    """Of the traced value that a node holds, rounded or not."""
    while "val" not in value.meta:
        value = cast(Node, value.args[0])
    return value.meta["val"].shape
