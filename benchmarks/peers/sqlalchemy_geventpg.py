"""SQLAlchemy on geventpg's dialect, with the same arguments as on QueuePool."""

from __future__ import annotations

from benchmarks.peers import sqlalchemy_pool


class Driver(sqlalchemy_pool.Driver):
    url = "postgresql+geventpg://"
