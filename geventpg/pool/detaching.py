"""Taking a connection out of its pool without closing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geventpg.connection.abc import UNOBSERVED

from .causes import Cause

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .pool import Pool


def detach(pool: Pool[Any], conn: Connection[Any]) -> None:
    """Give *conn*, which is checked out, to who has it, for good; the pool may open another.

    Does not switch or talk to the server. Closing the connection is up to its owner from now on.
    """
    slot = pool._out[conn]
    pool._leaks.returned(slot)
    pool._bag.remove(slot)
    pool._left(slot, Cause.DETACHED)
    conn.observer = UNOBSERVED
    conn._pool = None
    conn.checkout = None
    pool._update_fast_paths()
    pool._connector.plan()
