"""What is known of a layer that can be split, and of the parts that it may become: sizes and positions, no weights."""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

from torch import nn

from lissom.settings import Setting

Chain = Literal["tt", "ring", "kronecker"]
CHAINS: tuple[Chain, ...] = ("tt", "ring", "kronecker")
Method = Literal["svd", "spatial", "tucker", "full-tucker", "cp", "tt", "ring", "kronecker"]
METHODS: tuple[Method, ...] = ("svd", "spatial", "tucker", "full-tucker", "cp", *CHAINS)
PLAIN: dict[type[nn.Module], int] = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3, nn.Embedding: 0}
"""Classes that can be replaced, and the axes of their kernels. A subclass may do more, and is not."""

Where = Literal["outputs", "inputs", "between"] | int


class Shape(Setting):
    """A layer's weight, and at how many positions of one example it is computed, over all calls."""

    outs: int
    """Rows of the weight: outputs, or the entries of a table."""
    ins: int
    """Inputs, or the width of a table."""
    kernel: tuple[int, ...]
    """Empty for a linear layer and for a table."""
    bias: bool
    outputs: int
    inputs: int
    between: int
    """Output rows times input columns."""
    steps: tuple[int, ...] = ()
    """Positions with the first 0, 1, .. axes of the kernel done, from input to output positions."""
    table: bool = False
    """Rows are looked up, not multiplied: `nn.Embedding`."""
    padded: bool = False
    """A row of the table stands for nothing and must stay as it is: `padding_idx`."""

    @property
    def window(self) -> int:
        return prod(self.kernel)

    @property
    def macs(self) -> int:
        return 0 if self.table else self.outs * self.ins * self.window * self.outputs

    @property
    def parameters(self) -> int:
        return self.outs * self.ins * self.window + self.outs * self.bias


class Stage(NamedTuple):
    """Weight shape (outs, ins, *kernel) of one part, where it is computed, and the axes on which it has the kernel of
    the layer, with its stride, dilation and padding.

    `where`: a number n means with the first n axes of the kernel done. `times`: how often it is computed at each
    position. `work`: multiplications of one time, where these are not the numbers of the weight (look-ups). `groups`:
    of a part that reads `ins` channels for each of so many.
    """

    outs: int
    ins: int
    kernel: tuple[int, ...]
    where: Where
    axes: tuple[int, ...] = ()
    times: int = 1
    work: int | None = None
    groups: int = 1

    @property
    def parameters(self) -> int:
        return self.outs * self.ins * prod(self.kernel)

    def macs(self, shape: Shape) -> int:
        at = {"outputs": shape.outputs, "inputs": shape.inputs, "between": shape.between}
        positions = shape.steps[self.where] if isinstance(self.where, int) else at[self.where]
        return self.times * positions * (self.parameters if self.work is None else self.work)
