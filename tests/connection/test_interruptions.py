"""An exception thrown into a waiting greenlet: nothing is left running, or dirty."""

from __future__ import annotations

import gc
import time

import gevent
import psycopg
import pytest

from tests.connection.helpers import Attempt, Ticker, active, assert_clean_or_closed, token
from tests.support import wait_until

ACTIVE = psycopg.pq.TransactionStatus.ACTIVE


class Thrown(BaseException):
    """What a library of the user's may throw."""


EXCEPTIONS = {
    "a timeout": gevent.Timeout,
    "a kill": gevent.GreenletExit,
    "ctrl-c": KeyboardInterrupt,
    "an own BaseException": Thrown,
    "a psycopg error": lambda: psycopg.OperationalError("thrown in"),
}

WIDE_ROWS = "select i, repeat('w', 10000), pg_sleep(0.001) from generate_series(1, 60000) as i"


# -- what is interrupted: each takes a minute unless it is ---------------------------------------


def select(conn, table):
    conn.execute("select pg_sleep(60)")


def select_with_parameters(conn, table):
    conn.execute("select pg_sleep(%s), %s::text", [60, "x"])


def select_prepared(conn, table):
    conn.execute("select pg_sleep(%s)", [60], prepare=True)


def several_statements(conn, table):
    conn.execute("select 1; select pg_sleep(60); select 2")


def large_result(conn, table):
    conn.execute(WIDE_ROWS)


def copy_in(conn, table):
    # A trigger sleeps on the server at each row, until the socket takes no more.
    with conn.cursor() as cur, cur.copy(f"copy {table} from stdin") as copy:
        for _ in range(60_000):
            copy.write("y" * 10_000 + "\n")


def end_of_copy_in(conn, table):
    with conn.cursor() as cur, cur.copy(f"copy {table} from stdin") as copy:
        copy.write("z\n" * 60_000)


def inside_copy_in(conn, table):
    with conn.cursor() as cur, cur.copy(f"copy {table} from stdin") as copy:
        copy.write("z\n" * 60_000)
        gevent.sleep(60)


def copy_out(conn, table):
    with conn.cursor() as cur, cur.copy(f"copy ({WIDE_ROWS}) to stdout") as copy:
        for _ in copy:
            pass


def start_of_copy_out(conn, table):
    with conn.cursor() as cur, cur.copy("copy (select pg_sleep(60)) to stdout") as copy:
        copy.read()


def inside_copy_out(conn, table):
    with conn.cursor() as cur, cur.copy(f"copy ({WIDE_ROWS}) to stdout") as copy:
        copy.read()
        gevent.sleep(60)


def pipeline(conn, table):
    with conn.pipeline():
        conn.execute("select 1")
        cur = conn.execute("select pg_sleep(60)")
        conn.execute("select 2")
        cur.fetchone()


def end_of_pipeline(conn, table):
    with conn.pipeline():
        for _ in range(3):
            conn.execute("select pg_sleep(20)")


def executemany(conn, table):
    conn.cursor().executemany("select pg_sleep(%s)", [(20,)] * 3)


def executemany_returning(conn, table):
    conn.cursor().executemany("select pg_sleep(%s)", [(20,)] * 3, returning=True)


def stream(conn, table):
    for _ in conn.cursor().stream("select pg_sleep(1) from generate_series(1, 60)"):
        pass


def inside_stream(conn, table):
    for _ in conn.cursor().stream(WIDE_ROWS):
        gevent.sleep(60)


def server_side_cursor(conn, table):
    with conn.transaction(), conn.cursor("slow") as cur:
        cur.execute("select i, pg_sleep(1) from generate_series(1, 60) as i")
        cur.fetchmany(60)


def commit(conn, table):
    # A deferred constraint trigger sleeps.
    with conn.transaction():
        conn.execute(f"insert into {table}_deferred values ('x')")


def transaction_block(conn, table):
    with conn.transaction(), conn.transaction():
        conn.execute("select pg_sleep(60)")


OPERATIONS = [
    select,
    select_with_parameters,
    select_prepared,
    several_statements,
    large_result,
    copy_in,
    end_of_copy_in,
    inside_copy_in,
    copy_out,
    start_of_copy_out,
    inside_copy_out,
    pipeline,
    end_of_pipeline,
    executemany,
    executemany_returning,
    stream,
    inside_stream,
    server_side_cursor,
    commit,
    transaction_block,
]


@pytest.fixture
def table(admin, application_name):
    """Return the name of a table where each row costs 1 ms, and one whose rows cost at commit."""
    name = f"slow_{application_name.split('.')[1]}"
    for suffix, pause in (("", 0.001), ("_deferred", 60)):
        admin.execute(f"create table {name}{suffix} (note text)")
        admin.execute(
            f"create function {name}{suffix}_pause() returns trigger language plpgsql as"
            f" $$ begin perform pg_sleep({pause}); return new; end $$"
        )
    admin.execute(
        f"create trigger pause before insert on {name} for each row execute function {name}_pause()"
    )
    admin.execute(
        f"create constraint trigger pause after insert on {name}_deferred deferrable initially"
        f" deferred for each row execute function {name}_deferred_pause()"
    )
    yield name
    admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
        [application_name],
    )
    for suffix in ("", "_deferred"):
        admin.execute(f"drop table {name}{suffix}")
        admin.execute(f"drop function {name}{suffix}_pause()")


@pytest.fixture
def proxied(connect, proxy, dsn):
    """Return a connection through the proxy."""
    return connect(proxy.dsn(dsn))


def interrupt(attempt, error, backends):
    """Throw *error* once the server has been at work for a while; return how long it took."""
    wait_until(lambda: active(backends), message="the server is at work")
    gevent.sleep(0.03)
    assert not attempt.over, attempt.error
    started = time.monotonic()
    attempt.throw(error)
    attempt.join(8)
    return time.monotonic() - started


def assert_ends_on_the_server(attempt, conn, error, backends):
    took = interrupt(attempt, error, backends)
    assert attempt.error is error
    assert took < conn.cancel_timeout
    wait_until(lambda: not active(backends), timeout=2, message="nothing runs on the server")
    # The server was well: there is no reason to give the connection up.
    assert not conn.closed
    assert_clean_or_closed(conn)


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda function: function.__name__)
def test_an_interrupted_operation_ends_on_the_server(
    connect, backends, table, operation, autocommit
):
    conn = connect(autocommit=autocommit)
    assert_ends_on_the_server(Attempt(operation, conn, table), conn, gevent.Timeout(), backends)


@pytest.mark.parametrize("make_error", EXCEPTIONS.values(), ids=EXCEPTIONS)
@pytest.mark.parametrize(
    "operation",
    [select, copy_in, copy_out, pipeline, executemany, stream, server_side_cursor, commit],
    ids=lambda function: function.__name__,
)
def test_any_exception_does_what_a_timeout_does(connect, backends, table, operation, make_error):
    conn = connect()
    assert_ends_on_the_server(Attempt(operation, conn, table), conn, make_error(), backends)


@pytest.mark.parametrize(
    "operation",
    [op for op in OPERATIONS if op not in {inside_copy_in, inside_copy_out, inside_stream}],
    ids=lambda function: function.__name__,
)
def test_an_operation_fails_when_another_greenlet_closes_its_connection(
    connect, backends, table, operation
):
    conn = connect()
    attempt = Attempt(operation, conn, table)
    wait_until(lambda: active(backends), message="the server is at work")
    conn.close()
    attempt.join(8)
    assert isinstance(attempt.error, psycopg.OperationalError)


def test_what_a_generator_does_at_its_end_is_done_when_the_connection_is_closed_meanwhile(conn):
    # And not when it is collected: Python would print what it raises then.
    done = []

    def waits():
        try:
            yield psycopg.waiting.WAIT_R
        finally:
            done.append(conn.closed)
            conn.pgconn.send_flush_request()  # fails, as the end of psycopg's pipelines does

    waiting = waits()
    attempt = Attempt(conn.wait, waiting)
    gevent.sleep(0)
    conn.close()
    attempt.join()
    assert str(attempt.error) == "the connection was closed while this greenlet waited on it"
    assert done == [True]


def test_the_state_of_the_transaction_after_an_interruption_is_that_of_a_failed_statement(
    connect, backends
):
    conn = connect()
    conn.execute("create temporary table kept (i int)")
    conn.commit()
    conn.execute("insert into kept values (1)")
    interrupt(Attempt(select, conn, ""), gevent.Timeout(), backends)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        conn.execute("select 1")
    conn.rollback()
    assert conn.execute("select count(*) from kept").fetchone() == (0,)


def test_a_statement_that_has_just_ended_is_not_lost_to_a_cancel(conn, rng):
    # The interruption comes when the answer does: the next statement must not be hit.
    for _ in range(150):
        expected = token()
        attempt = Attempt(conn.execute, "select pg_sleep(0.002), %s::text", [expected])
        gevent.sleep(0.002 + rng.random() * 0.001)
        attempt.throw(gevent.Timeout())
        attempt.join()
        assert conn.execute("select %s::text", [expected]).fetchone() == (expected,)


def test_an_interruption_before_the_first_byte_was_answered_cancels(conn, backends):
    for _ in range(20):
        attempt = Attempt(select, conn, "")
        gevent.sleep(0)
        attempt.throw(gevent.Timeout())
        attempt.join()
        assert attempt.took < conn.cancel_timeout
        assert not active(backends)
    assert_clean_or_closed(conn)


def test_waiting_for_notifications_is_interrupted_without_harm(conn, connect):
    conn.execute("listen interrupted")
    attempt = Attempt(lambda: list(conn.notifies()))
    gevent.sleep(0.05)
    with Ticker():
        attempt.throw(gevent.Timeout())
        attempt.join()
    assert attempt.took < 1
    connect(autocommit=True).execute("notify interrupted, 'still here'")
    assert [n.payload for n in conn.notifies(timeout=2, stop_after=1)] == ["still here"]


def test_an_interrupted_write_of_large_parameters_ends_on_the_server(connect, backends):
    # The server has not even got the statement when it is asked to cancel it.
    conn = connect(autocommit=True)
    conn.cancel_timeout = 2.0
    attempt = Attempt(
        conn.execute, "select pg_sleep(30), length(%s::bytea)", [b"\x00" * (100 * 1024 * 1024)]
    )
    gevent.sleep(0.02)
    attempt.throw(gevent.Timeout())
    attempt.join()
    assert isinstance(attempt.error, gevent.Timeout)
    wait_until(lambda: not active(backends), timeout=4, message="nothing runs on the server")
    assert_clean_or_closed(conn)


def test_an_interrupted_end_of_a_pipeline_raises_what_was_thrown(connect, backends):
    # psycopg's own clean-up would go on waiting.
    conn = connect(autocommit=True)

    def work():
        with conn.pipeline():
            conn.execute("select length(%s::bytea)", [b"\x00" * (100 * 1024 * 1024)])

    attempt = Attempt(work)
    gevent.sleep(0.03)
    attempt.throw(error := gevent.Timeout())
    attempt.join()
    assert attempt.error is error
    wait_until(lambda: not active(backends), timeout=2, message="nothing runs on the server")
    assert_clean_or_closed(conn)


def test_prepared_statements_after_an_interrupted_pipeline_exist_on_the_server(conn, backends):
    conn.execute("select 1 as before", prepare=True)
    for number in range(3):
        interrupt(Attempt(executemany, conn, ""), gevent.Timeout(), backends)
        for _ in range(3):
            query = f"select %s::int as after_{number}"
            assert conn.execute(query, [5], prepare=True).fetchone() == (5,)
            assert conn.execute("select 1 as before", prepare=True).fetchone() == (1,)
            assert conn.execute("select pg_sleep(%s)", [0], prepare=True).rowcount == 1


def test_prepared_statements_after_an_interrupted_statement_exist_on_the_server(connect, backends):
    conn = connect()
    for number in range(3):
        interrupt(Attempt(select_prepared, conn, ""), gevent.Timeout(), backends)
        conn.rollback()
        for _ in range(2):
            query = f"select %s::int as after_{number}"
            assert conn.execute(query, [5], prepare=True).fetchone() == (5,)
            assert conn.execute("select pg_sleep(%s)", [0], prepare=True).rowcount == 1
            conn.rollback()


def test_copy_by_execute_is_left_clean_when_it_is_interrupted(connect, backends):
    conn = connect(autocommit=True)
    attempt = Attempt(
        conn.execute, "copy (select pg_sleep(0.5) from generate_series(1, 60)) to stdout"
    )
    wait_until(lambda: active(backends) or attempt.over, message="it runs")
    attempt.throw(gevent.Timeout())
    attempt.join()
    if isinstance(attempt.error, gevent.Timeout):
        wait_until(lambda: not active(backends), timeout=2, message="nothing runs on the server")
        assert_clean_or_closed(conn)
    else:  # the server was faster: psycopg's own error, and its own state
        assert isinstance(attempt.error, psycopg.ProgrammingError)
        conn.close()


# -- slow and broken networks --------------------------------------------------------------------


def begin(conn):
    with conn.transaction():
        pass


def begin_with_a_statement(conn):
    conn.execute("select 1")


def set_isolation_level_and_query(conn):
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    conn.execute("select 1")


def plain_commit(conn):
    conn.execute("select 1")
    conn.commit()


def plain_rollback(conn):
    conn.execute("select 1")
    conn.rollback()


def two_phase(conn):
    conn.tpc_begin(conn.xid(1, token(), "b"))
    conn.tpc_rollback()


def short_copy_in(conn):
    with conn.transaction():
        conn.execute("create temporary table short (note text) on commit drop")
        with conn.cursor() as cur, cur.copy("copy short from stdin") as copy:
            copy.write_row(("x",))


def short_copy_out(conn):
    with conn.cursor() as cur, cur.copy("copy (select 1) to stdout") as copy:
        assert copy.read()
        assert not copy.read()


def short_pipeline(conn):
    with conn.pipeline():
        conn.execute("select 1")
        conn.execute("select 2").fetchone()
    conn.commit()


def short_executemany(conn):
    conn.cursor().executemany("select %s::int", [(1,), (2,)], returning=True)


def short_stream(conn):
    assert len(list(conn.cursor().stream("select generate_series(1, 3)"))) == 3


def short_server_side_cursor(conn):
    with conn.cursor("short") as cur:
        assert len(cur.execute("select generate_series(1, 3)").fetchall()) == 3


def prepare(conn):
    conn.execute("select %s::int", [1], prepare=True)
    conn.commit()
    conn.execute("select %s::int", [1])


ROUND_TRIPS = [
    short_copy_in,
    short_copy_out,
    short_pipeline,
    short_executemany,
    short_stream,
    short_server_side_cursor,
    prepare,
    begin,
    begin_with_a_statement,
    set_isolation_level_and_query,
    plain_commit,
    plain_rollback,
    two_phase,
]


def _end_transaction(conn):
    try:
        conn.rollback()
    except psycopg.ProgrammingError:
        conn.tpc_rollback()


# Interrupted in its own close(), a server-side cursor stays open, as in psycopg.
@pytest.mark.filterwarnings("ignore:.*ServerCursor.*deleted while still open:ResourceWarning")
@pytest.mark.parametrize("operation", ROUND_TRIPS, ids=lambda function: function.__name__)
def test_every_round_trip_can_be_interrupted(connect, proxy, dsn, backends, operation):
    proxied = proxy.dsn(dsn)
    conn = connect(proxied)
    conn.cancel_timeout = 2.0
    proxy.delay(0.008)
    for step in range(1, 99):
        # Each half of each round trip, until the operation is over before it is interrupted.
        attempt = Attempt(operation, conn)
        gevent.sleep(0.008 * step)
        if attempt.over:
            assert attempt.error is None
            break
        attempt.throw(error := gevent.Timeout())
        attempt.join()
        assert attempt.error in (error, None), step
        assert attempt.took < 0.008 * step + 1
        assert not conn.closed, step
        assert conn.info.transaction_status != ACTIVE, step
        assert conn.pgconn.pipeline_status == psycopg.pq.PipelineStatus.OFF, step
        _end_transaction(conn)
    assert_clean_or_closed(conn)
    proxy.delay(0)
    wait_until(lambda: not active(backends), timeout=2, message="nothing runs on the server")
    del attempt
    gc.collect()


def _slow_block(conn):
    conn.execute("do $$ begin perform pg_sleep(20); end $$")


def _slow_prepared(conn):
    conn.execute("select pg_sleep(%s)", [20], prepare=True)


def _slow_stream(conn):
    list(conn.cursor().stream("select pg_sleep(20)"))


def _slow_copy_out(conn):
    with conn.cursor() as cur, cur.copy("copy (select pg_sleep(20)) to stdout") as copy:
        copy.read()


def _slow_server_side_cursor(conn):
    with conn.cursor("slow") as cur:
        cur.execute("select pg_sleep(20)").fetchall()


def _slow_executemany(conn):
    conn.cursor().executemany("select pg_sleep(%s)", [(10,), (10,)])


@pytest.mark.parametrize(
    "operation",
    [
        _slow_block,
        _slow_prepared,
        _slow_stream,
        _slow_copy_out,
        _slow_server_side_cursor,
        _slow_executemany,
    ],
    ids=lambda function: function.__name__.strip("_"),
)
def test_no_slow_statement_is_begun_after_the_interruption(
    connect, proxy, dsn, backends, operation
):
    # BEGIN, or Prepare, is under way when the exception comes; the statement would be next.
    conn = connect(proxy.dsn(dsn))
    conn.cancel_timeout = 2.0
    proxy.delay(0.03)
    attempt = Attempt(operation, conn)
    gevent.sleep(0.02)
    attempt.throw(error := gevent.Timeout())
    attempt.join()
    proxy.delay(0)
    assert attempt.error is error
    assert attempt.took < conn.cancel_timeout
    wait_until(lambda: not active(backends), timeout=1, message="nothing runs on the server")
    assert not conn.closed
    assert_clean_or_closed(conn)


@pytest.mark.no_invariants
@pytest.mark.parametrize(
    "operation", [select, copy_in, pipeline, stream, large_result, inside_copy_in, inside_copy_out]
)
def test_when_the_network_is_silent_the_connection_is_closed_in_time(
    proxy, proxied, backends, table, operation
):
    conn = proxied
    conn.cancel_timeout = 0.4
    attempt = Attempt(operation, conn, table)
    wait_until(lambda: active(backends), message="the server is at work")
    gevent.sleep(0.03)
    proxy.stall()
    started = time.monotonic()
    attempt.throw(error := gevent.Timeout())
    with Ticker() as ticker:
        attempt.join(6)
    assert attempt.error is error
    assert time.monotonic() - started < 2.0
    assert ticker.longest_gap < 0.3
    assert conn.closed
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")


def test_a_second_interruption_ends_the_recovery_at_once(connect, proxy, dsn, backends):
    conn = connect(proxy.dsn(dsn))
    attempt = Attempt(conn.execute, "select pg_sleep(60)")
    wait_until(lambda: active(backends), message="the statement runs")
    proxy.stall()
    attempt.throw(gevent.Timeout())
    gevent.sleep(0.05)
    assert not attempt.over
    started = time.monotonic()
    attempt.throw(second := KeyboardInterrupt())
    attempt.join()
    assert attempt.error is second
    assert time.monotonic() - started < 1.0
    assert conn.closed
    # The cancel goes on in the background and arrives as soon as the network lets it.
    proxy.resume()
    wait_until(lambda: not active(backends), timeout=3, message="nothing runs on the server")


def test_a_second_interruption_while_cancelling_is_not_hidden(conn, backends):
    for delay in (0, 0.0005, 0.001, 0.002, 0.004):
        if conn.closed:
            break
        attempt = Attempt(conn.execute, "select pg_sleep(60)")
        wait_until(lambda: active(backends), message="the statement runs")
        attempt.throw(gevent.Timeout())
        gevent.sleep(delay)
        attempt.throw(gevent.GreenletExit())
        attempt.join()
        assert isinstance(attempt.error, gevent.Timeout | gevent.GreenletExit)
        wait_until(lambda: not active(backends), timeout=3, message="nothing runs on the server")
    assert_clean_or_closed(conn)


def test_a_connection_lost_during_the_recovery_is_closed(connect, proxy, dsn, backends):
    conn = connect(proxy.dsn(dsn))
    attempt = Attempt(conn.execute, "select pg_sleep(60)")
    wait_until(lambda: active(backends), message="the statement runs")
    proxy.stall()
    attempt.throw(error := gevent.Timeout())
    gevent.sleep(0.02)
    proxy.stop()
    attempt.join()
    assert attempt.error is error
    assert conn.closed
    _terminate(connect, backends)


def test_a_timeout_with_an_exception_of_its_own_raises_that(conn, backends):
    with pytest.raises(ZeroDivisionError), gevent.Timeout(0.05, ZeroDivisionError()):
        conn.execute("select pg_sleep(60)")
    assert not active(backends)
    with gevent.Timeout(0.05, False):
        conn.execute("select pg_sleep(60)")
    assert not active(backends)
    assert_clean_or_closed(conn)


def test_an_interruption_while_a_with_block_commits_goes_on_as_it_is(connect, backends, table):
    def work():
        with connect() as conn:
            conn.execute(f"insert into {table}_deferred values ('x')")

    attempt = Attempt(work)
    gevent.sleep(0.05)
    took = interrupt(attempt, error := gevent.Timeout(), backends)
    assert attempt.error is error
    assert took < 5


def _terminate(connect, backends):
    with connect(autocommit=True) as other:
        for backend in active(backends):
            other.execute("select pg_terminate_backend(%s)", [backend.pid])
    wait_until(lambda: not active(backends), message="nothing runs on the server")
