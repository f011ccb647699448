"""Where gevent does not run: the same names on stock psycopg_pool, one connection a thread."""

from __future__ import annotations

import pytest

from tests.support.script import output_of, run_script

START = """
import logging, sys, threading, time
import psycopg, psycopg_pool
import geventpg
logging.disable(logging.WARNING)  # transactions that are rolled back are told of: see other tests
geventpg.configure(sys.argv[1], min_size=1, max_size=3, timeout=5)

def in_thread(function):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function()))
    thread.start()
    thread.join()
    return answers[0]

def error_of(function):
    try:
        function()
    except psycopg.ProgrammingError as error:
        return error
    raise AssertionError("no error")

def wait_until(predicate):
    deadline = time.monotonic() + 5
    while not predicate():
        assert time.monotonic() < deadline, geventpg.get_pool().get_stats()
        time.sleep(0.005)

def end_all_sessions():
    name = psycopg.conninfo.conninfo_to_dict(sys.argv[1])["application_name"]
    with psycopg.connect(sys.argv[1], autocommit=True, application_name="other") as admin:
        ours = "from pg_stat_activity where application_name = %s"
        ended = admin.execute(f"select pg_terminate_backend(pid, 5000) {ours}", [name])
        return len(ended.fetchall())

def all_back():
    stats = geventpg.get_pool().get_stats()
    return stats["pool_available"] == stats["pool_size"]
"""

CASES = {
    "the pool is psycopg_pool's own and nothing of gevent runs": """
pool = geventpg.get_pool()
assert type(pool) is psycopg_pool.ConnectionPool
assert not isinstance(pool, geventpg.Pool)
assert isinstance(geventpg.get_conn(), psycopg.Connection)
assert not isinstance(geventpg.get_conn(), geventpg.Connection)
assert "gevent.monkey" not in sys.modules or not sys.modules["gevent.monkey"].saved
from gevent._hub_local import get_hub_if_exists
assert get_hub_if_exists() is None
""",
    "a thread keeps its connection, another has another": """
mine = geventpg.get_conn()
assert geventpg.get_conn() is mine
assert in_thread(geventpg.get_conn) is not mine
""",
    "the end of a thread gives its connection back": """
for _ in range(20):
    in_thread(lambda: geventpg.get_conn().execute("select pg_backend_pid()").fetchone())
wait_until(all_back)
assert geventpg.get_pool().get_stats()["pool_size"] <= 3
""",
    "the end of a thread by an exception gives its connection back": """
threading.excepthook = lambda args: None
def fail():
    geventpg.get_conn().execute("select 1")
    raise RuntimeError("on purpose")
for _ in range(5):
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
wait_until(all_back)
""",
    "the block commits and releases": """
with geventpg.get_conn() as conn:
    conn.execute("insert into registry_notes values ('kept')")
    assert not all_back()
wait_until(all_back)
assert not conn.closed
with psycopg.connect(sys.argv[1]) as admin:
    assert admin.execute("select count(*) from registry_notes").fetchone() == (1,)
""",
    "an exception rolls back": """
try:
    with geventpg.get_conn() as conn:
        conn.execute("insert into registry_notes values ('lost')")
        raise KeyError
except KeyError:
    pass
wait_until(all_back)
with psycopg.connect(sys.argv[1]) as admin:
    assert admin.execute("select count(*) from registry_notes").fetchone() == (0,)
""",
    "an inner block joins": """
with geventpg.get_conn() as outer:
    with geventpg.get_conn() as inner:
        assert inner is outer
    assert not all_back()
    assert outer.execute("select 1").fetchone() == (1,)
wait_until(all_back)
""",
    "a connection that close() returns is the thread's no more": """
geventpg.configure(sys.argv[1], min_size=1, max_size=1, timeout=5, close_returns=True)
mine = geventpg.get_conn()
with mine:
    assert "inside" in str(error_of(mine.close))
geventpg.get_conn().close()
wait_until(all_back)
assert in_thread(lambda: geventpg.get_conn() is mine)
wait_until(all_back)
taken = geventpg.get_pool().getconn()
try:
    geventpg.get_pool().resize(1, 2)
    assert geventpg.get_conn() is not mine
finally:
    geventpg.get_pool().putconn(taken)
""",
    "release_conn inside a block is an error": """
with geventpg.get_conn():
    assert "inside" in str(error_of(geventpg.release_conn))
geventpg.release_conn()
wait_until(all_back)
""",
    "a thread never waits for itself": """
geventpg.configure(sys.argv[1], name="one", min_size=1, max_size=1, timeout=2)
with geventpg.get_conn("one") as a, geventpg.get_conn("one") as b:
    assert a is b is geventpg.get_conn("one")
""",
    "a lost connection is replaced": """
conn = geventpg.get_conn()
pid = conn.info.backend_pid
with psycopg.connect(sys.argv[1], autocommit=True) as admin:
    admin.execute("select pg_terminate_backend(%s)", [pid])
try:
    conn.execute("select 1")
except psycopg.OperationalError:
    pass
fresh = geventpg.get_conn()
assert fresh is not conn
assert fresh.execute("select 1").fetchone() == (1,)
fresh.commit()
""",
    "sessions that the server ended while they were idle are not met by anybody": """
geventpg.close_all()
geventpg.configure(sys.argv[1], min_size=2, max_size=2, timeout=5)
pool = geventpg.get_pool()
pool.wait()
assert end_all_sessions() == 2
with geventpg.get_conn() as conn, conn.transaction():
    conn.execute("select 1")
""",
    "nor are those that said their last words and are not over yet": """
geventpg.close_all()
geventpg.configure(sys.argv[1], min_size=1, max_size=1, timeout=5)
with geventpg.get_conn() as conn:
    dying = conn.info.backend_pid
    conn.execute("create temp table removed_at_the_end ()")
    row = conn.execute("select 'removed_at_the_end'::regclass::oid").fetchone()
geventpg.release_conn()
wait_until(all_back)
with psycopg.connect(sys.argv[1], autocommit=True) as admin, admin.transaction():
    # The backend drops its temporary tables and waits for the process that has one locked.
    name = admin.execute("select oid::regclass from pg_class where oid = %s", row).fetchone()[0]
    admin.execute(f"lock table {name} in access share mode")
    admin.execute("select pg_terminate_backend(%s)", [dying])
    waits = "select wait_event_type from pg_stat_activity where pid = %s"
    wait_until(lambda: admin.execute(waits, [dying]).fetchone() == ("Lock",))
    with geventpg.get_conn() as conn:
        assert conn.execute("select pg_backend_pid()").fetchone() != (dying,)
""",
    "a server that stays away is a time-out when no connection is left": """
geventpg.close_all()
geventpg.configure(sys.argv[1], min_size=1, max_size=1, timeout=0.2)
pool = geventpg.get_pool()
pool.wait()
pool.conninfo = psycopg.conninfo.make_conninfo(sys.argv[1], port="1")
assert end_all_sessions() == 1
started = time.monotonic()
try:
    geventpg.get_conn()
    assert False
except geventpg.PoolTimeout:
    assert time.monotonic() - started < 2
geventpg.close_all(timeout=0)
""",
    "many threads at once get one pool": """
barrier = threading.Barrier(20)
def come():
    barrier.wait()
    pool = geventpg.get_pool()
    with geventpg.get_conn() as conn:
        conn.execute("select 1")
    pools.add(pool)
pools = set()
threads = [threading.Thread(target=come) for _ in range(20)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(pools) == 1
with psycopg.connect(sys.argv[1], application_name="other") as admin:
    name = psycopg.conninfo.conninfo_to_dict(sys.argv[1])["application_name"]
    count = "select count(*) from pg_stat_activity where application_name = %s"
    assert admin.execute(count, [name]).fetchone()[0] <= 3
""",
    "options that only geventpg has do no harm": """
geventpg.close_all()
geventpg.configure(sys.argv[1], min_size=1, max_size=1, keepalive_interval=5, probe_timeout=1,
    cancel_timeout=1, leak_threshold=1, prepare="never", statement_connections=1, use_lifo=False)
assert geventpg.get_conn().prepare_threshold is None
""",
    "any connection class will do": """
class Mine(psycopg.Connection):
    pass
geventpg.close_all()
geventpg.configure(sys.argv[1], min_size=1, max_size=1, connection_class=Mine)
with geventpg.get_conn() as conn:
    assert isinstance(conn, Mine)
    with geventpg.get_conn() as again:
        assert again is conn
    assert not all_back()
wait_until(all_back)
""",
    "close_all and again": """
with geventpg.get_conn() as conn:
    conn.execute("select 1")
geventpg.close_all()
with geventpg.get_conn() as conn:
    assert conn.execute("select 1").fetchone() == (1,)
""",
}


@pytest.mark.parametrize("case", CASES)
def test_in_threads(dsn, table, case):
    assert output_of(START + CASES[case] + "\nprint('done')", dsn) == "done\n"


def test_a_wrong_configuration_is_the_same_error(dsn):
    done = run_script(START + "geventpg.configure(sys.argv[1], max_siez=1)", dsn)
    assert "OptionError: unknown pool option 'max_siez'" in done.stderr
