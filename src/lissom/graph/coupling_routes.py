"""Rules for gates: softmax over experts, the few that `topk` chooses, and what their numbers are used for.

A softmax over channels is a normalization as any other: where some are cut, it runs over those that are kept, as if
the logits of the others were minus infinity. Likewise `topk` chooses among those that are kept. The places that it
returns are numbers, not channels; they are followed (`Call.pointers`) to where they are used as places of the same
axis again: `scatter`, `gather`, `one_hot`, a lookup. Any other use freezes the axis.

Attention is no gate: the softmax over the product of two values runs over the places of one of them, and those stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch.fx import Node as FxNode

from lissom.graph.axes import Fixed
from lissom.graph.coupling import Call, Terms, Value
from lissom.graph.coupling_moves import looked_up
from lissom.graph.describe import op_name

PRODUCTS_OF_VALUES = frozenset({"matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"})
CONTRACTIONS = PRODUCTS_OF_VALUES | {
    "scaled_dot_product_attention", "linear",
    *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)), "convolution",
}  # fmt: skip
"""Sums over values. Where the other factor is a parameter, its zeros leave only what is not finite to be zeroed."""

CHOICES = frozenset({"topk"})
"""Operators that make (values, numbers of the places where they lie)."""
CARRIERS = frozenset({
    "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy", "view", "reshape", "_unsafe_view",
    "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "expand", "expand_as", "broadcast_to",
    "select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind",
})  # fmt: skip
"""Operators that make the same numbers, in another form."""


# ---- rules -----------------------------------------------------------------------------------------------------------


def softmax(call: Call) -> Value:
    source = call.every()[0]
    at = call.axis("dim", len(source))
    if _attends(call.node):
        call.freeze(source[at], reason=f"{call.op} runs over it")
    else:
        call.axes.at_least(source[at], 2, f"{call.op} runs over it, and over one channel it would be constant")
    return source


def topk(call: Call) -> Value:
    source = call.need("self")
    at = call.axis("dim", len(source))
    count = call.number("k")
    # Values alone say nothing about where they come from.
    if _attends(call.node) or not numbers_of(call.node):
        call.freeze(source[at], reason=f"{call.op} runs over it")
    else:
        call.axes.at_least(source[at], count, f"{call.op} takes {count} of its {source[at].size} places")
    made = (*source[:at], Fixed(count), *source[at + 1 :])
    return [made, made]


def scatter(call: Call) -> Value:
    """Values at numbered places of one axis; along the others they lie side by side."""
    target, at = call.need("self"), call.axis("dim", len(call.need("self")))
    others = [terms for name in ("index", "src") if (terms := call.tensor(name)) is not None]
    looked_up(call, target[at], call.given["index"])
    for terms in others:
        _aside(call, target, terms, at)
    return target


def gather(call: Call) -> Value:
    source, index = call.need("self"), call.need("index")
    at = call.axis("dim", len(source))
    looked_up(call, source[at], call.given["index"])
    _aside(call, source, index, at)
    return index


def one_hot(call: Call) -> Value:
    """A new axis whose places are those that are counted on."""
    counted, source = call.pointer(call.given["self"]), call.need("self")
    count = call.number("num_classes")
    if counted is None or counted.size != count:
        if counted is not None:
            call.freeze(counted)
        return (*source, Fixed(call.shape[-1]))
    return (*source, counted)


def _aside(call: Call, whole: Terms, part: Terms, at: int) -> None:
    for index, (first, second) in enumerate(zip(whole, part, strict=True)):
        if index == at:
            call.freeze(second)
        else:
            call.unify(first, second)


# ---- numbers of places -----------------------------------------------------------------------------------------------


def numbers_of(node: FxNode) -> list[FxNode]:
    """What reads the second result of a choice."""
    return [user for user in node.users if op_name(user) == "getitem" and user.args[1] == 1 and user.users]


def follow(call: Call) -> None:
    """Hand pointers on to what the call makes, or freeze the axis that they count on."""
    counted = {source: call.pointers[source] for source in call.node.all_input_nodes if source in call.pointers}
    if not counted:
        return
    if call.op in CARRIERS:
        call.pointers[call.node] = next(iter(counted.values()))
        return
    fitting = _used(call)
    for source, term in counted.items():
        if source not in fitting:
            call.freeze(term, reason=f"{call.op} computes with the numbers of its places")


def _used(call: Call) -> tuple[object, ...]:
    """The arguments that the operator's rule reads as numbers of places."""
    match call.op:
        case "scatter" | "scatter_add" | "gather" | "index_select":
            return (call.given.get("index"),)
        case "one_hot":
            return (call.given.get("self"),)
        case "index":
            return tuple(call.given["indices"])
        case "embedding":
            return (call.given.get("indices"),)
        case _:
            return ()


# ---- attention -------------------------------------------------------------------------------------------------------


def _attends(node: FxNode) -> bool:
    """Whether a product of two values, neither of them made of parameters alone, goes in."""
    products = _made_by(node)
    return products is None or any(
        op_name(one) == "scaled_dot_product_attention"
        or (op_name(one) in PRODUCTS_OF_VALUES and sum(not _is_weight(factor) for factor in _factors(one)) > 1)
        for one in products
    )


def _factors(product: FxNode) -> list[FxNode]:
    match op_name(product):
        case "addmm" | "baddbmm":
            given: object = product.args[1:3]
        case "einsum":
            given = product.args[1]
        case _:
            given = product.args[:2]
    return [one for one in cast(Sequence[object], given) if isinstance(one, FxNode)]


def _is_weight(node: FxNode) -> bool:
    return _made_by(node, itself=True) == []


def _made_by(node: FxNode, *, itself: bool = False) -> list[FxNode] | None:
    """The nearest products that a value is made of; None where an input of the model is reached without one."""
    found: list[FxNode] = []
    seen: set[FxNode] = set()
    waiting = [node] if itself else list(node.all_input_nodes)
    reached = False
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.op == "placeholder":
            reached = True
        elif op_name(one) in CONTRACTIONS:
            found.append(one)
        else:
            waiting += one.all_input_nodes
    return None if reached and not found else found
