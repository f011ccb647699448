"""SQLAlchemy's ORM on QueuePool: a session for each query, which loads one object."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.peers import sqlalchemy_pool
from benchmarks.peers.base import Row
from benchmarks.workload import TABLE


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(primary_key=True)
    payload: Mapped[str]


class Driver(sqlalchemy_pool.Driver):
    def query(self, key: int) -> Row:
        # The end of the block gives the connection back; a read needs no commit.
        with Session(self.engine) as session:
            item = session.get(Item, key)
            return item and (item.id, item.payload)
