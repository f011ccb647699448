"""A Celery app that has used a pool when the worker forks its children."""

import os

import geventpg
from tests.apps.work import app

geventpg.configure(
    os.environ["GEVENTPG_CONNINFO"] + " options='-c search_path=public'",
    name="early",
    min_size=2,
    max_size=2,
)


def session():
    return geventpg.get_conn("early").execute("select pg_backend_pid()").fetchone()[0]


PARENT = os.getpid()
with geventpg.get_conn("early") as conn:
    PARENTS_SESSION = session()


@app.task(name="early")
def early(tag):
    """Work on both pools; return the process's number and its session of the early pool."""
    geventpg.get_conn().execute("insert into work_notes (tag) values (%s)", [tag])
    return os.getpid(), session(), PARENT, PARENTS_SESSION
