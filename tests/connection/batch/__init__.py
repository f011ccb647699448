"""Batches: statements sent together, and what is known of each whatever happens."""
