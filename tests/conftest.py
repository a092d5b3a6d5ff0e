"""Shared by all tests: `small_models` becomes importable, hypothesis does not time single examples.

`pytest --hypothesis-profile=long tests/test_fuzz.py` (`make fuzz`) tries thousands.
"""

from hypothesis import settings

settings.register_profile("lissom", deadline=None, max_examples=60, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile("lissom")
