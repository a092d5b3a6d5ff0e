"""Two graphs with nodes of the same names, run side by side, node by node, on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.graph.describe import argument_names, hint_of
from lissom.task import Batch, fitting, sliced

MEMORY = 2**31
"""Bytes that the values of both graphs may take: all examples are held at once, so large images mean fewer of them."""


def first(batches: Iterable[Batch], examples: int, fixed_batch: int | None) -> Iterator[Batch]:
    """Batches of at most so many examples; one whole batch where the graphs take no other."""
    left = examples
    for batch in batches:
        for piece in fitting(batch, fixed_batch):
            if left <= 0:
                return
            yield piece if fixed_batch or piece.size <= left else sliced(piece, 0, left)
            left -= piece.size


def example_bytes(module: GraphModule) -> int:
    """The most that the values of one example take at a time, views counted as copies."""
    gone = last_uses(module)
    sizes: dict[FxNode, int] = {}
    alive = most = 0
    batch = 1
    for node in module.graph.nodes:
        tensors = [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)]
        if node.op == "placeholder" and tensors and tensors[0].ndim:
            batch = max(batch, hint_of(tensors[0].shape[0]))
        held = node.op not in ("get_attr", "output")
        sizes[node] = sum(prod(map(hint_of, t.shape)) * t.element_size() for t in tensors) if held else 0
        alive += sizes[node]
        most = max(most, alive)
        alive -= sum(sizes[one] for one in gone[node])
    return max(1, most // batch)


def interpreter(module: GraphModule, inputs: list[Any]) -> Interpreter:
    made = Interpreter(module, garbage_collect_values=False)
    made.args_iter = iter(inputs)
    return made


def run(interpreter: Interpreter, node: FxNode, *, keep: bool = True) -> Any:
    value = interpreter.run_node(node)
    if keep:
        interpreter.env[node] = value
    return value


def given(interpreter: Interpreter, node: FxNode) -> dict[str, Any]:
    """What a call is given, by the names of its operator's arguments."""
    args, kwargs = interpreter.fetch_args_kwargs_from_env(node)
    return {**dict(zip(argument_names(node), args, strict=False)), **kwargs}


def last_uses(module: GraphModule) -> Mapping[FxNode, tuple[FxNode, ...]]:
    """Node to the values that nothing after it reads."""
    seen: set[FxNode] = set()
    found: dict[FxNode, tuple[FxNode, ...]] = {}
    for node in reversed(list(module.graph.nodes)):
        gone = tuple(dict.fromkeys(s for s in node.all_input_nodes if s not in seen))
        seen.update(gone)
        unread = (node,) if not node.users and node.op != "output" else ()
        found[node] = gone + unread
    return found


def readers(module: GraphModule) -> dict[str, int]:
    """How many calls read each parameter."""
    found: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            found[str(node.target)] = found.get(str(node.target), 0) + len(node.users)
    return found


def tensor_of(module: GraphModule, node: FxNode) -> Tensor:
    return attribute(module, str(node.target))


def attribute(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer `name`."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def set_tensor(module: GraphModule, node: FxNode, value: Tensor) -> None:
    tensor_of(module, node).copy_(value)
