"""Inputs made up for a teacher, where there are no data."""
