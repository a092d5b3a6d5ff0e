"""What is trained along between a student's maps and a teacher's, and is no part of the result.

A regressor takes pairs `(n, c, *positions)` of the same positions, shallow to deep, and gives pairs of the same widths.

`Fusion` is the attention-based fusion of Chen et al. 2021 (arXiv:2104.09044), section 3.3: from the deepest tap to the
shallowest,

    x_i = enter_i(S_i),  a = sigmoid(attend_i([x_i, y])),  f_i = a_0 x_i + a_1 y,  y = f_{i+1} at the size of x_i

and leave_i(f_i) is compared with A_i: shallow maps of the teacher review deep ones of the student. Unlike there, the
convolutions have biases in place of batch normalizations, whose statistics several processes would not share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maps = tuple[Tensor, Tensor]
"""Student's and teacher's values at one tap, `(n, c, *positions)` with the same positions."""
Widths = Sequence[tuple[int, int]]
"""Channels of student and teacher at each tap."""
WIDEST = 512
"""Channels between, at most."""


class Pointwise(nn.Module):
    """A linear map of channels at each tap where they differ in number."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({str(i): nn.Conv1d(s, t, 1) for i, (s, t) in enumerate(widths) if s != t})

    def forward(self, taps: Sequence[Maps]) -> list[Maps]:
        return [(self._one(str(index), student), teacher) for index, (student, teacher) in enumerate(taps)]

    def _one(self, name: str, student: Tensor) -> Tensor:
        if name not in self.maps:
            return student
        return self.maps[name](student.flatten(2) if student.ndim > 2 else student[:, :, None]).view(
            len(student), -1, *student.shape[2:]
        )


class Fusion(nn.Module):
    """See the module."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        middle = min(WIDEST, max(student for student, _ in widths))
        self.enter = nn.ModuleList(nn.Conv2d(student, middle, 1) for student, _ in widths)
        self.attend = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in widths[1:])
        self.leave = nn.ModuleList(nn.Conv2d(middle, teacher, 3, padding=1) for _, teacher in widths)

    def forward(self, taps: Sequence[Maps]) -> list[Maps]:
        found: list[Maps] = []
        deeper: Tensor | None = None
        for index in reversed(range(len(taps))):
            student, teacher = taps[index]
            fused = self.enter[index](_image(student))
            if deeper is not None:
                above = F.interpolate(deeper, fused.shape[2:], mode="nearest")
                share = torch.sigmoid(self.attend[index](torch.cat([fused, above], 1)))
                fused = share[:, :1] * fused + share[:, 1:] * above
            deeper = fused
            made: Tensor = self.leave[index](fused)
            found.append((made.view(len(made), -1, *student.shape[2:]), teacher))
        return found[::-1]


def _image(values: Tensor) -> Tensor:
    """`(n, c, t)` as an image of height 1."""
    return values if values.ndim == 4 else values.flatten(2)[:, :, None]
