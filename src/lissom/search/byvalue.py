"""Modules that another process could not import are sent as they are.

A model is pickled by the name of its class. That of a project file, and of the modules beside it, is known to the
process that ran the file alone: `cloudpickle` sends such a class by value if its module is registered.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from types import ModuleType
from typing import Protocol


class Pickler(Protocol):
    """`cloudpickle`, or the copy of it that Ray has."""

    def register_pickle_by_value(self, module: ModuleType) -> None: ...

    def unregister_pickle_by_value(self, module: ModuleType) -> None: ...


@contextlib.contextmanager
def by_value(pickler: Pickler) -> Generator[None]:
    """What is pickled inside by `pickler` holds the code of modules that no finder finds by their name."""
    held = [module for module in tuple(sys.modules.values()) if _nameless(module)]
    for module in held:
        pickler.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in held:
            pickler.unregister_pickle_by_value(module)


def _nameless(module: ModuleType) -> bool:
    name, file = module.__name__, getattr(module, "__file__", None)
    if sys.modules.get(name) is not module or name == "__main__" or "." in name or not isinstance(file, str):
        return False
    return all(
        find(name, None) is None for finder in sys.meta_path if (find := getattr(finder, "find_spec", None)) is not None
    )
