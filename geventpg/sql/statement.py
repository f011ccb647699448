"""`Statement`: prepared once by the program, by each connection when it needs it."""

from __future__ import annotations

from typing import Any

from psycopg import abc, sql


class Statement(sql.Composed):
    """A statement that any connection executes, and prepares when it does so first.

    Give it to ``execute`` in place of the text: ``conn.execute(statement, params)``. *query* is
    what psycopg takes there, with its placeholders, but no template string, which has values in
    it. Making one does not block or connect, and it belongs to no pool.

    A connection does not wait until it has executed it five times. Where nothing is prepared
    (behind a pooler, ``prepare="never"``, ``prepare=False``), it is executed all the same, and
    one that was lost or went stale is prepared anew. On a connection that is not geventpg's it
    is what its text is: prepared after five times, or at once with ``prepare=True``.
    """

    __module__ = "geventpg"

    def __init__(self, query: abc.QueryNoTemplate) -> None:
        if isinstance(query, bytes):
            query = query.decode()
        if not isinstance(query, (str, sql.SQL, sql.Composed)):
            raise TypeError(f"a statement is a str, bytes, SQL or Composed, not {_name_of(query)}")
        self.query: str | sql.SQL | sql.Composed = query
        super().__init__([sql.SQL(query) if isinstance(query, str) else query])


def _name_of(value: Any) -> str:
    return type(value).__name__
