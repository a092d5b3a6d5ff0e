"""`Quantize`: post-training int8, static or dynamic, placed by the target's table."""

from lissom.transforms.quantization.quantize import Quantize as Quantize
from lissom.transforms.quantization.quantize import planned_precision as planned_precision
