"""Statements that are executed often take a short way, and what they return does not tell.

What each test compares with is psycopg's own connection; `is_short` says that it was the short way.
"""

from __future__ import annotations

import gc
import weakref

import gevent
import psycopg
import pytest
from psycopg.adapt import Loader
from psycopg.rows import dict_row, namedtuple_row

import geventpg
from geventpg.connection.prepared import distrust_all
from tests.connection.comparison import assert_same, describe, note_error
from tests.connection.helpers import Attempt
from tests.support import wait_until
from tests.support.pools import terminate

ECHO = "select %s::int, %s::text"
SLOW = "select 1 from pg_sleep(%s)"
NAP = (0.0,)
MODES = pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transactions"])


def is_short(conn, query, params):
    """Execute a statement; return whether it was executed with what was remembered of it."""
    cur = conn.execute(query, params)
    known = conn.statement_cache.by_text.get(query)
    return known is not None and cur._tx is known.tx


def learn(conn, query, params):
    """Execute a statement until the connection knows it."""
    for _ in range(8):
        conn.execute(query, params)
        conn.commit()
    assert is_short(conn, query, params)
    conn.commit()


@MODES
def test_a_statement_that_is_executed_often_takes_the_short_way(connect, autocommit):
    conn = connect(autocommit=autocommit)
    assert not is_short(conn, ECHO, (1, "a"))
    learn(conn, ECHO, (1, "a"))
    assert conn.execute(ECHO, (2, "b")).fetchone() == (2, "b")
    assert is_short(conn, ECHO, [3, "c"])
    assert conn.info.transaction_status.name == ("IDLE" if autocommit else "INTRANS")


def test_parameters_with_names_do_too(conn, dsn):
    query = "select %(a)s::int, %(b)s::text, %(a)s::int"
    learn(conn, query, {"a": 1, "b": "x"})

    def program(conn, seen):
        for params in [{"a": 1, "b": "x"}] * 9 + [{"b": "y", "a": 2, "c": 3}, {"a": 1}, (1, "x")]:
            try:
                seen.append(conn.execute(query, params).fetchall())
            except psycopg.Error as error:
                note_error(error, seen)

    assert_same(dsn, program)


def test_a_cursor_that_is_kept_keeps_its_rows(conn):
    query = "select i, %s::text from generate_series(1, 5) i"
    learn(conn, query, ("x",))
    kept = [conn.execute(query, (str(n),)) for n in range(4)]
    assert [cur.fetchone() for cur in kept] == [(1, str(n)) for n in range(4)]
    assert [cur.fetchall()[-1] for cur in kept] == [(5, str(n)) for n in range(4)]
    del kept
    first = conn.execute(query, ("again",))
    assert not is_short(conn, query, ("another",))  # `first` has what was remembered
    assert first.fetchone() == (1, "again")


def test_one_cursor_for_many_statements_is_as_good_as_many(dsn):
    def program(conn, seen):
        cur = conn.cursor()
        for number in range(40):
            query = (ECHO, "select %s::text, %s::text, 3", "select 1 where 1 = %s and %s = 2")
            cur.execute(query[number % 3], (number % 2, number % 5))
            seen.append((cur.fetchall(), cur.rowcount, cur.statusmessage, describe(cur)))
            cur.execute(query[number % 2], (number % 7, str(number)))
            seen.append((cur.fetchone(), cur.fetchone(), cur.rownumber))

    assert_same(dsn, program)


@pytest.mark.parametrize("returning", [False, True])
@pytest.mark.parametrize("rows", [[], [(1, "a"), (2, "b")]], ids=["nothing", "two"])
def test_nothing_is_left_of_what_the_cursor_executed_many_times_before(dsn, returning, rows):
    def program(conn, seen):
        for number in range(9):
            cur = conn.cursor()
            cur.executemany(ECHO, rows, returning=returning)
            cur.execute(ECHO, (number, "c"))
            seen.append((cur.fetchall(), cur.rowcount, cur.statusmessage, cur.nextset()))

    assert_same(dsn, program)


def test_values_of_changing_types(dsn, rng):
    values = [0, 1, -1, 40_000, 3_000_000_000, "a", "", None, 1.5, True, b"x", [1, 2], ["a"], []]
    chosen = [rng.choices(values, k=2) for _ in range(150)]

    def program(conn, seen):
        for pair in chosen:
            try:
                cur = conn.execute("select %s, %s", pair)
                seen.append((cur.fetchall(), describe(cur), cur.statusmessage))
            except psycopg.Error as error:
                note_error(error, seen)
                conn.rollback()

    assert_same(dsn, program)


@pytest.mark.parametrize(
    "setting",
    [
        *("set timezone = 'Asia/Kolkata'", "set datestyle = 'SQL, DMY'"),
        *("set intervalstyle = 'iso_8601'", "set client_encoding = 'LATIN1'"),
    ],
)
def test_a_setting_that_changes_counts_from_the_next_statement_on(dsn, setting):
    query = "select %s::text, 'é', '2024-02-03 04:05+00'::timestamptz, '2024-02-03'::date, %s::text"
    times = "select '1 day 2 hours'::interval, array['2024-02-03 04:05+00'::timestamptz], %s::int"

    def program(conn, seen):
        def show():
            for text, params in ((query, ("é", "x")), (times, (1,))):
                for _ in range(9):
                    try:
                        seen.append(conn.execute(text, params).fetchall())
                    except psycopg.Error as error:
                        note_error(error, seen)
                    except NotImplementedError as error:
                        seen.append(str(error))

        conn.autocommit = True
        show()
        if isinstance(conn, geventpg.Connection):
            assert is_short(conn, query, ("é", "x"))
            assert is_short(conn, times, (1,))
        conn.execute(setting)
        show()
        conn.execute("reset all")
        conn.execute("set client_encoding = 'utf8'")
        show()

    assert_same(dsn, program)


def test_a_loader_that_is_registered_counts_from_the_next_statement_on(conn):
    class Loud(Loader):
        def load(self, data):
            return bytes(data).decode().upper()

    learn(conn, ECHO, (1, "a"))
    conn.adapters.register_loader("text", Loud)
    for _ in range(9):
        assert conn.execute(ECHO, (1, "a")).fetchone() == (1, "A")
    assert not is_short(conn, ECHO, (1, "a"))  # a loader of the user's may do anything


def test_adapters_of_a_cursor_are_its_own(conn):
    class Loud(Loader):
        def load(self, data):
            return bytes(data).decode().upper()

    learn(conn, ECHO, (1, "a"))
    cur = conn.cursor()
    cur.adapters.register_loader("text", Loud)
    assert cur.execute(ECHO, (1, "a")).fetchone() == (1, "A")
    assert conn.execute(ECHO, (1, "a")).fetchone() == (1, "a")


def test_types_that_are_not_psycopgs_own_take_the_long_way(conn):
    query = "select %s::int4range"
    for _ in range(9):
        assert conn.execute(query, ("[1,3)",)).fetchone()[0].upper == 3
    assert not is_short(conn, query, ("[1,3)",))


def test_what_a_cursor_was_told_is_done(conn):
    learn(conn, ECHO, (1, "a"))
    assert conn.cursor(row_factory=dict_row).execute(ECHO, (1, "a")).fetchone() == {
        "int4": 1,
        "text": "a",
    }
    conn.row_factory = namedtuple_row
    assert conn.execute(ECHO, (1, "a")).fetchone().text == "a"
    assert conn.execute(ECHO, (1, "a"), binary=True).pgresult.fformat(0) == 1
    assert conn.cursor(binary=True).execute(ECHO, (1, "a")).pgresult.fformat(0) == 1
    cur = conn.cursor()
    cur.close()
    with pytest.raises(psycopg.InterfaceError):
        cur.execute(ECHO, (1, "a"))


def test_in_a_pipeline_a_known_statement_waits_for_its_turn(conn):
    learn(conn, ECHO, (1, "a"))
    with conn.pipeline():
        cursors = [conn.execute(ECHO, (n, "x")) for n in range(10)]
    assert [cur.fetchone() for cur in cursors] == [(n, "x") for n in range(10)]


@MODES
def test_a_statement_that_was_lost_or_changed_is_executed_again(connect, autocommit):
    conn = connect(autocommit=autocommit)
    conn.execute("create temporary table things (id int, name text)")
    conn.execute("insert into things values (1, 'a')")
    conn.commit()
    query = "select * from things where id = %s"
    learn(conn, query, (1,))
    for change, expected in (
        ("deallocate all", (1, "a")),
        ("alter table things add column more int default 7", (1, "a", 7)),
        ("alter table things drop column name", (1, 7)),
    ):
        other = conn.cursor()
        other.execute(change, prepare=False)
        conn.commit()
        conn._prepared._to_flush.clear()  # as if somebody else had done it
        for _ in range(9):
            assert conn.execute(query, (1,)).fetchone() == expected
            conn.commit()


def test_inside_a_transaction_the_loss_of_a_known_statement_can_be_retried(conn):
    learn(conn, ECHO, (1, "a"))
    with pytest.raises(geventpg.StaleStatement), conn.transaction():
        conn.execute("select 1")
        conn.pgconn.exec_(b"deallocate all")
        conn.execute(ECHO, (1, "a"))
    assert conn.execute(ECHO, (1, "a")).fetchone() == (1, "a")


@MODES
@pytest.mark.parametrize("error", [gevent.GreenletExit, psycopg.DataError, KeyError])
def test_an_exception_thrown_into_it_leaves_nothing_running(connect, backends, autocommit, error):
    conn = connect(autocommit=autocommit)
    learn(conn, SLOW, NAP)
    slow = Attempt(conn.execute, SLOW, (60.0,))
    wait_until(lambda: [b for b in backends() if b.state == "active"])
    slow.throw(error("thrown"))
    assert isinstance(slow.join().error, error)
    assert not [b for b in backends() if b.state == "active"]
    conn.rollback()
    assert conn.execute(ECHO, (1, "a")).fetchone() == (1, "a")


@MODES
def test_a_connection_lost_meanwhile_says_so_and_what_became_of_the_work(
    connect, backends, admin, autocommit
):
    conn = connect(autocommit=autocommit)
    learn(conn, SLOW, NAP)
    slow = Attempt(conn.execute, SLOW, (60.0,))
    wait_until(lambda: [b for b in backends() if b.state == "active"])
    terminate(admin, conn.info.backend_pid)
    assert isinstance(slow.join().error, psycopg.errors.AdminShutdown)
    assert conn.closed
    with pytest.raises(psycopg.OperationalError, match="closed"):
        conn.execute(SLOW, NAP)


@MODES
def test_being_forgotten_while_it_runs_does_not_hurt_a_statement(connect, backends, autocommit):
    conn = connect(autocommit=autocommit)
    learn(conn, SLOW, NAP)
    slow = Attempt(conn.execute, SLOW, (0.1,))
    wait_until(lambda: [b for b in backends() if b.state == "active"])
    distrust_all(conn)  # as the pool has it done when another connection finds a changed table
    assert slow.join().error is None
    assert slow.result.fetchone() == (1,)
    conn.commit()
    del slow
    learn(conn, SLOW, NAP)


def test_an_error_of_a_known_statement_is_the_servers(dsn):
    def program(conn, seen):
        for divisor in [*[1] * 9, 0, 1, 1]:
            try:
                seen.append(conn.execute("select 10 / %s::int", (divisor,)).fetchall())
            except psycopg.Error as error:
                note_error(error, seen)
            seen.append(conn.info.transaction_status)
            conn.rollback()

    assert_same(dsn, program)


def test_greenlets_that_share_a_connection_take_turns(conn):
    learn(conn, "select %s::int, %s::text from pg_sleep(0.001)", (1, "a"))

    def work(number):
        for turn in range(20):
            row = conn.execute(
                "select %s::int, %s::text from pg_sleep(0.001)", (number, str(turn))
            ).fetchone()
            assert row == (number, str(turn))

    gevent.joinall([gevent.spawn(work, number) for number in range(10)], raise_error=True)


def test_a_connection_that_knows_statements_is_collected_when_it_is_unused(dsn):
    conn = geventpg.Connection.connect(dsn, autocommit=True)
    learn(conn, ECHO, (1, "a"))
    conn.close()
    gone = weakref.ref(conn)
    gc.disable()
    try:
        del conn
        assert gone() is None
    finally:
        gc.enable()


def test_what_is_remembered_of_a_statement_does_not_keep_its_rows(conn):
    other = "select %s::text"
    learn(conn, other, ("a",))
    learn(conn, ECHO, (1, "a"))
    remembered = conn.statement_cache.by_text[ECHO]
    cur = conn.execute(ECHO, (1, "x" * 1_000_000))
    assert cur._tx is remembered.tx
    assert remembered.tx.pgresult is cur.pgresult
    del cur
    assert remembered.tx.pgresult is None
    cur = conn.execute(ECHO, (1, "a"))
    cur.execute(other, ("b",))
    assert remembered.tx.pgresult is None
    assert cur.fetchone() == ("b",)


def test_what_is_remembered_is_bounded(conn):
    conn.prepare_threshold = 0
    for number in range(600):
        for _ in range(2):
            conn.execute(f"select %s::int, {number}", (number,))
    assert len(conn.statement_cache.by_text) <= 256
