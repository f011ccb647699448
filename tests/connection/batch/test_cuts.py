"""A connection that is cut at any byte: each statement has its result, or an error that is true."""

from __future__ import annotations

import gevent
import psycopg
import pytest

import geventpg
from geventpg.transactions.transient import is_transient
from tests.chaos.form import pick
from tests.connection.batch.helpers import INSERT, check_pool, inserts, rows
from tests.support import wait_until
from tests.support.pools import settled

SIZE = 50
ALL = list(range(SIZE))
# The last bytes are about COMMIT, in both directions: enough of them are in every sample.
ABOUT_COMMIT = 60
NEVER = 2**40

pytestmark = pytest.mark.hang_limit(1200)
DIRECTIONS = pytest.mark.parametrize("direction", ["from_server", "from_client"])


@pytest.fixture
def cut_everywhere(make_pool, proxy, dsn, rng):
    """Return a function that runs *work* with a cut at each byte, or at a sample of them.

    It yields the tag that *work* was given and what that returned or raised.
    """
    pool = make_pool(proxy.dsn(dsn), max_size=1, keepalive_interval=0)

    def on_a_fresh_connection(work, tag):
        # One that has executed nothing: all attempts say the same.
        pool.drain()
        wait_until(lambda: settled(pool, 1))
        return lambda: work(pool, tag)

    def length(work, direction):
        run = on_a_fresh_connection(work, "measured")
        before = proxy.forwarded(direction)
        run()
        return proxy.forwarded(direction) - before

    def cut_everywhere(work, direction):
        length(work, direction)  # a table's first rows are more work, and so are its answers
        end = length(work, direction)
        sample = [*rng.sample(range(end), 20), *range(end - ABOUT_COMMIT, end, 3)]
        for offset in pick(short=sorted(set(sample)), long=list(range(end))):
            tag = f"{offset:08}"  # as long as the one that was measured
            run = on_a_fresh_connection(work, tag)
            proxy.cut_next(offset, direction)
            try:
                with gevent.Timeout(20, AssertionError(f"it hangs after {offset} bytes")):
                    outcome = run()
            except psycopg.Error as error:
                outcome = error
            proxy.cut_next(NEVER, direction)
            yield tag, outcome
        check_pool(pool)

    return cut_everywhere


def all_or_nothing(pool, tag):
    return pool.send_batch(inserts(tag, SIZE))


def each_for_itself(pool, tag):
    return pool.send_batch(inserts(tag, SIZE), atomic=False)


@DIRECTIONS
def test_all_or_nothing_cut_anywhere_is_done_or_not_as_reported(cut_everywhere, done, direction):
    reported = set()
    for tag, outcome in cut_everywhere(all_or_nothing, direction):
        assert not isinstance(outcome, geventpg.CommitUnknown), "this server could be asked"
        if isinstance(outcome, psycopg.OperationalError):
            assert done(tag) == []
            assert outcome.index is None or outcome.index in ALL
            reported.add("lost")
        else:
            assert rows(outcome) == [[(number,)] for number in ALL]
            assert done(tag) == ALL
            reported.add("done")
    # Cut inside the answer to COMMIT it is done, and found out to be. The last bytes of a client
    # may be its good-bye, which is too late to lose anything.
    assert reported >= ({"lost", "done"} if direction == "from_server" else {"lost"})


@DIRECTIONS
def test_each_for_itself_cut_anywhere_says_of_each_what_is_known(cut_everywhere, done, direction):
    seen = set()
    for tag, outcome in cut_everywhere(each_for_itself, direction):
        assert [result.index for result in outcome] == ALL
        was_done = done(tag)
        for result in outcome:
            seen.add(type(result.error))
            if result.error is None:
                assert result.rows == [(result.index,)]
                assert result.index in was_done
            else:
                assert result.error.index == result.index
            if isinstance(result.error, geventpg.NotExecuted):
                assert result.index not in was_done
        # Those with results come first.
        known = [result.error is None for result in outcome]
        assert known == sorted(known, reverse=True)
    assert {type(None), geventpg.CommitUnknown} <= seen
    assert seen <= {type(None), geventpg.CommitUnknown, geventpg.NotExecuted}


def test_what_was_not_sent_is_known_not_to_be_done(make_pool, proxy, dsn, done):
    pool = make_pool(proxy.dsn(dsn), max_size=1)
    pool.wait()
    batch = geventpg.Batch()
    for number in range(400):
        batch.queue("insert into things select %s, left(%s, 4)", (number, "late" * 15_000))
    proxy.cut_next(1_000_000, "from_client")
    results = pool.send_batch(batch, atomic=False)
    was_done = done("late")
    for result in results:
        if result.error is None:
            assert result.index in was_done
        elif isinstance(result.error, geventpg.NotExecuted):
            assert result.index not in was_done
            assert is_transient(result.error)
        else:
            assert isinstance(result.error, geventpg.CommitUnknown)
            assert not is_transient(result.error)
    assert isinstance(results[-1].error, geventpg.NotExecuted)
    check_pool(pool)


def executemany(pool, tag):
    with pool.connection() as conn, conn.cursor() as cur:
        cur.executemany(INSERT, [(number, tag) for number in range(SIZE)], returning=True)
        return [one.fetchone() for one in cur.results()]


def pipeline(pool, tag):
    with pool.connection() as conn, conn.pipeline():
        cursors = [conn.execute(INSERT, (number, tag)) for number in range(SIZE)]
        return [cur.fetchone() for cur in cursors]


@DIRECTIONS
@pytest.mark.parametrize("work", [executemany, pipeline])
def test_psycopgs_own_pipelines_are_safe_too(cut_everywhere, done, work, direction):
    for tag, outcome in cut_everywhere(work, direction):
        if isinstance(outcome, psycopg.Error):
            assert isinstance(outcome, psycopg.OperationalError)
            assert done(tag) in ([], ALL)  # that of COMMIT is not looked up here
        else:
            assert outcome == [(number,) for number in ALL]
            assert done(tag) == ALL
