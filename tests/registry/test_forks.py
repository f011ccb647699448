"""After a fork the child has pools of its own, and the parent's sessions never hear of it."""

from __future__ import annotations

import pytest

from tests.support import wait_until
from tests.support.script import output_of

GEVENT = """
import os, sys
from gevent import monkey; monkey.patch_all()
from tests.support.children import watch_children; watch_children()
import geventpg
"""

# Python 3.12 and later warn of every fork in a process with threads, which psycopg_pool has.
STOCK = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
import geventpg
"""

COMMON = """
import logging
logging.disable(logging.WARNING)  # what is rolled back when the process ends is not the matter here
geventpg.configure(sys.argv[1], min_size=2, max_size=3)

def pid():
    return geventpg.get_conn().execute("select pg_backend_pid()").fetchone()[0]

def in_child(work, leave=os._exit):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, "the child failed"
        return
    try:
        work()
    except Exception:
        import traceback
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    leave(0)

before = pid()
geventpg.get_conn().execute("create temporary table mine (i int)")
"""

AFTER = """
assert pid() == before
assert geventpg.get_conn().execute("select count(*) from mine").fetchone() == (0,)
geventpg.get_conn().commit()
assert pid() == before
geventpg.get_conn().commit()
print("the parent goes on")
"""

WORK = """
def work():
    mine = pid()
    assert mine != before, "the child uses the parent's connection"
    geventpg.get_conn().commit()
    with geventpg.get_conn() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    pool = geventpg.get_pool()
    assert pool.get_stats()["pool_size"] <= 3
"""

KINDS = pytest.mark.parametrize("start", [GEVENT, STOCK], ids=["gevent", "stock"])


@KINDS
@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_a_child_has_its_own_pool_and_the_parent_keeps_its_session(dsn, backends, start, leave):
    source = f"{start}{COMMON}{WORK}in_child(work, {leave})\n{AFTER}"
    assert output_of(source, dsn) == "the parent goes on\n"
    wait_until(lambda: not backends(), timeout=8)


@KINDS
@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_a_child_that_never_uses_the_pool_leaves_the_parent_alone(dsn, start, leave):
    source = f"{start}{COMMON}in_child(lambda: None, {leave})\n{AFTER}"
    assert output_of(source, dsn) == "the parent goes on\n"


@KINDS
@pytest.mark.parametrize(
    "act",
    [
        "geventpg.close_all()",
        "geventpg.release_conn()",
        "inherited.close()",
        "inherited.pgconn.finish()",
        "globals().pop('inherited'); __import__('gc').collect()",
        "geventpg.close_all(); geventpg.configure(sys.argv[1] + ' ', max_size=5); pid()",
    ],
)
def test_whatever_a_child_does_with_what_it_inherited_the_parent_keeps_its_session(dsn, start, act):
    source = (
        f"{start}{COMMON}\ninherited = geventpg.get_conn()\nheld_by_parent = [inherited]\n"
        f"def work():\n    {act}\nin_child(work)\n{AFTER}"
    )
    assert output_of(source, dsn) == "the parent goes on\n"


@KINDS
def test_a_fork_inside_a_block_and_a_transaction_leaves_both_to_the_parent(
    dsn, start, admin, table
):
    source = f"""{start}{COMMON}
geventpg.get_conn().commit()
with geventpg.get_conn() as conn:
    conn.execute("insert into registry_notes values ('before')")
    in_child(lambda: None, sys.exit)
    conn.execute("insert into registry_notes values ('after')")
"""
    output_of(source, dsn)
    assert admin.execute(f"select count(*) from {table}").fetchone() == (2,)


@KINDS
def test_children_of_children_have_pools_of_their_own_too(dsn, start):
    source = f"""{start}{COMMON}
def work():
    parent = pid()
    def grandchild():
        assert pid() not in (before, parent)
        geventpg.get_conn().commit()
    in_child(grandchild, sys.exit)
    assert pid() == parent
    geventpg.get_conn().commit()
in_child(work, sys.exit)
{AFTER}"""
    assert output_of(source, dsn) == "the parent goes on\n"


def test_a_thread_that_held_a_connection_when_another_forked_keeps_it(dsn):
    source = f"""{STOCK}{COMMON}
ready, forked = threading.Event(), threading.Event()
answers = []

def other_thread():
    with geventpg.get_conn() as conn:
        mine = conn.execute("select pg_backend_pid()").fetchone()
        ready.set()
        forked.wait()
        answers.append(conn.execute("select pg_backend_pid()").fetchone() == mine)

thread = threading.Thread(target=other_thread)
thread.start()
ready.wait()
def work():
    for _ in range(4):
        assert pid() != before
        geventpg.get_conn().commit()
        geventpg.release_conn()
in_child(work, sys.exit)
forked.set()
thread.join()
assert answers == [True]
{AFTER}"""
    assert output_of(source, dsn) == "the parent goes on\n"


def test_a_parent_that_only_configured_connects_nothing_and_its_child_has_a_pool(dsn, backends):
    source = f"""{GEVENT}{COMMON.split("before = pid()", maxsplit=1)[0]}
def work():
    print(pid() > 0)
    geventpg.get_conn().commit()
in_child(work, sys.exit)
assert not geventpg.registry.pools.open_pools()
"""
    assert output_of(source, dsn) == "True\n"
