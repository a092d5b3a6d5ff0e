"""Time and peak memory of quantizing and exporting a ResNet-50, for a fresh process: `python -m benchmarks.cost DIR`.

The model is made before the clock starts; peak memory counts everything that the process ever held, torch and the
float model included.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.experiments.r50 import quantized
from benchmarks.models import resnet50
from lissom.measure.footprint import peak_bytes, reset_peak


def main(folder: str) -> None:
    model = resnet50()
    reset_peak()
    started = time.perf_counter()
    quantized(model, folder)
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - started, "peak_bytes": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
