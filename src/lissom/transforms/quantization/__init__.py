"""`Quantize`: post-training int8, static or dynamic, placed by the target's table."""

from lissom.transforms.quantization.quantize import Quantize as Quantize
