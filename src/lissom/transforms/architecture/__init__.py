from lissom.transforms.architecture.deriving import Choose
from lissom.transforms.architecture.supernet import Supernet

__all__ = ["Choose", "Supernet"]
