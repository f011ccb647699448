"""Fixtures for the tests of statistics: those of pools."""

from tests.pool.conftest import embedded_dsn, make_pool

__all__ = ["embedded_dsn", "make_pool"]
