"""`send_batch`: a batch on the greenlet's connection of a named pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import registry
from .batch import Batch, StatementResult
from .batch_sending import send_on
from .binding import current_holder
from .bound import BindableConnection


def send_batch(
    batch: Batch, name: str = "default", *, atomic: bool = True
) -> list[StatementResult]:
    """Send the statements of *batch* together, on the greenlet's connection of pool *name*.

    As `Pool.send_batch`, in a transaction of its own; inside a transaction of this greenlet
    the batch is a savepoint of that one. It works in processes without gevent too, whose
    pools are psycopg_pool's and have no ``send_batch``.
    """
    pool = registry.get_pool(name)
    return send_on(lambda: _held(name), pool.connection, batch, atomic=atomic)


@contextmanager
def _held(name: str) -> Iterator[BindableConnection[Any]]:
    before = current_holder().held.get(name)
    held = registry.hold(name)
    held.depth += 1
    try:
        yield held.conn
    finally:
        held.depth -= 1
        if not held.depth and held is not before:
            held.give_back()
