"""What is wrong with the settings is said without quoting them."""

from __future__ import annotations

import pytest

import geventpg
from celery_integration.settings import Settings, read_settings
from geventpg import OptionError, Pool
from geventpg.pool.options import from_environment
from tests.support.secrets import (
    HIDDEN,
    NOWHERE,
    SECRET,
    app_with,
    everything_about,
    has_no,
    refusal_of,
)


@pytest.mark.parametrize(
    "options",
    [
        {"max_siez": 3},
        {"max_size": SECRET},
        {"timeout": SECRET},
        {"prepare": SECRET},
        {"connection_class": SECRET},
        {"kwargs": f"password={SECRET}"},
        {"kwargs": {"password": f"{SECRET}\0"}},
        {"kwargs": {"password": f"{SECRET}\udcff"}},
        {"configure": SECRET},
        {"use_lifo": SECRET},
        {"name": SECRET.encode()},
    ],
    ids=str,
)
def test_a_bad_option_is_named_and_no_value_is_quoted(options, log):
    conninfo = f"{NOWHERE} password={HIDDEN}"
    named = {"name": "bad-options", **options}
    attempts = [lambda: geventpg.configure(conninfo, **named)]
    if "max_siez" not in options:
        attempts.append(lambda: Pool(conninfo, open=False, **options))
    for attempt in attempts:
        error = refusal_of(attempt)
        assert isinstance(error, OptionError)
        has_no(SECRET, everything_about(error), log())
        has_no(HIDDEN, everything_about(error), log())


@pytest.mark.parametrize("variable", ["MAX_SIZE", "TIMEOUT", "USE_LIFO", "PASSWORD", "PREPARE"])
def test_a_bad_variable_is_named_and_the_environment_is_not_shown(variable, log):
    environ = {
        "GEVENTPG_CONNINFO": f"{NOWHERE} password={HIDDEN}",
        "PGPASSWORD": HIDDEN,
        f"GEVENTPG_{variable}": SECRET,
    }

    def configure():
        geventpg.configure(
            environ["GEVENTPG_CONNINFO"], name="from-environment", **from_environment(environ)
        )

    error = refusal_of(configure)
    assert variable in str(error) or variable.lower() in str(error)
    has_no(SECRET, everything_about(error), log())
    has_no(HIDDEN, everything_about(error), log())


def test_the_configuration_of_another_pool_is_not_shown_when_two_differ(log):
    name = "configured-twice"
    geventpg.configure(f"{NOWHERE} password={SECRET}", name=name, min_size=0, max_size=1)
    pool = geventpg.get_pool(name)
    error = refusal_of(lambda: geventpg.configure(f"{NOWHERE} password={HIDDEN}", name=name))
    pool.close()
    for word in (SECRET, HIDDEN):
        has_no(
            word, everything_about(error), log(), repr(pool), repr(geventpg.registry.pools._configs)
        )


@pytest.mark.parametrize(
    "settings",
    [
        f"{NOWHERE} password={SECRET}",
        {"conninfo": f"{NOWHERE} password={SECRET}"},
        {"conninfo": NOWHERE, "kwargs": {"password": SECRET}},
        {"conninfo": lambda: f"{NOWHERE} password={SECRET}"},
    ],
    ids=["string", "conninfo", "kwargs", "callable"],
)
def test_celery_settings_have_no_secret_in_their_repr(settings):
    read = read_settings(app_with(settings), "gevent", 5)
    assert isinstance(read, Settings)
    has_no(SECRET, repr(read), str(read), f"{read}", f"{[read]}")


@pytest.mark.parametrize(
    "settings",
    [
        {"conninfo": f"password={SECRET}", "max_size": SECRET},
        {"conninfo": "", "kwargs": {"password": SECRET}},
        [f"password={SECRET}"],
    ],
    ids=["bad option", "no conninfo", "no mapping"],
)
def test_bad_celery_settings_are_not_quoted(settings, monkeypatch):
    monkeypatch.delenv("GEVENTPG_CONNINFO", raising=False)
    error = refusal_of(lambda: read_settings(app_with(settings), "gevent", 5))
    has_no(SECRET, everything_about(error))
