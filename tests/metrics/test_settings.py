"""`metrics_port` and `metrics_host`: read from the worker's settings or the environment."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("celery")

from celery_integration import exposition
from celery_integration.settings import read_settings
from geventpg import OptionError


def read(**settings):
    conf = {"geventpg": {"conninfo": "host=db", **settings}}
    return read_settings(SimpleNamespace(conf=conf), "gevent", 10)


def test_without_a_port_nothing_is_served():
    assert read().metrics_port is None
    assert read(metrics_host="0.0.0.0").metrics_port is None


def test_they_are_taken_from_the_settings_and_are_no_pool_options():
    settings = read(metrics_port=9187, metrics_host="0.0.0.0", timings=True)
    assert (settings.metrics_port, settings.metrics_host) == (9187, "0.0.0.0")
    assert settings.options == {"timings": True, "max_size": 10, "min_size": 4}


def test_the_environment_gives_what_the_settings_do_not(monkeypatch):
    monkeypatch.setenv("GEVENTPG_METRICS_PORT", "9187")
    monkeypatch.setenv("GEVENTPG_METRICS_HOST", "::1")
    assert (read().metrics_port, read().metrics_host) == (9187, "::1")
    assert read(metrics_port=9188).metrics_port == 9188


@pytest.mark.parametrize("port", ["x", -1, 65536, True, 1.5, "9187 ", ""])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(OptionError, match="metrics_port must be a port number"):
        read(metrics_port=port)


def test_what_is_no_host_is_refused():
    with pytest.raises(OptionError, match="metrics_host must be a string"):
        read(metrics_port=1, metrics_host=3)


def test_a_worker_whose_port_is_taken_says_so_and_goes_on():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ((level, line),) = exposition.start(read(metrics_port=port))
    assert level == logging.ERROR
    assert line.startswith(f"geventpg: no metrics are served at port {port}: ")
    exposition.stop()


def test_prefork_children_take_the_ports_that_follow():
    conf = {"geventpg": {"conninfo": "host=db", "metrics_port": 0}}
    settings = read_settings(SimpleNamespace(conf=conf), "prefork", 2)
    exposition.start(settings)
    try:
        (server,) = exposition._servers
        following = replace(settings, metrics_port=server.port)
        ((level, line),) = exposition.start(following)
        # The port of the first is taken, so it is the next one, if that is free.
        assert level in (logging.INFO, logging.ERROR)
        assert (f"127.0.0.1:{server.port + 1}/metrics" in line) == (level == logging.INFO)
    finally:
        exposition.stop()
    assert exposition._servers == []
