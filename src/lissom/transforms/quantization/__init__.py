"""`Quantize`: int8 or fewer bits, static or dynamic, placed by the target's table, after training or trained."""

from lissom.transforms.quantization.attention import products_of as products_of
from lissom.transforms.quantization.learning import QAT as QAT
from lissom.transforms.quantization.planning import layer_bits as layer_bits
from lissom.transforms.quantization.planning import planned_precision as planned_precision
from lissom.transforms.quantization.precision import stored_as as stored_as
from lissom.transforms.quantization.quantize import Quantize as Quantize
from lissom.transforms.quantization.tables import PrecisionTable as PrecisionTable
