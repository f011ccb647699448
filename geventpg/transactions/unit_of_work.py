"""A unit of work, such as a task, that finds out whether a COMMIT without an answer succeeded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg_pool import ConnectionPool

from geventpg.connection.commit import Mark, identify, place_of, settle
from geventpg.connection.loss import note_outcome
from geventpg.errors import CommitUnknown
from geventpg.registry.held import HeldConnection
from geventpg.registry.scope import Scope

INTRANS = pq.TransactionStatus.INTRANS


@contextmanager
def unit_of_work(*, adopt: bool = False, deadline: float | None = None) -> Iterator[None]:
    """Run a block in a `Scope`, and find out the outcome of a COMMIT that got no answer.

    The block ends normally if everything was committed. Otherwise `is_transient` is right about the
    error that it raises: a unit of work that used several pools is not to be repeated if one of
    them was committed when another failed. Costs a round trip before COMMIT, as `transaction`
    does; blocks for 10 seconds at most after a connection was lost.
    """
    commits = _Commits()
    try:
        with Scope(adopt=adopt, deadline=deadline, commit=commits):
            yield
    except psycopg.Error as error:
        failure = error
        if commits.doubtful is not None:
            mark, failure, pool = commits.doubtful
            # The lost connection is back in the pool, so the look-up needs only one connection.
            if settle(mark, failure, pool.connection):
                if not commits.left:
                    return
                commits.wrote = True
        if commits.wrote:
            note_outcome(failure, rolled_back=False)
        if failure is error:
            raise
        raise failure from failure.__cause__


class _Commits:
    """Commits the connections of a unit of work, one after the other."""

    def __init__(self) -> None:
        self.left = 0
        """The number of connections that are still to be committed."""
        self.wrote = False
        """Whether a transaction that wrote something was committed."""
        self.doubtful: tuple[Mark, psycopg.Error, ConnectionPool[Any]] | None = None

    def __call__(self, mine: list[HeldConnection]) -> None:
        self.left = len(mine)
        for held in mine:
            conn, mark = held.conn, Mark(None, None)
            if conn.pgconn.transaction_status == INTRANS and not conn.read_only:
                mark = identify(conn, place_of(conn))
            self.left -= 1
            try:
                held.end_unit(None)
            except CommitUnknown as unknown:
                if isinstance(unknown.__cause__, psycopg.Error):
                    self.doubtful = mark, unknown.__cause__, held.pool
                raise
            self.wrote = self.wrote or mark.number is not None
