"""Benchmarks of Wardround; `python -m benchmarks` runs them all."""
