"""One experiment a file: `TITLE`, `NEEDS` and `run(context) -> Outcome`."""
