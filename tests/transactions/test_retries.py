"""`run_in_transaction` and `retry`: what is tried again, how often, and what is not."""

from __future__ import annotations

import time

import gevent
import psycopg
import pytest
from gevent.event import Event
from psycopg import IsolationLevel, errors

import geventpg
from geventpg.registry.scope import Scope
from geventpg.transactions.transient import is_transient
from tests.support.pools import terminate

INSERT = "insert into notes values (%s)"
SERIALIZABLE = IsolationLevel.SERIALIZABLE


def test_the_result_is_that_of_the_function_once_it_is_committed(name, notes):
    def work(conn, note, *, suffix):
        conn.execute(INSERT, (note + suffix,))
        return len(note)

    assert geventpg.run_in_transaction(work, "note", pool=name, suffix="!") == 4
    assert notes() == ["note!"]


def test_a_pool_can_be_given_instead_of_a_name(name, notes):
    pool = geventpg.get_pool(name)
    geventpg.run_in_transaction(lambda conn: conn.execute(INSERT, ("kept",)), pool=pool)
    assert notes() == ["kept"]
    assert pool.get_stats()["pool_available"] == 1


def test_conflicting_serializable_transactions_all_succeed_in_the_end(name, notes, admin):
    admin.execute("insert into notes values ('0')")

    def increment(conn):
        (value,) = conn.execute("select note from notes").fetchone()
        gevent.sleep(0)  # let the others read the same
        conn.execute("update notes set note = %s", (str(int(value) + 1),))

    workers = [
        gevent.spawn(
            geventpg.run_in_transaction,
            increment,
            pool=name,
            isolation_level=SERIALIZABLE,
            max_attempts=50,
        )
        for _ in range(8)
    ]
    gevent.joinall(workers, raise_error=True)
    assert notes() == ["8"]


def test_a_deadlock_is_tried_again(name, notes, admin):
    admin.execute("insert into notes values ('a'), ('b')")
    update = "update notes set note = note where note = %s"
    met = {"a": Event(), "b": Event()}

    def work(conn, first, second):
        conn.execute(update, (first,))
        met[first].set()
        met[second].wait(5)
        conn.execute(update, (second,))

    calls = [("a", "b"), ("b", "a")]
    gevent.joinall(
        [gevent.spawn(geventpg.run_in_transaction, work, *c, pool=name) for c in calls],
        raise_error=True,
    )


def test_a_connection_lost_before_commit_is_tried_again_on_a_fresh_one(name, notes, admin):
    pids = []

    def work(conn):
        pids.append(conn.info.backend_pid)
        conn.execute(INSERT, (f"attempt {len(pids)}",))
        if len(pids) == 1:
            terminate(admin, pids[0])

    geventpg.run_in_transaction(work, pool=name)
    assert len(set(pids)) == 2
    assert notes() == ["attempt 2"]


@pytest.mark.parametrize(
    "damage",
    ["deallocate all", "alter table notes add column more int"],
    ids=["a lost statement", "a stale statement"],
)
def test_a_prepared_statement_that_is_of_no_more_use_is_tried_again(
    configure, notes, admin, damage
):
    name = configure(kwargs={"prepare_threshold": 0})
    select = "select * from notes"
    with geventpg.get_conn(name) as conn:
        conn.execute(select)
    attempts = []

    def work(conn):
        attempts.append(1)
        conn.execute("select 1")
        if len(attempts) == 1:
            if damage.startswith("alter"):
                admin.execute(damage)
            else:
                conn.pgconn.exec_(damage.encode())  # behind psycopg's back
        return conn.execute(select).fetchall()

    assert geventpg.run_in_transaction(work, pool=name) == []
    assert len(attempts) == 2


@pytest.mark.parametrize(
    "make_error",
    [
        ZeroDivisionError,
        lambda: errors.UniqueViolation("no"),
        lambda: errors.QueryCanceled("no"),
        lambda: errors.FeatureNotSupported("something else"),
        lambda: geventpg.CommitUnknown("no"),
        gevent.Timeout,
        gevent.GreenletExit,
    ],
)
def test_other_errors_are_raised_at_once(name, notes, make_error):
    attempts = []
    error = make_error()

    def work(conn):
        attempts.append(conn.execute(INSERT, ("lost",)))
        raise error

    with pytest.raises(type(error)) as caught:
        geventpg.run_in_transaction(work, pool=name)
    assert caught.value is error
    assert len(attempts) == 1
    assert notes() == []


def always_in_conflict(attempts):
    def work(conn):
        conn.execute("select 1")
        attempts.append(conn)
        raise errors.SerializationFailure(f"conflict {len(attempts)}")

    return work


def test_the_last_error_carries_every_attempt(name):
    attempts = []
    with pytest.raises(errors.SerializationFailure, match="conflict 3") as caught:
        geventpg.run_in_transaction(always_in_conflict(attempts), pool=name, max_attempts=3)
    assert len(attempts) == 3
    assert [str(error) for error in caught.value.attempts] == [
        "conflict 1",
        "conflict 2",
        "conflict 3",
    ]
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__[0] == "attempt 1: SerializationFailure: conflict 1"


def test_no_attempt_begins_after_the_timeout(name):
    attempts = []
    with gevent.Timeout(5), pytest.raises(errors.SerializationFailure):
        geventpg.run_in_transaction(
            always_in_conflict(attempts), pool=name, max_attempts=10_000, timeout=0.3
        )
    assert 1 < len(attempts) < 100


def test_the_timeout_bounds_the_checkout(configure):
    name = configure(max_size=1)
    with geventpg.get_pool(name).connection(), pytest.raises(geventpg.PoolTimeout):
        geventpg.run_in_transaction(lambda _conn: None, pool=name, timeout=0.05)


def test_statements_get_what_is_left_of_the_timeout_when_an_attempt_begins(name):
    shown = []

    @geventpg.retry(pool=name, timeout=20, statement_timeout="remaining", max_attempts=2)
    def work(conn):
        shown.append(
            conn.execute(
                "select setting::int from pg_settings where name = 'statement_timeout'"
            ).fetchone()[0]
        )
        if len(shown) == 1:
            gevent.sleep(0.05)
            raise errors.SerializationFailure("once more")

    work()
    assert 20_000 >= shown[0] >= shown[1] + 50 > 10_000


def test_the_time_of_the_unit_of_work_counts_if_it_is_shorter(name):
    def shown(conn):
        return conn.execute("show statement_timeout").fetchone()[0]

    with Scope(deadline=time.monotonic() + 10):
        text = geventpg.run_in_transaction(
            shown, pool=name, timeout=3_000, statement_timeout="remaining"
        )
    assert text.endswith("ms")
    assert int(text.removesuffix("ms")) <= 10_000


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"timeout": -1.0}])
def test_impossible_bounds_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        geventpg.run_in_transaction(lambda _conn: None, pool=name, **options)


def test_inside_another_transaction_it_is_a_savepoint_and_one_attempt(name, notes):
    attempts = []
    with geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("outer",))
        with pytest.raises(errors.SerializationFailure):
            geventpg.run_in_transaction(always_in_conflict(attempts), pool=name)
        geventpg.run_in_transaction(lambda conn: conn.execute(INSERT, ("inner",)), pool=name)
        assert notes() == []
    assert attempts == [conn]
    assert notes() == ["inner", "outer"]


def test_a_failed_call_leaves_every_connection_in_the_pool(configure):
    name = configure(max_size=2)
    callers = [
        gevent.spawn(geventpg.run_in_transaction, always_in_conflict([]), pool=name, max_attempts=3)
        for _ in range(20)
    ]
    gevent.joinall(callers)
    pool = geventpg.get_pool(name)
    stats = pool.get_stats()
    assert stats["pool_available"] == stats["pool_size"] <= 2


def test_a_decorated_function_is_called_without_the_connection(name, notes):
    @geventpg.retry(pool=name, max_attempts=2)
    def note(conn, text: str) -> str:
        """Write it down."""
        conn.execute(INSERT, (text,))
        return text.upper()

    assert note("kept") == "KEPT"
    assert note.__doc__ == "Write it down."
    assert notes() == ["kept"]


def test_without_parentheses_it_uses_the_default_pool(dsn, notes):
    geventpg.configure(dsn)

    @geventpg.retry
    def note(conn):
        conn.execute(INSERT, ("kept",))

    note()
    geventpg.close_all()
    assert notes() == ["kept"]


def test_an_unreachable_server_is_not_a_lost_connection(proxy, configure):
    proxy.stop()
    with pytest.raises(geventpg.PoolTimeout) as caught:
        geventpg.run_in_transaction(
            lambda _conn: None, pool=configure(proxy.dsn(""), timeout=0.2), max_attempts=3
        )
    assert not is_transient(caught.value)


def test_errors_of_other_libraries_are_never_transient():
    assert not is_transient(ConnectionResetError())
    assert not is_transient(psycopg.OperationalError("nobody knows"))
