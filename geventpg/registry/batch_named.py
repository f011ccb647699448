"""`send_batch`: a batch on the greenlet's connection of a named pool."""

from __future__ import annotations

from functools import partial

from geventpg.connection.batch.batch import Batch, StatementResult
from geventpg.connection.batch.sending import send_on

from . import pools as registry


def send_batch(
    batch: Batch, name: str = "default", *, atomic: bool = True
) -> list[StatementResult]:
    """Send the statements of *batch* together, on the greenlet's connection of pool *name*.

    As with `Pool.send_batch` the batch is a transaction of its own; inside a transaction of this
    greenlet it is a savepoint there. It also works in processes without gevent, where the pools
    are psycopg_pool's and have no ``send_batch``.
    """
    pool = registry.get_pool(name)
    return send_on(partial(registry.holding, name), pool.connection, batch, atomic=atomic)
