"""What every network of P6 imports, once: its processes are forked from one that has done so."""

import importlib
import importlib.util

from lissom.sources.optional import ready_torchvision

ready_torchvision()
for package in ("timm", "transformers"):
    if importlib.util.find_spec(package):
        importlib.import_module(package)
