"""What Lissom measures of itself, beside the field's strongest tools. Not part of the wheel.

    python -m benchmarks run Q2 --data FOLDER --weights FOLDER

One file an experiment in `experiments/`, one JSON file a result in `results/`, all results in `RESULTS.md`.
"""
