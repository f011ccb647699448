"""Where gevent does not run, psycopg_pool's own pool is looked at from outside."""

from __future__ import annotations

from tests.support.script import run_script

PROGRAM = """
import contextlib, os, threading, time
import psycopg
import geventpg
from geventpg.metrics import view as registry_view
from geventpg.pool.work import doing

geventpg.configure(os.environ["GEVENTPG_CONNINFO"], min_size=1, max_size=2)
pool = geventpg.get_pool()
pool.wait()
assert registry_view.stats(pool).created == 1, registry_view.stats(pool)
assert registry_view.holders(pool) == registry_view.waiters(pool) == ()

def work():
    cancelled = contextlib.suppress(psycopg.errors.QueryCanceled)
    with cancelled, doing("report", "7"), geventpg.get_conn() as conn:
        conn.execute("select pg_sleep(%s), 'x'", [30])

thread = threading.Thread(target=work, name="worker")
thread.start()
deadline = time.monotonic() + 10
while not (found := registry_view.holders(pool)) or not found[0].statement:
    assert time.monotonic() < deadline, found
    time.sleep(0.01)
(holder,) = found
assert (holder.greenlet, holder.task, holder.task_id) == ("worker", "report", "7"), holder
assert (holder.transaction, holder.statement) == ("ACTIVE", "select pg_sleep(%s), 'x'"), holder
stats = registry_view.stats(pool)
assert (stats.in_use, stats.requests, stats.evicted["broken"]) == (1, 1, 0), stats
with psycopg.connect(os.environ["GEVENTPG_CONNINFO"]) as admin:
    admin.execute("select pg_cancel_backend(%s)", [holder.pid])
thread.join()
assert registry_view.holders(pool) == ()
print("seen")
"""


def test_holders_and_counters_are_known_of_stock_pools_too(dsn):
    done = run_script(PROGRAM, GEVENTPG_CONNINFO=dsn)
    assert done.stdout == "seen\n", done.stderr
