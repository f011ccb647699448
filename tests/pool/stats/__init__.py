"""Statistics, holders, waiters and listeners."""
