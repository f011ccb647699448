"""Benchmarks of geventpg and its peers: ``python -m benchmarks --help``."""
