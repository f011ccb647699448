"""gevent's event loops: the pool does on each of them what it is for."""

from __future__ import annotations

import pytest

from tests.support.script import output_of

SCRIPT = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, geventpg

def work(number):
    with pool.connection() as conn:
        query = "select %s::int, pg_sleep(0.001)"
        assert conn.execute(query, [number]).fetchone()[0] == number
    return pool.fetch_val("select %s::int", [number])

with geventpg.Pool(sys.argv[1], min_size=2, max_size=4, open=True) as pool:
    jobs = [gevent.spawn(work, number) for number in range(50)]
    gevent.joinall(jobs, raise_error=True)
    assert [job.value for job in jobs] == list(range(50))
    with pool.connection() as conn:
        conn.autocommit = True
        try:
            with gevent.Timeout(0.1):
                conn.execute("select pg_sleep(60)")
        except gevent.Timeout:
            pass
        idle = "application_name = current_setting('application_name') and pid <> pg_backend_pid()"
        query = f"select pid, pg_terminate_backend(pid, 5000) from pg_stat_activity where {idle}"
        ended = dict(conn.execute(query).fetchall())
        conn.autocommit = False
        with pool.connection() as other:
            assert other.execute("select pg_backend_pid()").fetchone()[0] not in ended
print(type(gevent.get_hub().loop).__module__)
"""


@pytest.mark.parametrize(
    ("loop", "module"),
    [("libev-cext", "gevent.libev.corecext"), ("libuv-cffi", "gevent.libuv.loop")],
)
def test_the_pool_works_on(dsn, loop, module):
    assert output_of(SCRIPT, dsn, GEVENT_LOOP=loop) == f"{module}\n"
