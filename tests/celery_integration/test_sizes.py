"""The sizes of a worker's pool: what is given counts, the rest follows from the concurrency."""

from __future__ import annotations

import pytest
from celery import Celery

from celery_integration.settings import read_settings
from geventpg import OptionError


def sizes(kind, concurrency, **given):
    app = Celery("sizes", set_as_current=False)
    app.conf.geventpg = {"conninfo": "host=db.example", **given}
    options = read_settings(app, kind, concurrency).options
    return options["min_size"], options["max_size"]


@pytest.mark.parametrize(
    ("kind", "concurrency", "given", "expected"),
    [
        ("gevent", 500, {}, (4, 20)),
        ("gevent", 3, {}, (3, 3)),
        ("threads", 8, {}, (4, 8)),
        ("prefork", 16, {}, (1, 2)),
        ("solo", 1, {}, (1, 2)),
        ("gevent", 500, {"max_size": 3}, (3, 3)),
        ("gevent", 500, {"max_size": 50}, (4, 50)),
        ("gevent", 500, {"min_size": 0}, (0, 20)),
        ("gevent", 10, {"min_size": 30}, (30, 30)),
        ("prefork", 16, {"max_size": 1}, (1, 1)),
        ("prefork", 16, {"min_size": 0, "max_size": 5}, (0, 5)),
    ],
)
def test_what_is_not_given_follows_from_the_concurrency(kind, concurrency, given, expected):
    assert sizes(kind, concurrency, **given) == expected


@pytest.mark.parametrize("given", [{"max_size": "20"}, {"min_size": -1}, {"max_size": 2.5}])
def test_a_bad_size_is_named(given):
    (name,) = given
    with pytest.raises(OptionError, match=name):
        sizes("gevent", 10, **given)
