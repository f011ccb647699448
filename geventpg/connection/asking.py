"""Asking the server something for ourselves, as plainly as can be.

Directly and not with a cursor, which would open a transaction, count for preparing, and take part
in the user's row factories.
"""

from __future__ import annotations

from psycopg import errors, generators, pq
from psycopg.abc import PQGen


def ask_gen(pgconn: pq.abc.PGconn, query: bytes) -> PQGen[list[pq.abc.PGresult]]:
    """Send *query*, which may be several statements, and return a result for each.

    Raise the server's error, after which it executed none of the rest.
    """
    pgconn.send_query(query)
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    if results and results[-1].status == pq.ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(results[-1], encoding=pgconn._encoding)
    return results
