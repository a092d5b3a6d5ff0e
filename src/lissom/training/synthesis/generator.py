"""A small network that makes images (sounds, volumes) from noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import DataError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SLOPE = 0.2


class Generator(nn.Module):
    """`(n, latent)` noise to `(n, *shape)`, shape `(channels, *positions)`, one to three axes of positions.

    As in DAFL (Chen et al. 2019): a linear map to a quarter of the resolution, twice enlarged by repetition and
    convolved, and the last normalization gives the inputs mean 0 and variance 1. Deviations: half the channels where
    the resolution is doubled, any size of image; where the inputs have bounds, the last normalization learns scale
    and shift.

    Raises:
        DataError: a shape without positions.
    """

    def __init__(self, shape: Sequence[int], latent: int, width: int, *, bounded: bool) -> None:
        super().__init__()
        channels, *positions = shape
        if not 1 <= len(positions) <= len(CONVOLUTIONS):
            raise DataError(
                f"A generator makes images, sounds or volumes, and the input has the shape {tuple(shape)} for each "
                "example. Take method='inversion', which makes inputs of any shape."
            )
        convolution, normalization = CONVOLUTIONS[len(positions) - 1], NORMALIZATIONS[len(positions) - 1]
        self.sizes = [tuple(-(-size // part) for size in positions) for part in (4, 2, 1)]
        self.start = (2 * width, *self.sizes[0])
        count = 2 * width
        for size in self.sizes[0]:
            count *= size
        self.spread = nn.Linear(latent, count)
        self.norms = nn.ModuleList([normalization(2 * width), normalization(2 * width), normalization(width)])
        self.convolutions = nn.ModuleList(
            [convolution(2 * width, 2 * width, 3, padding=1), convolution(2 * width, width, 3, padding=1)]
        )
        # Saturation first: most of a normalized image may be background, one value far below its mean.
        ends = [normalization(channels)] if bounded else [nn.Tanh(), normalization(channels, affine=False)]
        self.last = nn.Sequential(convolution(width, channels, 3, padding=1), *ends)

    def forward(self, noise: Tensor) -> Tensor:
        x = self.norms[0](self.spread(noise).view(-1, *self.start))
        for size, convolution, norm in zip(self.sizes[1:], self.convolutions, self.norms[1:], strict=True):
            x = F.leaky_relu(norm(convolution(F.interpolate(x, size=size))), SLOPE)
        return self.last(x)
