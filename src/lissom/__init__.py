"""Lissom: compress trained PyTorch models, measured on the runtime they ship on."""

from lissom import data as data
from lissom import errors as errors
from lissom import metrics as metrics
from lissom._version import __version__ as __version__
from lissom.errors import LissomError as LissomError
from lissom.goal import Goal as Goal
from lissom.graph.graph import Graph as Graph
from lissom.pipeline import Result as Result
from lissom.pipeline import analyze as analyze
from lissom.pipeline import compress as compress
from lissom.pipeline import load as load
from lissom.recipe import Recipe as Recipe
from lissom.task import Batch as Batch
from lissom.task import Task as Task
from lissom.transforms.folding import Fold as Fold
from lissom.transforms.quantization import Quantize as Quantize
