"""Many tasks in one model: `lissom.Lifelong` and the methods that add a task."""

from lissom.lifelong.lifelong import Inferred as Inferred
from lissom.lifelong.lifelong import Lifelong as Lifelong
from lissom.lifelong.lifelong import Proof as Proof
from lissom.lifelong.settings import EWC as EWC
from lissom.lifelong.settings import Grow as Grow
from lissom.lifelong.settings import LwF as LwF
from lissom.lifelong.settings import Method as Method
from lissom.lifelong.settings import Pack as Pack
from lissom.lifelong.settings import ProgressAndCompress as ProgressAndCompress
from lissom.training.settings import Training as Training

__all__ = ["EWC", "Grow", "Inferred", "Lifelong", "LwF", "Method", "Pack", "ProgressAndCompress", "Proof", "Training"]
