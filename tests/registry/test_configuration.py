"""What configures a pool, when it opens, and what a mistake says."""

from __future__ import annotations

import re

import gevent
import gevent.event
import psycopg
import pytest

import geventpg
from tests.support import wait_until
from tests.support.script import output_of, run_script

PATCHED = """
    from gevent import monkey
    monkey.patch_all()
    """

REPORT = """
    import geventpg
    pool = geventpg.get_pool()
    print(pool.name, pool.min_size, pool.max_size, pool.timeout)
    with geventpg.get_conn() as conn:
        print(conn.info.parameter_status("application_name"))
    """


def test_configuring_connects_nothing_and_makes_no_pool(name, backends):
    gevent.sleep(0.05)
    assert backends() == []
    assert geventpg.get_pool(name) is geventpg.get_pool(name)
    wait_until(lambda: len(backends()) == 1)


def test_many_greenlets_that_come_first_get_one_pool(configure, backends):
    name = configure(max_size=4)
    pools, pids = [], []

    def user():
        pools.append(geventpg.get_pool(name))
        with geventpg.get_conn(name) as conn:
            pids.append(conn.execute("select pg_backend_pid()").fetchone()[0])

    gevent.joinall([gevent.spawn(user) for _ in range(100)], raise_error=True)
    assert len(set(map(id, pools))) == 1
    assert len(set(pids)) <= 4
    assert len(backends()) <= 4


def test_pools_of_different_names_have_nothing_in_common(dsn, configure, admin):
    name = configure()
    other = f"{name}-other"
    geventpg.configure(dsn, name=other, min_size=0, max_size=1)
    one, two = geventpg.get_conn(name), geventpg.get_conn(other)
    assert one is not two
    assert geventpg.get_pool(name) is not geventpg.get_pool(other)
    assert (geventpg.get_pool(name).max_size, geventpg.get_pool(other).max_size) == (3, 1)
    one.execute("select 1")
    geventpg.release_conn(other)
    assert geventpg.get_conn(name) is one


def test_an_unknown_name_is_told_with_those_that_exist(name):
    with pytest.raises(geventpg.NotConfigured, match=f"'nobody'.*{name}") as caught:
        geventpg.get_conn("nobody")
    assert "name='nobody'" in str(caught.value)
    assert isinstance(caught.value, psycopg.Error)


def test_without_any_configuration_the_error_says_what_to_do():
    done = run_script("import geventpg; geventpg.get_conn()")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "NotConfigured" in last
    assert "geventpg.configure(" in last
    assert "GEVENTPG_CONNINFO" in last


@pytest.mark.parametrize("patched", [True, False], ids=["gevent", "stock"])
def test_the_environment_configures_the_default_pool(dsn, application_name, patched):
    printed = output_of(
        (PATCHED if patched else "") + REPORT,
        GEVENTPG_CONNINFO=dsn,
        GEVENTPG_MIN_SIZE="1",
        GEVENTPG_MAX_SIZE="3",
        GEVENTPG_TIMEOUT="7.5",
        GEVENTPG_USE_LIFO="no",
    )
    assert printed.splitlines() == ["default 1 3 7.5", application_name]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GEVENTPG_MAX_SIEZ", "3", r"GEVENTPG_MAX_SIEZ.*did you mean 'GEVENTPG_MAX_SIZE'"),
        ("GEVENTPG_MAX_SIZE", "many", r"GEVENTPG_MAX_SIZE.*an integer"),
        ("GEVENTPG_USE_LIFO", "perhaps", r"GEVENTPG_USE_LIFO.*true or false"),
        ("GEVENTPG_MIN_SIZE", "-1", r"min_size cannot be negative, not -1"),
    ],
)
def test_a_wrong_variable_is_named(dsn, variable, value, message):
    done = run_script(
        """
        import geventpg
        try:
            geventpg.get_conn()
        except geventpg.OptionError as error:
            print(error)
        """,
        **{"GEVENTPG_CONNINFO": dsn, variable: value},
    )
    assert done.stderr == ""
    assert re.search(message, done.stdout), done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_siez": 3}, "unknown pool option 'max_siez'.*max_size"),
        ({"name_": 1}, "unknown pool option 'name_'"),
        ({"open": True}, "unknown pool option 'open'"),
        ({"max_size": "3"}, "max_size must be an integer, not str"),
        ({"max_size": True}, "max_size must be an integer, not bool"),
        ({"min_size": 5, "max_size": 2}, "max_size must be greater or equal than min_size"),
        ({"timeout": -1}, "timeout must be at least 0 seconds"),
        ({"max_idle": 0}, "max_idle must be more than 0 seconds"),
        ({"keepalive_interval": "30"}, "keepalive_interval must be a number of seconds, not str"),
        ({"prepare": "sometimes"}, "prepare must be one of auto, always, never"),
        ({"connection_class": dict}, "connection_class must be a subclass"),
        ({"check": "select 1"}, "check must be callable, not str"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_named_when_it_is_configured(dsn, pool_name, options, message):
    with pytest.raises(geventpg.OptionError, match=message):
        geventpg.configure(dsn, name=pool_name, **options)
    with pytest.raises(geventpg.NotConfigured):
        geventpg.get_pool(pool_name)


@pytest.mark.parametrize(
    "conninfo", ["host=a pass word=hidden", "postgres//u:hidden@h/d", "hidden", None, b"hidden"]
)
def test_a_connection_string_that_is_none_is_refused_without_being_quoted(pool_name, conninfo):
    with pytest.raises(geventpg.OptionError, match="conninfo") as caught:
        geventpg.configure(conninfo, name=pool_name)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_a_string(dsn, name):
    with pytest.raises(TypeError, match="name"):
        geventpg.configure(dsn, name=name)


def test_a_callable_is_asked_for_every_new_connection(dsn, pool_name, backends):
    asked = []

    def conninfo():
        asked.append(1)
        return dsn

    geventpg.configure(conninfo, name=pool_name, min_size=1, max_size=2)
    assert not asked
    children = [gevent.spawn(lambda: geventpg.get_conn(pool_name).execute("select 1"))]
    geventpg.get_conn(pool_name).execute("select 1")
    gevent.joinall(children, raise_error=True)
    assert len(asked) == len(backends()) == 2


def test_before_it_is_open_a_pool_can_be_configured_again(dsn, configure):
    configure(max_size=3)
    name = configure(max_size=5)
    assert geventpg.get_pool(name).max_size == 5


def test_an_open_pool_can_be_configured_again_the_same_way_only(configure):
    name = configure(max_size=3)
    pool = geventpg.get_pool(name)
    configure(max_size=3)
    with pytest.raises(psycopg.ProgrammingError, match=r"already open.*close_all"):
        configure(max_size=5)
    assert geventpg.get_pool(name) is pool
    assert pool.max_size == 3


def test_after_close_all_the_pool_can_be_configured_otherwise_and_used(configure, backends):
    name = configure(max_size=3)
    with geventpg.get_conn(name) as conn:
        conn.execute("select 1")
    first = geventpg.get_pool(name)
    geventpg.close_all()
    assert first.closed
    wait_until(lambda: not backends())
    configure(max_size=5)
    with geventpg.get_conn(name) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    assert geventpg.get_pool(name).max_size == 5


def test_after_close_all_the_old_configuration_still_holds(name):
    first = geventpg.get_pool(name)
    geventpg.close_all()
    geventpg.close_all()
    assert geventpg.get_pool(name) is not first
    with geventpg.get_conn(name) as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_after_close_all_get_conn_gives_no_connection_of_the_closed_pool(name):
    old = geventpg.get_conn(name)
    old.execute("select 1")
    geventpg.close_all()
    fresh = geventpg.get_conn(name)
    assert fresh is not old
    assert fresh.execute("select 1").fetchone() == (1,)
    assert old.closed


def test_close_all_is_bounded_and_what_is_held_closes_on_its_return(name, backends):
    ready, done = gevent.event.Event(), gevent.event.Event()

    def user():
        with geventpg.get_conn(name) as conn:
            conn.execute("select 1")
            ready.set()
            done.wait()
            return conn.execute("select 2").fetchone()

    greenlet = gevent.spawn(user)
    ready.wait()
    with gevent.Timeout(2):
        geventpg.close_all(timeout=0.5)
    done.set()
    assert greenlet.get() == (2,)
    wait_until(lambda: not backends())


def test_the_configuration_of_a_pool_has_no_secret_in_its_repr(pool_name):
    geventpg.configure(
        "host=nowhere.invalid password=hidden", name=pool_name, min_size=0, max_size=1
    )
    assert "hidden" not in repr(geventpg.get_pool(pool_name))
