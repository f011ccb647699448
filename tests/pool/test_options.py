"""Wrong options are clear errors when the pool is configured; the environment is read."""

from __future__ import annotations

import psycopg
import pytest

from geventpg import OptionError, Pool
from geventpg.pool.options import GEVENTPG_ONLY, OPTIONS, check_options, from_environment

SECONDS = [
    "timeout",
    "max_lifetime",
    "max_idle",
    "reconnect_timeout",
    "keepalive_interval",
    "probe_timeout",
    "cancel_timeout",
    "leak_threshold",
]
COUNTS = ["min_size", "max_size", "max_waiting", "num_workers", "statement_connections"]
CALLBACKS = ["configure", "check", "reset", "reconnect_failed"]
FLAGS = ["close_returns", "use_lifo", "timings"]

WRONG = [
    *[(name, value) for name in SECONDS for value in ("5", None, True, -1, float("nan"), [1])],
    *[(name, value) for name in COUNTS for value in ("5", 1.5, True, -1, [1])],
    *[(name, value) for name in CALLBACKS for value in ("print", 1, True)],
    *[(name, value) for name in FLAGS for value in ("yes", None, 1)],
    *[(name, 0) for name in ("max_lifetime", "max_idle", "probe_timeout", "cancel_timeout")],
    ("num_workers", 0),
    ("statement_connections", 0),
    ("max_size", 3),  # with min_size 4
    ("max_size", 0),
    ("min_size", None),
    ("open", "yes"),
    ("name", 5),
    ("prepare", "sometimes"),
    ("prepare", None),
    ("prepare", True),
    ("kwargs", "autocommit"),
    ("kwargs", 5),
    ("connection_class", dict),
    ("connection_class", "Connection"),
    ("connection_class", None),
    ("connection_class", psycopg.AsyncConnection),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_an_error_that_names_the_option(name, value):
    with pytest.raises(OptionError, match=rf"\b{name}\b") as caught:
        Pool("", open=False, **{name: value}) if name != "open" else Pool("", open=value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, psycopg.ProgrammingError)


RIGHT = [
    *[(name, value) for name in SECONDS for value in (1, 0.5, 3600.0)],
    *[(name, 0) for name in ("timeout", "reconnect_timeout", "keepalive_interval")],
    ("leak_threshold", 0),
    *[(name, 7) for name in COUNTS],
    *[(name, None) for name in CALLBACKS],
    *[(name, print) for name in CALLBACKS],
    *[(name, value) for name in FLAGS for value in (True, False)],
    *[("prepare", value) for value in ("auto", "always", "never")],
    ("max_lifetime", float("inf")),
    ("max_idle", float("inf")),
    ("max_size", None),
    ("max_waiting", 0),
    ("name", None),
    ("kwargs", None),
    ("kwargs", {"autocommit": True}),
    ("kwargs", dict),
    ("connection_class", psycopg.Connection),
    ("connection_class", psycopg.Connection[dict]),
]


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_a_right_value_is_accepted(name, value):
    options = {name: value}
    if name == "min_size":
        options["max_size"] = 20
    Pool("", open=False, **options)


def test_every_option_of_the_constructor_is_checked_here():
    tested = {name for name, _ in WRONG}
    assert tested == set(OPTIONS)


def test_a_pool_of_no_connections_is_impossible():
    with pytest.raises(OptionError, match="max_size must be greater than 0"):
        Pool("", min_size=0, open=False)
    with pytest.raises(OptionError, match="max_size must be greater than 0"):
        Pool("", min_size=0, max_size=0, open=False)


def test_a_maximum_below_the_minimum_quotes_both():
    with pytest.raises(OptionError, match=r"max_size must be .*3 < 5"):
        Pool("", min_size=5, max_size=3, open=False)


@pytest.mark.parametrize("conninfo", [None, 5, b"dbname=x", {"host": "db"}])
def test_a_conninfo_of_the_wrong_type_is_an_error_that_does_not_quote_it(conninfo):
    with pytest.raises(OptionError, match="conninfo must be") as caught:
        Pool(conninfo, open=False)
    assert repr(conninfo) not in str(caught.value) or conninfo is None


def test_an_unknown_option_is_pythons_own_error():
    with pytest.raises(TypeError, match="max_sise"):
        Pool("", open=False, max_sise=5)


def test_an_unknown_option_by_name_gets_a_suggestion():
    with pytest.raises(OptionError, match=r"unknown pool option 'max_sise' .*'max_size'"):
        check_options({"max_sise": 5})


def test_an_option_that_resembles_nothing_gets_the_list():
    with pytest.raises(OptionError, match=r"known: .*max_size"):
        check_options({"qqqq": 5})


def test_a_wrong_option_leaves_no_half_made_pool(dsn, backends, recwarn):
    for _ in range(3):
        with pytest.raises(OptionError):
            Pool(dsn, open=True, timeout="soon")
    assert backends() == []
    assert not recwarn.list


def test_options_beyond_psycopg_pools_are_listed():
    assert set(OPTIONS) >= GEVENTPG_ONLY
    assert "use_lifo" in GEVENTPG_ONLY
    assert "max_size" not in GEVENTPG_ONLY


def test_prepare_never_turns_prepared_statements_off(make_pool):
    for prepare, expected in (("never", None), ("auto", 5)):
        with make_pool(prepare=prepare).connection() as conn:
            assert conn.prepare_threshold == expected


# -- the environment -----------------------------------------------------------------------------


def test_the_environment_is_read_with_each_options_type():
    environment = {
        "GEVENTPG_MIN_SIZE": "2",
        "GEVENTPG_MAX_SIZE": "20",
        "GEVENTPG_TIMEOUT": "2.5",
        "GEVENTPG_MAX_WAITING": "100",
        "GEVENTPG_KEEPALIVE_INTERVAL": "0",
        "GEVENTPG_PREPARE": "never",
        "GEVENTPG_USE_LIFO": "no",
        "GEVENTPG_CLOSE_RETURNS": "TRUE",
        "GEVENTPG_CONNINFO": "host=db",
        "GEVENTPG_TEST_DSN": "host=db",
        "PATH": "/bin",
    }
    options = from_environment(environment)
    assert options == {
        "min_size": 2,
        "max_size": 20,
        "timeout": 2.5,
        "max_waiting": 100,
        "keepalive_interval": 0.0,
        "prepare": "never",
        "use_lifo": False,
        "close_returns": True,
    }
    Pool("", open=False, **options)


@pytest.mark.parametrize("text", ["1", "true", "Yes", " on "])
def test_truth_in_the_environment(text):
    assert from_environment({"GEVENTPG_USE_LIFO": text}) == {"use_lifo": True}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("GEVENTPG_MAX_SIZE", "many"),
        ("GEVENTPG_MAX_SIZE", "2.5"),
        ("GEVENTPG_MAX_SIZE", ""),
        ("GEVENTPG_TIMEOUT", "soon"),
        ("GEVENTPG_USE_LIFO", "maybe"),
        ("GEVENTPG_MAX_SISE", "5"),
        ("GEVENTPG_CONFIGURE", "print"),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(variable, text):
    with pytest.raises(OptionError, match=variable):
        from_environment({variable: text})


def test_an_unknown_variable_gets_a_suggestion():
    with pytest.raises(OptionError, match=r"did you mean .GEVENTPG_MAX_SIZE"):
        from_environment({"GEVENTPG_MAX_SISE": "5"})


def test_impossible_values_from_the_environment_fail_at_configuration():
    options = from_environment({"GEVENTPG_MAX_SIZE": "2", "GEVENTPG_TIMEOUT": "-1"})
    with pytest.raises(OptionError):
        Pool("", open=False, **options)
