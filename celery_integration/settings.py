"""The worker's settings: where they come from, and the sizes that follow from the concurrency."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import geventpg
from geventpg.conninfo.discretion import discreet
from geventpg.errors import NotConfigured, OptionError
from geventpg.pool.options import OPTIONS, from_environment
from geventpg.registry import pools as registry

MAX_SIZE = 20
"""Default ``max_size`` of a worker's pool, however many greenlets it has.

A PostgreSQL server is fastest with a few active connections per core; more connections only wait
for each other inside the server (HikariCP's "About Pool Sizing" measures it). Twenty connections
serve 500 greenlets of short statements, and leave room for other workers within the usual
``max_connections`` of 100.
"""

MIN_SIZE = 4

_SIZES = ("min_size", "max_size")


@dataclass(frozen=True)
class Settings:
    """The settings of a worker."""

    kind: str
    """gevent, prefork, threads or solo."""
    concurrency: int
    conninfo: Any
    """``None`` if the pool is the one of Django's default database."""
    options: dict[str, Any]
    metrics_port: int | None = None
    """The port at which each process serves metrics, ``None``: none does; see `exposition`."""
    metrics_host: str = "127.0.0.1"

    @property
    def processes(self) -> int:
        """The number of processes of this worker that have a pool."""
        return self.concurrency if self.kind == "prefork" else 1

    def __repr__(self) -> str:
        return f"<Settings {self.kind} concurrency={self.concurrency}>"


@discreet
def read_settings(app: Any, kind: str, concurrency: int) -> Settings:
    """Read ``geventpg`` from the app's config, or the environment; fill in the defaults.

    Raise `OptionError` or `NotConfigured` with a line that names the setting.
    """
    given = _from_config(app)
    options = from_environment(os.environ) if given is None else dict(given)
    metrics = _take_metrics(options, os.environ)
    conninfo = options.pop("conninfo", None) or os.environ.get("GEVENTPG_CONNINFO")
    framework = _framework()
    if conninfo and framework is not None:
        raise OptionError(
            "Django's default database and conninfo (or GEVENTPG_CONNINFO) both say what the pool"
            " 'default' connects to: leave conninfo out"
        )
    if not conninfo and framework is None:
        raise NotConfigured(
            "no conninfo: set geventpg = {'conninfo': 'host=... dbname=...'} in the Celery"
            " config (CELERY_GEVENTPG with Django's namespace) or GEVENTPG_CONNINFO"
        )
    if framework is not None:
        sizes = {name: size for name, size in framework.options().items() if name in _SIZES}
        options = {**sizes, **options}
    for size in _SIZES:
        if size in options:
            OPTIONS[size].check(size, options[size])
    _fill_in_sizes(options, kind, concurrency)
    return Settings(kind, concurrency, conninfo, options, **metrics)


def _take_metrics(options: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Take the settings of metrics out of *options*, or out of the environment."""
    taken: dict[str, Any] = {}
    for name in ("metrics_port", "metrics_host"):
        value = options.pop(name, environ.get(f"GEVENTPG_{name.upper()}"))
        if value is not None:
            taken[name] = value
    port = taken.get("metrics_port")
    if isinstance(port, str) and port.isascii() and port.isdecimal():
        port = taken["metrics_port"] = int(port)
    if port is not None and (type(port) is not int or not 0 <= port < 65536):
        raise OptionError("metrics_port must be a port number, or 0 for any that is free")
    if not isinstance(taken.get("metrics_host", ""), str):
        raise OptionError("metrics_host must be a string")
    return taken


def configure(settings: Settings) -> None:
    """Configure the worker's pool. Does not connect.

    Raise `OptionError` naming a bad option.
    """
    if settings.conninfo is not None:
        geventpg.configure(settings.conninfo, **settings.options)
    else:
        framework = _framework()
        assert framework is not None
        framework.override(settings.options)


def _framework() -> registry.Framework | None:
    """Return the framework whose settings say what the default pool connects to, if one does.

    It is Django if the engine of its default database is geventpg's.
    """
    conf, db = sys.modules.get("django.conf"), sys.modules.get("django.db")
    if conf is not None and db is not None and conf.settings.configured:
        db.connections["default"]  # now Django loads the engine, which tells the registry
    return registry.framework_of("default")


def _from_config(app: Any) -> Mapping[str, Any] | None:
    for key in ("geventpg", "GEVENTPG", "CELERY_GEVENTPG"):
        value = app.conf.get(key)
        if value is None:
            continue
        if isinstance(value, str) or callable(value):
            return {"conninfo": value}
        if isinstance(value, Mapping):
            return value
        raise OptionError(
            f"the setting {key} must be a dict of pool options with 'conninfo',"
            f" not {type(value).__name__}"
        )
    return None


def _fill_in_sizes(options: dict[str, Any], kind: str, concurrency: int) -> None:
    # A prefork child or a solo worker runs one task at a time. The second connection is for
    # threads that the task may start.
    default = min(concurrency, MAX_SIZE) if kind in ("gevent", "threads") else 2
    least = 1 if kind in ("prefork", "solo") else MIN_SIZE
    if options.get("max_size") is None:
        options["max_size"] = max(default, options.get("min_size") or 0)
    if options.get("min_size") is None:
        options["min_size"] = min(least, options["max_size"])
