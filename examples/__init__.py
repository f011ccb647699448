"""Runnable examples: a minimal worker and the demo that compares three ways of connecting."""
