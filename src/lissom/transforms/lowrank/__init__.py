from lissom.transforms.lowrank.actions import Split as Split
from lissom.transforms.lowrank.factorize import Factorize as Factorize

__all__ = ["Factorize", "Split"]
