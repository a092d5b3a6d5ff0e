from lissom.transforms.lowrank.factorize import Factorize, Split

__all__ = ["Factorize", "Split"]
