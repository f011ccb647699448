"""A web application whose master process has used its pool before it forks its workers.

For ``gunicorn --preload -k gevent tests.apps.preloaded:application``. Each request works in a
transaction and answers in JSON; the master works on its pool whenever it is told to reload.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402

import geventpg  # noqa: E402

geventpg.configure(os.environ["CONNINFO"], min_size=2, max_size=4, timeout=20)


def work():
    """Write a row, and return the server process that did it."""
    with geventpg.get_conn() as conn:
        conn.execute("insert into preloaded values (%s)", [os.getpid()])
        conn.execute("select pg_sleep(0.01)")
        return conn.execute("select pg_backend_pid()").fetchone()[0]


MASTER = os.getpid()
work()
pool = geventpg.get_pool()
pool.wait()
with pool.connection() as one, pool.connection() as other:
    MASTERS_SESSIONS = [one.info.backend_pid, other.info.backend_pid]


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    answer = {"process": os.getpid(), "session": work(), "master": MASTER}
    return [json.dumps(answer).encode()]


def on_reload(server):
    """Work in the master: a hook of gunicorn's."""
    server.log.info("the master has session %s, had %s", work(), MASTERS_SESSIONS)
