"""Lissom: compress trained PyTorch models, measured on the runtime they ship on."""

from lissom import data as data
from lissom import metrics as metrics
from lissom._version import __version__ as __version__
from lissom.task import Batch as Batch
from lissom.task import Task as Task
