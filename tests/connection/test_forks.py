"""A forked child gives inherited sessions up without disturbing the parent's."""

from __future__ import annotations

import pytest

from tests.support.script import output_of

WATCHED = "from tests.support.children import watch_children; watch_children()"
PATCHES = {
    "unpatched": "",
    "patched": f"from gevent import monkey; monkey.patch_all()\n{WATCHED}",
}

SCRIPT = """
import gc, os, sys, warnings, gevent, geventpg
warnings.simplefilter("ignore")
conn = geventpg.Connection.connect(sys.argv[1])
conn.execute("create temporary table kept (i int)")
conn.execute("insert into kept values (1)")
reader = geventpg.Connection.connect(sys.argv[1], autocommit=True)
sleeper = gevent.spawn(reader.execute, "select pg_sleep(0.5), 7")
gevent.sleep(0.1)
pid = {fork}()
if pid == 0:
    status = 1
    try:
        {child}
        status = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
_, status = {wait}(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert conn.execute("select count(*) from kept").fetchone() == (1,)
assert sleeper.get(timeout=5).fetchone()[1] == 7
assert reader.execute("select 8").fetchone() == (8,)
conn.close()
reader.close()
print("done")
"""

CHILDREN = {
    "closes it": "conn.close(); reader.close(); assert conn.closed and reader.closed",
    "forgets it": "del conn, reader; gc.collect()",
    "opens its own": (
        "conn.close(); reader.close(); own = geventpg.Connection.connect(sys.argv[1]);"
        " assert own.execute('select 9').fetchone() == (9,); own.close()"
    ),
    "opens its own first": (
        "own = geventpg.Connection.connect(sys.argv[1]);"
        " assert own.execute('select 9, pg_sleep(0.1)').fetchone()[0] == 9; own.close()"
    ),
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_the_parents_sessions_live_when_the_child(dsn, patch, child):
    # gevent.os.fork re-makes the event loop in the child; os.fork alone is that when patched.
    source = SCRIPT.format(
        fork="os.fork" if patch else "gevent.os.fork", wait="os.waitpid", child=child
    )
    assert output_of(f"{patch}\nimport gevent.os\n{source}", dsn) == "done\n"


def test_a_plain_fork_without_gevents_help_does_no_harm_either(dsn):
    source = SCRIPT.format(
        fork="os.fork", wait="os.waitpid", child="conn.close(); reader.close(); gc.collect()"
    )
    assert output_of(source, dsn) == "done\n"
