"""Shared by all tests: `small_models` becomes importable, hypothesis does not time single examples."""

from hypothesis import settings

settings.register_profile("lissom", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("lissom")
