"""The pool's life in a worker: configured and opened at start, closed at the end.

gevent: one process, opened when the worker starts. prefork: nothing connects in the parent,
each child opens its own. solo and threads: like gevent, on stock psycopg_pool.
"""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from celery import concurrency, current_app

import geventpg
from geventpg.registry import pools as registry
from geventpg.registry.held import current_holdings

from . import exposition, report
from .children import CHILDREN
from .evictions import EvictionEvents
from .settings import Settings, configure, read_settings

CLOSE_TIMEOUT = 5.0
"""Seconds for closing the pools when the worker ends."""

_settings: list[Settings] = []
_start_up_lines: list[report.Line] = []


def init(worker: Any) -> None:
    """``worker_init``: check the settings and open the pool, except before a fork.

    A bad setting, or a server that refuses the credentials, ends the worker here with one line. A
    server that does not answer does not end it, because it may be back before the first task.
    """
    kind = _pool_kind(worker)
    if kind == "eventlet":
        raise SystemExit(
            "geventpg: the eventlet pool is not supported; start the worker with -P gevent"
            " (or prefork, threads, solo)"
        )
    settings = _configure(worker.app, kind, _max_concurrency(worker))
    if kind == "prefork":
        CHILDREN.open()
        return  # the children would share a connection that is opened here
    if kind == "gevent":
        registry.run_on_gevent()
        registry.when_opened(EvictionEvents(worker).watch)
    registry.get_pool()
    # The worker's log is not set up yet: `ready` writes it.
    _start_up_lines.extend(_look_around(settings))
    _start_up_lines.extend(exposition.start(settings))


def ready(**_kwargs: Any) -> None:
    """``worker_ready``: log the size of the pool and whether the server has room for it."""
    report.log(_start_up_lines)
    _start_up_lines.clear()


def process_started(**_kwargs: Any) -> None:
    """``worker_process_init``: open the pool of a prefork child; solo has one already."""
    if _settings:
        settings = _settings[-1]
    else:
        # It was not forked but started afresh ("spawn"), and has inherited nothing.
        settings = _configure(current_app, "prefork", current_app.conf.worker_concurrency or 1)
    if settings.kind != "prefork":
        return
    registry.get_pool()
    CHILDREN.answer()
    lines = exposition.start(settings)
    if report.is_first_process():
        lines = [*_look_around(settings), *lines]
    report.log(lines)


def process_ends(**_kwargs: Any) -> None:
    """``worker_process_shutdown``: close the pool of a prefork child."""
    exposition.stop()
    registry.close_all(timeout=1.0)


def shut_down(**_kwargs: Any) -> None:
    """``worker_shutdown``: after the last task."""
    exposition.stop()
    registry.close_all(timeout=CLOSE_TIMEOUT)


def cut_off(**_kwargs: Any) -> None:
    """Cold shutdown: cancel the tasks' statements and close everything, without waiting."""
    registry.abort_all(timeout=CLOSE_TIMEOUT)


def is_prefork() -> bool:
    """Tell whether the worker's pools are in its children."""
    return bool(_settings) and _settings[-1].kind == "prefork"


def resize_later(pool: str, min_size: int, max_size: int) -> None:
    """Give these sizes to the pool *pool* of each child that is forked from now on."""
    sizes = {"min_size": min_size, "max_size": max_size}
    if _settings and pool == "default":
        _settings[-1].options.update(sizes)
        configure(_settings[-1])
    else:
        registry.resize_later(pool, min_size, max_size)


def release_leftovers(task: Any) -> None:
    """``task_postrun``: give back the connections that code around a task's body checked out."""
    if not task.request.is_eager:
        current_holdings().give_back_all()


def _look_around(settings: Settings) -> list[report.Line]:
    try:
        return report.start_up(settings)
    except geventpg.ConnectRejected as error:
        if settings.kind == "prefork":
            # Celery would replace a child that ends by another one, again and again.
            return [(logging.ERROR, f"geventpg: tasks that need the database will fail: {error}")]
        registry.close_all(timeout=0)
        raise SystemExit(f"geventpg: {error}") from None
    except psycopg.OperationalError as error:
        return [(logging.WARNING, f"geventpg: no connection yet, going on without: {error}")]


def _configure(app: Any, kind: str, processes_or_greenlets: int) -> Settings:
    try:
        settings = read_settings(app, kind, processes_or_greenlets)
        exposition.check(settings)
        configure(settings)
    except (geventpg.OptionError, geventpg.NotConfigured) as error:
        raise SystemExit(f"geventpg: {error}") from None
    _settings[:] = [settings]
    return settings


def _pool_kind(worker: Any) -> str:
    implementation = concurrency.get_implementation(worker.pool_cls)
    # celery.concurrency.gevent:TaskPool, or a subclass of one of them elsewhere.
    for cls in implementation.__mro__:
        package, _, module = cls.__module__.rpartition(".")
        if package == "celery.concurrency" and module != "base":
            return "threads" if module == "thread" else str(module)
    return "threads"


def _max_concurrency(worker: Any) -> int:
    autoscale = getattr(worker, "max_concurrency", None) or getattr(worker, "autoscale", None)
    if isinstance(autoscale, (list, tuple)):
        autoscale = max(autoscale)
    limits = [value for value in (worker.concurrency, autoscale) if isinstance(value, int)]
    return max(limits, default=1)
