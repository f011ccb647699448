"""Tasks that can be met in any phase of their work: see `phase`."""

import gevent

import geventpg
from tests.apps.work import app, note


@app.task(name="phase")
def phase(kind, tag, seconds):
    """Write a note and stay for *seconds* in what *kind* says."""
    note(tag)
    conn = geventpg.get_conn()
    if kind == "statement":
        conn.execute("select pg_sleep(%s)", [seconds])
    elif kind == "copy in":
        with conn.cursor().copy("copy phase_rows from stdin") as copy:
            for _ in range(10):
                copy.write_row((tag,))
                gevent.sleep(seconds / 10)
    elif kind == "copy out":
        with conn.cursor().copy(f"copy (select pg_sleep({seconds:f})) to stdout") as copy:
            for _ in copy:
                pass
    elif kind == "transaction":
        gevent.sleep(seconds)
    elif kind == "commit":
        conn.execute("insert into phase_commits values (%s)", [seconds])
    return tag
