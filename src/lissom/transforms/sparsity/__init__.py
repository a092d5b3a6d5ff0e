"""Single weights of convolutions and linear layers set to zero, anywhere or in N:M patterns."""

from lissom.transforms.sparsity.actions import PermuteChannels, Study, ZeroWeights
from lissom.transforms.sparsity.sparsify import Sparsify

__all__ = ["PermuteChannels", "Sparsify", "Study", "ZeroWeights"]
