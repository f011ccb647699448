"""Every way in which data goes to the server and comes back."""

from __future__ import annotations

import gevent
import psycopg
import pytest
from psycopg import sql

from tests.connection.helpers import Attempt, Ticker, active, token
from tests.support import wait_until

MEGABYTE = 1024 * 1024

# Wide rows, because the server sends when it has some kilobytes.
SLOW_ROWS = "select i, pg_sleep({delay}), repeat('w', 10000) from generate_series(1, {count}) as i"


@pytest.fixture
def table(conn):
    conn.execute("create temporary table things (id int, note text)")
    return "things"


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_parameter_of_tens_of_megabytes_is_sent_while_others_run(connect, autocommit):
    conn = connect(autocommit=autocommit)
    data = b"\x01\xfe" * (20 * MEGABYTE)
    with Ticker() as ticker:
        for _ in range(2):
            length, digest = conn.execute(
                "select length(%(d)s::bytea), md5(%(d)s::bytea)", {"d": data}
            ).fetchone()
            assert length == len(data)
            assert len(digest) == 32
    assert ticker.ticks >= 5


def test_a_result_of_tens_of_megabytes_arrives_whole_while_others_run(conn):
    with Ticker() as ticker:
        rows = conn.execute(
            "select i, repeat('x', 1000) from generate_series(1, 30000) as i"
        ).fetchall()
    assert [row[0] for row in rows] == list(range(1, 30001))
    assert ticker.ticks >= 5


def test_copy_in_and_out_carry_the_same_rows(conn, table):
    with conn.cursor() as cur:
        with cur.copy("copy things from stdin") as copy:
            for number in range(1000):
                copy.write_row((number, f"row {number}\n\t\\"))
        assert cur.rowcount == 1000
        with cur.copy("copy (select * from things order by id) to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == [(n, f"row {n}\n\t\\") for n in range(1000)]


def test_a_large_copy_in_lets_others_run(conn, table):
    block = b"".join(b"%d\t%s\n" % (number, b"y" * 1000) for number in range(1000))
    cur = conn.cursor()
    with Ticker() as ticker, cur.copy("copy things from stdin") as copy:
        for _ in range(40):
            copy.write(block)
    assert cur.rowcount == 40_000
    assert ticker.ticks >= 5
    # Not as long as the whole transfer takes: the writer gives way although its socket is ready.
    assert ticker.longest_gap < 0.3


def test_a_large_copy_out_lets_others_run(conn):
    received = 0
    with Ticker() as ticker, conn.cursor() as cur:
        query = "copy (select repeat('z', 1000) from generate_series(1, 40000)) to stdout"
        with cur.copy(query) as copy:
            for data in copy:
                received += len(data)
    assert received == 40_000 * 1001
    assert ticker.ticks >= 5


def test_a_binary_copy_works(conn, table):
    with conn.cursor() as cur:
        with cur.copy("copy things from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((7, "seven"))
        with cur.copy("copy things to stdout (format binary)") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == [(7, "seven")]


def test_an_exception_in_a_copy_block_undoes_the_copy(conn, table):
    def fail():
        with conn.cursor() as cur, cur.copy("copy things from stdin") as copy:
            copy.write_row((1, "one"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert conn.execute("select count(*) from things").fetchone() == (0,)


def test_an_exception_in_a_copy_out_ends_it_on_the_server(conn, backends):
    def read_some():
        with (
            conn.cursor() as cur,
            cur.copy("copy (select generate_series(1, 10000000)) to stdout") as copy,
        ):
            assert copy.read()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_some()
    assert not active(backends)
    assert conn.execute("select 5").fetchone() == (5,)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pipeline_sends_many_statements_at_once(connect, autocommit):
    conn = connect(autocommit=autocommit)
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("select %s::int", [number]) for number in range(300)]
        pipeline.sync()
        assert [cur.fetchone()[0] for cur in cursors] == list(range(300))
    conn.rollback()
    assert conn.execute("select 1").fetchone() == (1,)


def test_a_pipeline_with_megabytes_both_ways_does_not_stop(conn):
    blob = "p" * MEGABYTE
    with conn.pipeline():
        cursors = [conn.execute("select %s::text", [blob]) for _ in range(20)]
        assert all(cur.fetchone() == (blob,) for cur in cursors)


def test_an_error_in_a_pipeline_reaches_its_cursor_and_the_connection_lives(conn):
    with pytest.raises(psycopg.errors.DivisionByZero), conn.pipeline():
        conn.execute("select 1")
        conn.execute("select 1/0")
        conn.execute("select 2")
    assert conn.execute("select 3").fetchone() == (3,)


def test_the_round_trips_of_a_pipeline_are_one(connect, proxy, dsn):
    conn = connect(proxy.dsn(dsn), autocommit=True)
    proxy.delay(0.05)
    attempt = Attempt(_ten_in_a_pipeline, conn).join()
    assert attempt.result == list(range(10))
    assert attempt.took < 0.5
    proxy.delay(0)


def _ten_in_a_pipeline(conn):
    with conn.pipeline():
        cursors = [conn.execute("select %s::int", [number]) for number in range(10)]
    return [cur.fetchone()[0] for cur in cursors]


def test_executemany_inserts_everything(conn, table):
    with conn.cursor() as cur:
        cur.executemany(
            "insert into things values (%s, %s)", [(n, f"note {n}") for n in range(2000)]
        )
        assert cur.rowcount == 2000
    assert conn.execute("select count(*), sum(id) from things").fetchone() == (2000, 1999000)


def test_executemany_returns_every_result(conn, table):
    with conn.cursor() as cur:
        cur.executemany(
            "insert into things values (%s, 'x') returning id",
            [(n,) for n in range(50)],
            returning=True,
        )
        assert [one.fetchone()[0] for one in cur.results()] == list(range(50))


def test_a_server_side_cursor_fetches_in_portions(connect):
    conn = connect()
    with conn.cursor("portions") as cur:
        cur.itersize = 100
        cur.execute("select * from generate_series(1, 1000)")
        assert cur.fetchone() == (1,)
        assert len(cur.fetchmany(10)) == 10
        assert sum(row[0] for row in cur) == sum(range(12, 1001))
        cur.scroll(0, mode="absolute")
        assert cur.fetchone() == (1,)


def test_stream_yields_rows_as_they_come(conn, backends):
    with conn.cursor() as cur:
        rows = cur.stream(SLOW_ROWS.format(delay=0.2, count=3))
        assert next(rows)[0] == 1
        assert active(backends)
        assert [row[0] for row in rows] == [2, 3]


@pytest.mark.parametrize("size", [1, 50])
def test_stream_yields_every_row(conn, size):
    if size > 1 and not psycopg.capabilities.has_stream_chunked():
        pytest.skip("libpq is too old for chunks")
    with conn.cursor() as cur:
        rows = [row[0] for row in cur.stream("select generate_series(1, 777)", size=size)]
    assert rows == list(range(1, 778))


def test_a_stream_left_early_leaves_a_usable_connection(conn, backends):
    with conn.cursor() as cur:
        for row in cur.stream(SLOW_ROWS.format(delay=0.01, count=100_000)):
            if row[0] == 3:
                break
    expected = token()
    assert conn.execute("select %s::text", [expected]).fetchone() == (expected,)
    assert not active(backends)


def test_a_stream_whose_connection_is_closed_between_rows_says_so(conn):
    rows = conn.cursor().stream("select generate_series(1, 100)")
    assert next(rows) == (1,)
    conn.close()
    with pytest.raises(psycopg.OperationalError):
        list(rows)


def test_prepared_statements_are_made_used_and_dropped(connect):
    conn = connect(autocommit=True, prepare_threshold=2)
    query = "select %s::int + 1"
    for number in range(6):
        assert conn.execute(query, [number]).fetchone() == (number + 1,)
    prepared = "select count(*) from pg_prepared_statements where statement like 'select $1%'"
    assert conn.execute(prepared, prepare=False).fetchone() == (1,)
    conn.prepared_max = 0
    conn.execute("select %s::int + 2", [1], prepare=True)
    conn.execute("select %s::int + 3", [1], prepare=True)
    assert conn.execute(prepared, prepare=False).fetchone()[0] <= 2


def test_a_statement_is_cancelled_from_another_greenlet(conn, backends):
    for cancel in (conn.cancel, conn.cancel_safe):
        sleeper = Attempt(conn.execute, "select pg_sleep(30)")
        wait_until(lambda: active(backends), message="the statement runs")
        with Ticker() as ticker:
            cancel()
        assert ticker.longest_gap < 0.25
        sleeper.join(5)
        assert isinstance(sleeper.error, psycopg.errors.QueryCanceled)
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_lost_connection_raises_what_the_server_said(conn, connect, backends):
    pid = conn.info.backend_pid
    sleeper = Attempt(conn.execute, "select pg_sleep(30)")
    wait_until(lambda: active(backends), message="the statement runs")
    connect(autocommit=True).execute("select pg_terminate_backend(%s)", [pid])
    sleeper.join(5)
    assert isinstance(sleeper.error, psycopg.errors.AdminShutdown)
    assert conn.closed
    assert conn.broken


def test_a_connection_terminated_while_idle_says_so_at_the_next_statement(conn, connect):
    pid = conn.info.backend_pid
    connect(autocommit=True).execute("select pg_terminate_backend(%s)", [pid])
    gevent.sleep(0.05)
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    assert conn.closed
    assert conn.broken


def test_identifiers_and_literals_are_composed(conn):
    query = sql.SQL("select {} as {}").format(sql.Literal("it's"), sql.Identifier('a "name"'))
    cur = conn.execute(query)
    assert cur.fetchone() == ("it's",)
    assert cur.description[0].name == 'a "name"'
