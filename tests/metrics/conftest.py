"""Fixtures for the tests of metrics: those of pools and of workers."""

from tests.celery_integration.conftest import client, make_worker, own_worker, work_admin
from tests.pool.conftest import make_pool

__all__ = ["client", "make_pool", "make_worker", "own_worker", "work_admin"]
