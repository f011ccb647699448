"""Transactions that are repeated when that is safe."""
