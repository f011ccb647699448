"""Thousands of interruptions at random moments: every answer belongs to its own statement."""

from __future__ import annotations

import gc
import time

import gevent
import psycopg
import pytest

import geventpg
from tests.connection.helpers import active, token
from tests.support import wait_until

ACTIVE = psycopg.pq.TransactionStatus.ACTIVE
IDLE = psycopg.pq.TransactionStatus.IDLE
OFF = psycopg.pq.PipelineStatus.OFF

GREENLETS = 6
SECONDS = 5.0
ENOUGH = 200


def _select(conn, expected):
    return conn.execute("select %s::text", [expected]).fetchone()[0]


def _slow_select(conn, expected):
    return conn.execute("select %s::text, pg_sleep(0.002)", [expected]).fetchone()[0]


def _prepared(conn, expected):
    return conn.execute("select %s::text as prepared", [expected], prepare=True).fetchone()[0]


def _several(conn, expected):
    cur = conn.execute(f"select 1; select pg_sleep(0.001); select '{expected}'")
    return cur.set_result(-1).fetchone()[0]


def _wide(conn, expected):
    query = "select %s::text, repeat('w', 1000) from generate_series(1, 500)"
    return {row[0] for row in conn.execute(query, [expected])}.pop()


def _large_parameter(conn, expected):
    return (
        conn.execute("select right(%s::text, 20)", ["l" * 1_000_000 + expected])
        .fetchone()[0]
        .lstrip("l")
    )


def _copy_out(conn, expected):
    query = f"copy (select '{expected}' from generate_series(1, 3000)) to stdout"
    with conn.cursor() as cur, cur.copy(query) as copy:
        return {row[0] for row in copy.rows()}.pop()


def _copy_in(conn, expected):
    with conn.transaction(force_rollback=True):
        conn.execute("create temporary table incoming (note text)")
        with conn.cursor() as cur, cur.copy("copy incoming from stdin") as copy:
            for _ in range(300):
                copy.write_row((expected,))
        return conn.execute("select distinct note from incoming").fetchone()[0]


def _pipeline(conn, expected):
    # libpq leaves single-row mode outside pipelines only, so a stream() directly before one makes
    # psycopg fail, stock psycopg too.
    conn.execute("select 1")
    with conn.pipeline():
        conn.execute("select 'not this'")
        conn.execute("select pg_sleep(0.001)")
        cur = conn.execute("select %s::text", [expected])
    return cur.fetchone()[0]


def _executemany(conn, expected):
    cur = conn.execute("select 1")  # see above
    cur.executemany("select %s::text", [("no",), (expected,)], returning=True)
    return cur.set_result(1).fetchone()[0]


def _stream(conn, expected):
    query = "select %s::text from generate_series(1, 50)"
    return {row[0] for row in conn.cursor().stream(query, [expected])}.pop()


def _server_side_cursor(conn, expected):
    with conn.transaction(), conn.cursor("random") as cur:
        cur.execute("select %s::text from generate_series(1, 20)", [expected])
        return {row[0] for row in cur}.pop()


def _transaction(conn, expected):
    with conn.transaction():
        conn.execute("select 1")
        with conn.transaction():
            return _select(conn, expected)


def _commit(conn, expected):
    result = _select(conn, expected)
    conn.commit()
    return result


def _notifies(conn, expected):
    list(conn.notifies(timeout=0.001))
    return expected


OPERATIONS = [
    _select,
    _slow_select,
    _prepared,
    _several,
    _wide,
    _large_parameter,
    _copy_out,
    _copy_in,
    _pipeline,
    _executemany,
    _stream,
    _server_side_cursor,
    _transaction,
    _commit,
    _notifies,
]


class _Worker:
    """One greenlet with one connection, reconnecting whenever it was closed."""

    def __init__(self, dsn, rng, counts):
        self._dsn = dsn
        self._rng = rng
        self._counts = counts
        self._conn = None

    def run(self, goes_on):
        try:
            while goes_on():
                self._step()
        finally:
            if self._conn is not None:
                self._conn.close()

    def _step(self):
        operation = self._rng.choice(OPERATIONS)
        expected = token()
        # Never so soon that nothing has happened, mostly while it is under way, sometimes after.
        limit = self._rng.random() ** 2 * 0.012
        result = None
        try:
            with gevent.Timeout(limit):
                result = operation(self._connection(), expected)
        except gevent.Timeout:
            self._counts["interrupted"] += 1
        else:
            assert result == expected, operation.__name__
            self._counts["finished"] += 1
        conn = self._conn
        if conn is None or conn.closed:
            return
        assert conn.info.transaction_status != ACTIVE, f"{operation.__name__} left it active"
        assert conn.pgconn.pipeline_status == OFF, f"{operation.__name__} left its pipeline"
        if result is None and self._rng.random() < 0.2:
            return  # a careless user: no rollback
        conn.rollback()
        assert conn.info.transaction_status == IDLE

    def _connection(self):
        conn = self._conn
        if conn is None or conn.closed:
            if conn is not None:
                self._counts["closed"] += 1
            self._conn = None
            self._conn = geventpg.Connection.connect(self._dsn, autocommit=self._rng.random() < 0.5)
        elif conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            conn.rollback()
        return self._conn


# Interrupted in its own close(), a server-side cursor stays open, as in psycopg.
@pytest.mark.filterwarnings("ignore:.*ServerCursor.*deleted while still open:ResourceWarning")
@pytest.mark.slow
def test_random_timeouts_over_random_operations(dsn, rng, backends):
    counts = dict.fromkeys(("interrupted", "finished", "closed"), 0)
    until = time.monotonic() + SECONDS

    def goes_on():
        # On a busy machine few operations end in time: then it takes longer.
        left = until - time.monotonic()
        return left > 0 or (left > -20 and min(counts["interrupted"], counts["finished"]) <= ENOUGH)

    greenlets = [gevent.spawn(_Worker(dsn, rng, counts).run, goes_on) for _ in range(GREENLETS)]
    try:
        gevent.joinall(greenlets, raise_error=True, timeout=SECONDS + 40)
        assert all(greenlet.dead for greenlet in greenlets), "a worker hangs"
    finally:
        gevent.killall(greenlets)
        gc.collect()
    print(counts)
    assert counts["interrupted"] > ENOUGH
    assert counts["finished"] > ENOUGH
    assert counts["closed"] < counts["interrupted"] * 0.1
    wait_until(lambda: not active(backends), timeout=3, message="nothing runs on the server")
    wait_until(lambda: not backends(), timeout=3, message="no backend is left")
