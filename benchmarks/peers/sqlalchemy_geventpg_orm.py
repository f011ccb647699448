"""SQLAlchemy's ORM on geventpg's dialect."""

from __future__ import annotations

from benchmarks.peers import sqlalchemy_orm


class Driver(sqlalchemy_orm.Driver):
    url = "postgresql+geventpg://"
