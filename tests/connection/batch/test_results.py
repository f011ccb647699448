"""What a batch returns, and what it does when a statement fails."""

from __future__ import annotations

import datetime as dt

import gevent
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row, scalar_row

import geventpg
from tests.chaos.form import pick
from tests.connection.batch.helpers import INSERT, batch_of, check_pool, inserts, numbers, rows

each_way = pytest.mark.parametrize("atomic", [True, False], ids=["all or nothing", "each"])


@each_way
@pytest.mark.parametrize("count", [0, 1, 2, 1000, pick(short=5_000, long=100_000)])
def test_results_come_in_order_whatever_their_number(pool, count, atomic):
    batch = numbers(count)
    results = pool.send_batch(batch, atomic=atomic)
    assert rows(results) == [[(number,)] for number in range(count)]
    assert [result.index for result in results] == list(range(count))


def test_an_empty_batch_takes_no_connection(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection():
        assert pool.send_batch(geventpg.Batch(), timeout=0.01) == []


@each_way
def test_a_result_tells_what_a_cursor_tells(pool, done, atomic):
    insert, select, update, empty = pool.send_batch(
        batch_of(
            (INSERT, (1, "a")),
            "select id, tag from things",
            "update things set tag = 'b' where id > 5",
            "",
        ),
        atomic=atomic,
    )
    assert (insert.rows, insert.rowcount, insert.statusmessage) == ([(1,)], 1, "INSERT 0 1")
    assert [column.name for column in select.description] == ["id", "tag"]
    assert [column.type_code for column in select.description] == [23, 25]
    assert (update.rows, update.rowcount, update.statusmessage) == ([], 0, "UPDATE 0")
    assert update.description is None
    assert (empty.rows, empty.rowcount, empty.statusmessage) == ([], -1, None)
    assert {result.error for result in (insert, select, update, empty)} == {None}


def test_row_factories_are_the_statements_the_batchs_or_the_connections(make_pool):
    pool = make_pool(kwargs={"row_factory": dict_row})
    batch = geventpg.Batch()
    batch.queue("select 1 as n")
    batch.queue("select 2 as n", row_factory=scalar_row)
    assert rows(pool.send_batch(batch)) == [[{"n": 1}], [2]]
    batch = geventpg.Batch(row_factory=namedtuple_row)
    batch.queue("select 3 as n")
    assert pool.send_batch(batch)[0].rows[0].n == 3


def test_arguments_are_those_of_execute(pool):
    batch = geventpg.Batch()
    assert batch.queue("select %(a)s::int", {"a": 1}) == 0
    assert batch.queue(sql.SQL("select {}").format(2)) == 1
    assert batch.queue(b"select %s::date", [dt.date(2024, 2, 29)], binary=True) == 2
    assert batch.queue("select 'a%b'") == 3
    assert len(batch) == 4
    assert rows(pool.send_batch(batch)) == [[(1,)], [(2,)], [(dt.date(2024, 2, 29),)], [("a%b",)]]
    assert "4 statements" in repr(batch)


def test_client_cursors_bind_on_the_client(make_pool):
    pool = make_pool(configure=lambda conn: setattr(conn, "cursor_factory", psycopg.ClientCursor))
    assert rows(pool.send_batch(batch_of(("select %s", ("it's",))))) == [[("it's",)]]


def test_each_result_is_read_as_the_session_was_at_its_statement(pool):
    moment = "select '2024-01-01 12:00+00'::timestamptz"
    batch = batch_of("set time zone 'Asia/Tokyo'", moment, "set time zone 'UTC'", moment)
    results = pool.send_batch(batch, atomic=False)
    offsets = [result.rows[0][0].utcoffset() for result in results[1::2]]
    assert offsets == [dt.timedelta(hours=9), dt.timedelta(0)]


def test_a_batch_can_be_sent_again(pool):
    batch = numbers(3)
    assert rows(pool.send_batch(batch)) == rows(pool.send_batch(batch))


def test_it_takes_few_round_trips(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), max_size=1)
    pool.send_batch(numbers(2))  # a connection's first asks what server it is
    proxy.delay(0.05)
    with gevent.Timeout(5):  # one for each statement would take 20 s
        pool.send_batch(numbers(200))
        pool.send_batch(numbers(200), atomic=False)
    proxy.delay(0)


# -- errors --------------------------------------------------------------------------------------


def test_an_error_undoes_everything_and_says_which_statement_it_was(pool, done, admin):
    admin.execute("alter table things add primary key (id)")
    batch = batch_of((INSERT, (1, "a")), (INSERT, (2, "a")), (INSERT, (1, "a")), (INSERT, (3, "a")))
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        pool.send_batch(batch)
    assert caught.value.index == 2
    assert done("a") == []
    check_pool(pool)


def test_each_statement_for_itself_has_its_own_error(pool, done, admin):
    admin.execute("alter table things add primary key (id)")
    batch = batch_of((INSERT, (1, "a")), (INSERT, (1, "a")), "select 1/0", (INSERT, (3, "a")))
    results = pool.send_batch(batch, atomic=False)
    assert [type(result.error).__name__ for result in results] == [
        *("NoneType", "UniqueViolation", "DivisionByZero", "NoneType")
    ]
    assert [getattr(result.error, "index", None) for result in results] == [None, 1, 2, None]
    with pytest.raises(psycopg.errors.DivisionByZero):
        _ = results[2].rows
    assert "DivisionByZero" in repr(results[2])
    assert done("a") == [1, 3]
    check_pool(pool)


UNFIT = {
    "copy things from stdin": psycopg.NotSupportedError,
    "-- out\n copy things to stdout": psycopg.NotSupportedError,
    "/* /* nested */ */ commit": psycopg.ProgrammingError,
    "; ROLLBACK": psycopg.ProgrammingError,
    "begin": psycopg.ProgrammingError,
    "start transaction read only": psycopg.ProgrammingError,
    "prepare transaction 'x'": psycopg.ProgrammingError,
    "select 1; select 2": psycopg.errors.SyntaxError,
    "select %s": psycopg.ProgrammingError,
}


@each_way
def test_what_cannot_be_in_a_batch_is_an_error_of_that_statement(pool, done, atomic):
    for tag, expected in UNFIT.items():
        unfit = (tag, (object(),)) if "%" in tag else tag
        batch = batch_of((INSERT, (1, tag)), unfit, (INSERT, (2, tag)))
        if atomic:
            with pytest.raises(expected) as caught:
                pool.send_batch(batch)
            assert caught.value.index == 1
            assert done(tag) == []
        else:
            first, second, third = pool.send_batch(batch, atomic=False)
            assert isinstance(second.error, expected)
            assert second.error.index == 1
            assert (first.rows, third.rows, done(tag)) == ([(1,)], [(2,)], [1, 2])
        check_pool(pool)


def test_savepoints_can_be_in_a_batch(pool, done):
    pool.send_batch(
        batch_of("savepoint s", (INSERT, (1, "a")), "rollback to savepoint s", (INSERT, (2, "a")))
    )
    assert done("a") == [2]


@each_way
def test_rows_that_cannot_be_loaded_are_an_error_of_their_statement(pool, done, atomic):
    batch = batch_of((INSERT, (1, "a")), "select 'infinity'::date", (INSERT, (2, "a")))
    if atomic:
        with pytest.raises(psycopg.DataError) as caught:
            pool.send_batch(batch)
        assert caught.value.index == 1
        assert done("a") == []
    else:
        results = pool.send_batch(batch, atomic=False)
        assert isinstance(results[1].error, psycopg.DataError)
        assert results[1].statusmessage == "SELECT 1"  # so it was executed
        assert done("a") == [1, 2]
    check_pool(pool)


@each_way
def test_a_constraint_that_fails_at_commit_undoes_what_is_committed_there(
    pool, done, admin, atomic
):
    admin.execute("alter table things add constraint u unique (id) deferrable initially deferred")
    batch = batch_of((INSERT, (1, "a")), (INSERT, (1, "a")), (INSERT, (2, "a")))
    if atomic:
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            pool.send_batch(batch)
        assert caught.value.index is None
        assert done("a") == []
    else:
        results = pool.send_batch(batch, atomic=False)
        assert isinstance(results[1].error, psycopg.errors.UniqueViolation)
        assert results[1].error.index == 1
        assert done("a") == [1, 2]
    check_pool(pool)


def test_no_error_tells_parameters_or_statements(pool):
    with pytest.raises(psycopg.Error) as caught:
        pool.send_batch(batch_of(("select %s::text || 'secret-text'", (object(),))))
    everything = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert not [text for text in everything if "secret" in text]


def test_after_an_error_the_rest_is_not_sent(pool, proxy, make_pool, dsn):
    pool = make_pool(proxy.dsn(dsn), max_size=1)
    pool.send_batch(numbers(1))
    before = proxy.forwarded("from_client")
    large = ("select length(%s)", ("x" * 100_000,))
    with pytest.raises(psycopg.errors.DivisionByZero):
        pool.send_batch(batch_of("select 1/0", *([large] * 1000)))
    assert proxy.forwarded("from_client") - before < 50_000_000


# -- on a connection ------------------------------------------------------------------------------


def test_on_a_connection_it_belongs_to_its_transaction(pool, done):
    with pool.connection() as conn:
        conn.send_batch(inserts("kept", 2))
        assert done("kept") == []
        assert rows(conn.send_batch(batch_of("select count(*) from things"))) == [[(2,)]]
    assert done("kept") == [0, 1]
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        conn.send_batch(inserts("lost", 2))
        raise ZeroDivisionError
    assert done("lost") == []


def test_on_an_autocommit_connection_it_is_committed_or_undone(make_pool, done):
    pool = make_pool(kwargs={"autocommit": True})
    with pool.connection() as conn:
        conn.send_batch(inserts("kept", 2))
        assert done("kept") == [0, 1]
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.send_batch(batch_of((INSERT, (1, "lost")), "select 1/0"))
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert rows(conn.send_batch(numbers(2), atomic=False)) == [[(0,)], [(1,)]]
        with conn.transaction():
            conn.send_batch(inserts("inside", 1))
            assert done("inside") == []
    assert (done("lost"), done("inside")) == ([], [0])


def test_each_statement_for_itself_is_refused_where_it_cannot_be(pool, make_pool):
    with pool.connection() as conn, pytest.raises(psycopg.ProgrammingError, match="pool"):
        conn.send_batch(numbers(2), atomic=False)
    with make_pool(kwargs={"autocommit": True}).connection() as conn:
        with conn.transaction(), pytest.raises(psycopg.ProgrammingError, match="transaction"):
            conn.send_batch(numbers(2), atomic=False)
        with conn.pipeline(), pytest.raises(psycopg.ProgrammingError, match="pipeline"):
            conn.send_batch(numbers(2))


def test_the_options_of_the_connections_transactions_hold_for_a_batch(make_pool, done):
    pool = make_pool(configure=lambda conn: setattr(conn, "read_only", True))
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pool.send_batch(inserts("lost", 1))
    pool.close()


def test_a_bare_class_of_connections_can_be_used(make_pool):
    class Own(psycopg.Connection):
        pass

    assert rows(make_pool(connection_class=Own).send_batch(numbers(2))) == [[(0,)], [(1,)]]


@each_way
def test_a_copy_that_the_server_does_alone_can_be_in_a_batch(pool, done, atomic):
    batch = batch_of((INSERT, (1, "x")), "copy (select 1 from things) to '/dev/null'", "select 7")
    inserted, copied, selected = pool.send_batch(batch, atomic=atomic)
    assert inserted.error is None
    assert copied.statusmessage == "COPY 1"
    assert selected.rows == [(7,)]
    assert done("x") == [1]
