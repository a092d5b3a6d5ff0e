"""The project that `lissom demo` compresses: `examples/digits.py`, in the wheel as `lissom/_digits.py`.

One file serves both, so that what the demo shows is what a reader of the examples can copy.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from lissom.errors import ProjectError

if TYPE_CHECKING:
    from torch import nn

    from lissom.task import Task


def path() -> Path:
    """The project file, in an installed Lissom or in a checkout.

    Raises:
        ProjectError: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    places = (here / "_digits.py", here.parents[1] / "examples" / "digits.py")
    for place in places:
        if place.is_file():
            return place
    raise ProjectError(f"The demonstration project is neither {places[0]} nor {places[1]}. Install Lissom again.")


def build(seed: int = 0, epochs: int = 8) -> tuple[nn.Module, Task]:
    """The trained network on scikit-learn's digits, about two seconds of training, and its task.

    Raises:
        ProjectError: scikit-learn is not installed, or the project file is missing.
    """
    spec = importlib.util.spec_from_file_location("lissom_demo_digits", path())
    if spec is None or spec.loader is None:
        raise ProjectError(f"{path()} cannot be imported. Install Lissom again.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(seed=seed, epochs=epochs)
