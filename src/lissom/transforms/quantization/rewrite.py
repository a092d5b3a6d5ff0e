"""Quantizers written into a traced graph, in the operators of PT2E (`quantized_decomposed`).

The arithmetic stays in float between `dequantize` and `quantize`; exporters and ExecuTorch recognise the pattern
and put integer kernels in its place.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed  # pyright: ignore
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.errors import FailureError
from lissom.functional.affine import (
    LIMITS,
    WEIGHT_LIMIT,
    Affine,
    IntType,
    fake_quantize_groups,
    nested,
    quantize_weight,
    round_bias,
    weight_scales,
)
from lissom.functional.overflow import LARGEST_INPUT, safe_scales
from lissom.functional.samples import fake_quantize_samples
from lissom.functional.weightgrid import Bits, low_bit_grid
from lissom.graph.lockstep import attribute
from lissom.target import Granularity
from lissom.transforms.quantization.placement import OUTPUT, Reader

OPS = torch.ops.quantized_decomposed
DTYPES: dict[IntType, torch.dtype] = {"int8": torch.int8, "uint8": torch.uint8}


@torch.library.custom_op("lissom::dynamic_quantize", mutates_args=())
def dynamic_quantize(x: torch.Tensor, group: int) -> torch.Tensor:
    """Rounding that the runtime does by itself at run time; exporters leave it out."""
    return fake_quantize_groups(x, group)


@dynamic_quantize.register_fake
def _(x: torch.Tensor, group: int) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("lissom::sample_quantize", mutates_args=())
def sample_quantize(x: torch.Tensor, axes: int) -> torch.Tensor:
    """Rounding by one range for each example; `axes` is how many axes `x` has, which exporters have to know."""
    return fake_quantize_samples(x)


@sample_quantize.register_fake
def _(x: torch.Tensor, axes: int) -> torch.Tensor:
    return torch.empty_like(x)


def round_value_(
    module: GraphModule, value: str, readers: tuple[Reader, ...], numbers: Affine, *, clip: bool = False
) -> None:
    """Insert quantize and dequantize after `value` for the given readers only; with `clip`, a clip before them.

    Kernels give 8 bits and clip at the ends of the type. Fewer steps are made of those (`affine.nested`): rounded to 8
    bits by the kernel, clipped, rounded again. ONNX Runtime would make one pair of two that follow each other, on
    another grid, were there nothing between them.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    source = nodes[value]
    grid = fixed(numbers)
    inside, after = source, _last_placeholder(module) if source.op == "placeholder" else source
    before: list[tuple[Any, tuple[Any, ...]]] = []
    if numbers.bits < 8:
        first = fixed(nested(numbers))
        before = [(OPS.quantize_per_tensor.default, first), (OPS.dequantize_per_tensor.default, first)]
    if numbers.bits < 8 or clip:
        # A clip at both ends of the grid does nothing, and OpenVINO drops it: no value needs the lowest step.
        low = numbers.low + (numbers.scale if clip else 0.0)
        before.append((torch.ops.aten.clamp.default, (low, numbers.high)))
    for function, args in before:
        with module.graph.inserting_after(after):
            inside = after = module.graph.call_function(function, (inside, *args))
    with module.graph.inserting_after(after):
        quantized = module.graph.call_function(OPS.quantize_per_tensor.default, (inside, *grid))
    # One dequantize for each reader: partitioners claim an operator with the restored inputs it owns.
    for reader in readers:
        with module.graph.inserting_after(quantized):
            restored = module.graph.call_function(OPS.dequantize_per_tensor.default, (quantized, *grid))
        _redirect(nodes, source, restored, reader)


def fixed(numbers: Affine) -> tuple[float, int, int, int, torch.dtype]:
    """What quantize and dequantize get beside the value."""
    return (numbers.scale, numbers.zero_point, *LIMITS[numbers.dtype], DTYPES[numbers.dtype])


def insert_after_(module: GraphModule, value: str, readers: tuple[Reader, ...], submodule: str) -> None:
    """Let the given readers of `value` have what `submodule` makes of it."""
    nodes = {node.name: node for node in module.graph.nodes}
    source = nodes[value]
    with module.graph.inserting_after(_last_placeholder(module) if source.op == "placeholder" else source):
        made = module.graph.call_module(submodule, (source,))
    for reader in readers:
        _redirect(nodes, source, made, reader)


def round_dynamically_(module: GraphModule, node: str, granularity: Granularity, group: int, dtype: IntType) -> None:
    """Give the first input of `node` its own ranges at every call, in the operators that the runtimes recognise."""
    graph = module.graph
    nodes = {n.name: n for n in graph.nodes}
    reader, source = nodes[node], nodes[node].args[0]
    assert isinstance(source, FxNode)
    with graph.inserting_before(reader):
        (low, high), kind = LIMITS[dtype], DTYPES[dtype]
        if granularity == "group":
            restored = graph.call_function(torch.ops.lissom.dynamic_quantize.default, (source, group))
        elif granularity == "sample":
            axes = source.meta["val"].ndim
            restored = graph.call_function(torch.ops.lissom.sample_quantize.default, (source, axes))
        elif granularity == "row":
            qparams = graph.call_function(OPS.choose_qparams_per_token_asymmetric.default, (source, kind))
            scale = graph.call_function(operator.getitem, (qparams, 0))
            zero = graph.call_function(operator.getitem, (qparams, 1))
            quantized = graph.call_function(OPS.quantize_per_token.default, (source, scale, zero, low, high, kind))
            restored = graph.call_function(
                OPS.dequantize_per_token.default, (quantized, scale, zero, low, high, kind, torch.float32)
            )
        else:
            qparams = graph.call_function(
                OPS.choose_qparams.tensor, (source, low, high, torch.finfo(torch.float32).eps, kind)
            )
            scale = graph.call_function(operator.getitem, (qparams, 0))
            zero = graph.call_function(operator.getitem, (qparams, 1))
            quantized = graph.call_function(OPS.quantize_per_tensor.tensor, (source, scale, zero, low, high, kind))
            restored = graph.call_function(OPS.dequantize_per_tensor.tensor, (quantized, scale, zero, low, high, kind))
    reader.replace_input_with(source, restored)


def store_weight_(module: GraphModule, parameter: str, axis: int, scales: torch.Tensor | None = None) -> None:
    """Keep `parameter` as int8 with one scale per slice of `axis`; every reader gets the restored weight.

    `scales` are those of the grid that the weight is on already; without them, the grid of its whole range.

    Raises:
        FailureError: the weight holds NaN or infinite values.
    """
    weight = attribute(module, parameter)
    if scales is None:
        with explained(parameter):
            scales = weight_scales(weight, axis)
    state = {
        "int8": quantize_weight(weight, scales, axis),
        "scale": scales,
        "zero_point": torch.zeros(scales.shape, dtype=torch.int64),
    }
    limits = (axis, -WEIGHT_LIMIT, WEIGHT_LIMIT, torch.int8)
    hold_(module, parameter, state, OPS.dequantize_per_channel.default, limits, {})


def hold_(
    module: GraphModule,
    parameter: str,
    state: Mapping[str, torch.Tensor],
    restore: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Hold `state` as buffers in the place of `parameter`; its readers get `restore(*state, *args, **kwargs)`."""
    weight = attribute(module, parameter)
    owner_name, _, leaf = parameter.rpartition(".")
    owner = module.get_submodule(owner_name)
    for name, tensor in state.items():
        owner.register_buffer(f"{leaf}_{name}", tensor)
    prefix = f"{owner_name}." if owner_name else ""
    old = [
        node
        for node in module.graph.nodes
        if node.op == "get_attr" and operator.attrgetter(str(node.target))(module) is weight
    ]
    with module.graph.inserting_before(old[0]):
        held = [module.graph.get_attr(f"{prefix}{leaf}_{name}") for name in state]
        restored = module.graph.call_function(restore, (*held, *args), kwargs)
    for node in old:
        node.replace_all_uses_with(restored)
        module.graph.erase_node(node)
    for alias, tensor in list(_state(module)):
        if tensor is weight:
            place, _, leaf = alias.rpartition(".")
            delattr(module.get_submodule(place), leaf)


def halve_weight_(module: GraphModule, parameter: str) -> None:
    """Keep `parameter` as float16; every reader gets it in float32.

    Raises:
        FailureError: a value does not fit into float16.
    """
    weight = attribute(module, parameter).detach()
    half = weight.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise FailureError(
            f"The weight {parameter} does not fit into 16 bits: its largest magnitude is {float(weight.abs().max()):g},"
            f" that of float16 {torch.finfo(torch.float16).max:g}. Give its layer 32 bits in Quantize(precision=...)."
        )
    hold_(module, parameter, {"half": half}, torch.ops.aten._to_copy.default, (), {"dtype": torch.float32})


def widens(module: GraphModule, node: FxNode) -> bool:
    """Whether `node` turns a weight that is held in float16 into float32."""
    if node.target is not torch.ops.aten._to_copy.default:
        return False
    (held,) = node.all_input_nodes
    return held.op == "get_attr" and attribute(module, str(held.target)).dtype is torch.float16


def round_bias_(
    module: GraphModule, bias: str, weight: str, input_scale: float, scales: torch.Tensor | None = None, axis: int = 0
) -> None:
    """Put a bias on the grid of the accumulator that the runtime adds it to.

    `weight` is not stored yet; `scales` are those of its grid where it is on one already.
    """
    held = attribute(module, bias)
    if scales is None:
        with explained(weight):
            scales = weight_scales(attribute(module, weight), axis)
    with torch.no_grad():
        held.copy_(round_bias(held, scales, input_scale))


def round_weight_(module: GraphModule, parameter: str, bits: Bits, axis: int = 0) -> torch.Tensor:
    """Put `parameter` on the nearest steps of its grid of `bits`, one run a slice of `axis`; its scales.

    Raises:
        FailureError: the weight holds NaN or infinite values.
    """
    weight = attribute(module, parameter)
    with torch.no_grad(), explained(parameter):
        rows = weight.movedim(axis, 0)
        made = low_bit_grid(rows.flatten(1), bits)
        weight.copy_(made.rounded(rows.flatten(1)).reshape(rows.shape).movedim(0, axis))
    return made.scale[:, 0]


def spared_scales(module: GraphModule, parameter: str, axis: int = 0) -> torch.Tensor:
    """Scales of int8 steps whose products fit into 16 bits two by two.

    Raises:
        FailureError: the weight holds NaN or infinite values.
    """
    weight = attribute(module, parameter)
    with explained(parameter):
        return safe_scales(weight.movedim(axis, 0), weight_scales(weight, axis), LARGEST_INPUT)


@contextlib.contextmanager
def explained(parameter: str) -> Generator[None]:
    """A broken weight, by name.

    Raises:
        FailureError: the weight holds NaN or infinite values.
    """
    try:
        yield
    except ValueError as wrong:
        raise FailureError(
            f"The weight {parameter} cannot be quantized: {wrong}. The model is broken before compression; train "
            "or load it again."
        ) from wrong


def finish_(module: GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _last_placeholder(module: GraphModule) -> FxNode:
    return [node for node in module.graph.nodes if node.op == "placeholder"][-1]


def _redirect(nodes: dict[str, FxNode], source: FxNode, restored: FxNode, reader: Reader) -> None:
    if reader.node == OUTPUT:
        last = next(node for node in nodes.values() if node.op == "output")
        last.replace_input_with(source, restored)
        return
    user = nodes[reader.node]
    everything = [*user.args, *user.kwargs.values()]
    new = torch.fx.map_arg(everything[reader.position], lambda node: restored if node is source else node)
    if reader.position < len(user.args):
        user.update_arg(reader.position, new)
    else:
        user.update_kwarg(list(user.kwargs)[reader.position - len(user.args)], new)
