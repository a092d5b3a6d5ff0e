"""A module that needs more than 400 lines is two modules."""

from pathlib import Path

import lissom

LIMIT = 400


def test_no_source_file_is_longer() -> None:
    files = Path(lissom.__file__).parent.rglob("*.py")
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert len(lengths) > 30
    assert {name: length for name, length in lengths.items() if length > LIMIT} == {}
