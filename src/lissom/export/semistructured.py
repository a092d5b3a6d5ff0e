"""Linear layers in the pattern 2:4 on the sparse tensor cores of an NVIDIA GPU, in PyTorch itself.

The weights become `torch.sparse` tensors (`to_sparse_semi_structured`), which no file format holds: this is for a model
that runs where it was compressed. Convolutions stay dense, torch has no sparse kernel for them; TensorRT has.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lissom.errors import TargetError, first_line
from lissom.functional.nm import Pattern

PATTERN = Pattern(2, 4)
AMPERE = (8, 0)
"""The first compute capability with sparse tensor cores."""


@dataclass(frozen=True, eq=False)
class Converted:
    """The model on the GPU, the layers that run on sparse tensor cores, and why the other linear ones do not."""

    model: nn.Module
    sparse: tuple[str, ...]
    dense: dict[str, str]


def semi_structured(model: nn.Module, dtype: torch.dtype = torch.float16) -> Converted:
    """A copy of `model` on the GPU in `dtype`, its linear layers in the pattern 2:4 as semi-structured sparse ones.

    Raises:
        TargetError: there is no NVIDIA GPU with sparse tensor cores.
    """
    if not torch.cuda.is_available():
        raise TargetError(
            "Semi-structured sparse layers need an NVIDIA GPU, and torch sees none. On a CPU zeros cost what other "
            "numbers do: nothing would be faster."
        )
    found = torch.cuda.get_device_capability()
    if found < AMPERE:
        raise TargetError(
            f"Semi-structured sparse layers need an NVIDIA GPU of compute capability {AMPERE[0]}.{AMPERE[1]} or later "
            f"(Ampere), this one has {found[0]}.{found[1]}."
        )
    return converted(model, lambda weight: weight.to("cuda", dtype), torch.sparse.to_sparse_semi_structured)


def converted(model: nn.Module, place: Callable[[Tensor], Tensor], compress: Callable[[Tensor], Tensor]) -> Converted:
    """A copy of `model` with every floating-point tensor put in `place`, and linear weights in the pattern compressed;
    `compress` raises RuntimeError for shapes that its kernels do not take."""
    made = _placed(model, place)
    sparse: list[str] = []
    dense: dict[str, str] = {}
    for name, layer in made.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if not PATTERN.held_by(layer.weight.detach()):
            dense[name] = f"its weight does not have the pattern {PATTERN}"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls the interface a prototype
                weight = compress(layer.weight.detach().contiguous())
        except RuntimeError as wrong:
            dense[name] = first_line(wrong)
            continue
        layer.weight = nn.Parameter(weight, requires_grad=False)
        sparse.append(name)
    return Converted(made, tuple(sparse), dense)


@torch.no_grad()
def _placed(model: nn.Module, place: Callable[[Tensor], Tensor]) -> nn.Module:
    made = copy.deepcopy(model).eval()

    def moved(tensor: Tensor) -> Tensor:
        return place(tensor) if tensor.is_floating_point() else tensor.to(place(torch.zeros(())).device)

    return made._apply(moved)  # pyright: ignore[reportPrivateUsage]  what Module.to itself calls
