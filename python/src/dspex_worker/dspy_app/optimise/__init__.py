"""Evaluating and optimising programs: runs of their own, with metrics, datasets, limits and progress."""
