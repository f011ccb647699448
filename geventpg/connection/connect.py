"""Opening a connection: every wait on the hub, all of it under one deadline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import capabilities, errors, generators, pq
from psycopg.abc import AdaptContext, ConnDict
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo
from psycopg.rows import Row, RowFactory

from geventpg import hub
from geventpg.conninfo.checks import check_conninfo, check_parameters
from geventpg.conninfo.discretion import discreet, hide_secrets

from .base import BindableConnection
from .pooler import explain_refusal
from .psycopg_internals import FINDS_POOLER_IN_TIME, connection_params, set_autocommit
from .resolve import resolve_hosts

if TYPE_CHECKING:
    from typing_extensions import Self

KEEPALIVE_DEFAULTS: dict[str, int] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Sent to libpq unless the connection string says otherwise: a peer that vanished is noticed
after a minute of silence, or 30 s (the last is in milliseconds) after unanswered data,
instead of the kernel's two hours. A `service` file is left alone."""


class _Patience(hub.GreenletLocal):  # type: ignore[misc]
    """The time (s) for a connect() of this greenlet, if the user gives none."""

    seconds: float | None = None


_patience = _Patience()


class ConnectingOnHub(BindableConnection[Row]):
    """The part of `Connection` that opens one."""

    __module__ = "geventpg"

    def find_pooler(self, deadline: float) -> None:
        """Find out whether a pooler is in between, until *deadline*; close if that fails."""
        raise NotImplementedError

    @classmethod
    @discreet
    def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: RowFactory[Row] | None = None,
        cursor_factory: type[psycopg.Cursor[Row]] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Connect to the server and return a new connection; arguments as in psycopg.

        Block this greenlet only, for ``connect_timeout`` seconds at most (2 at least, 130 by
        default, as in psycopg). That one deadline covers resolving names and all hosts and
        addresses: they are tried in turn, each with an equal share of the time left. Raise
        ``psycopg.OperationalError``, of which ``ConnectionTimeout`` is a subclass, or
        `OptionError` for a *conninfo* that libpq does not understand. A kill or time-out closes
        the half-open socket. No exception has a secret in its text or in our frames.
        """
        check_conninfo(conninfo)
        # Here and not where pools are configured: callables return such values too.
        check_parameters(kwargs)
        params = connection_params(cls, conninfo, kwargs)
        if "service" not in params and "PGSERVICE" not in os.environ:
            params = {**KEEPALIVE_DEFAULTS, **params}
        deadline = monotonic() + _time_to_connect(params)
        conn = cls(_open(conninfo_attempts(resolve_hosts(params, deadline)), deadline))
        _warn_of_gssapi(conn.pgconn, params)
        set_autocommit(conn, autocommit)
        if row_factory:
            conn.row_factory = row_factory
        if cursor_factory:
            conn.cursor_factory = cursor_factory
        if context:
            conn.use_adapters(context.adapters)
        conn.prepare_threshold = prepare_threshold
        if not FINDS_POOLER_IN_TIME and prepare_threshold is not None:
            conn.find_pooler(deadline)
        return conn


def _open(attempts: list[ConnDict], deadline: float) -> pq.abc.PGconn:
    """Return the first connection that can be opened; raise as psycopg does if none can."""
    failures: list[tuple[psycopg.Error, str]] = []
    for number, attempt in enumerate(attempts):
        now = monotonic()
        share = (deadline - now) / (len(attempts) - number)
        try:
            return _open_one(make_conninfo("", **attempt), now + share)
        except psycopg.Error as error:
            place = (attempt.get("host"), attempt.get("port"), attempt.get("hostaddr"))
            failures.append((error, "host: {!r}, port: {!r}, hostaddr: {!r}".format(*place)))
    last = failures[-1][0]
    if len(failures) == 1:
        raise last.with_traceback(None)
    lines = [
        str(last),
        "Multiple connection attempts failed. All failures were:",
        *(f"- {place}: {error}" for error, place in failures),
    ]
    raise type(last)("\n".join(lines), pgconn=last.pgconn)


def _open_one(conninfo: str, deadline: float) -> pq.abc.PGconn:
    """Open a connection to one address on the hub."""
    try:
        pgconn: pq.abc.PGconn = hub.drive_connecting(generators.connect(conninfo), deadline)
    except hub.DeadlineReached:
        raise errors.ConnectionTimeout("connection timeout expired") from None
    except errors.Error as error:
        hide_secrets(error)
        explained = explain_refusal(error)
        if explained is not error:
            raise explained from error
        raise
    return pgconn


def _warn_of_gssapi(pgconn: pq.abc.PGconn, params: ConnDict) -> None:
    """Warn, as psycopg does, of an encryption by GSSAPI that was not asked for."""
    if not (capabilities.has_used_gssapi() and pgconn.used_gssapi):
        return
    if not (params.get("gssencmode") or os.environ.get("PGGSSENCMODE")):
        warnings.warn(
            "the connection uses GSSAPI because libpq prefers that by default; to rely on it set"
            " 'gssencmode' in the connection string or PGGSSENCMODE to 'prefer' or 'require'",
            RuntimeWarning,
            stacklevel=4,
        )


@contextmanager
def connecting_within(seconds: float) -> Iterator[None]:
    """Make `Connection.connect` in this greenlet take *seconds* if the user says nothing."""
    outer, _patience.seconds = _patience.seconds, seconds
    try:
        yield
    finally:
        _patience.seconds = outer


def _time_to_connect(params: ConnDict) -> float:
    limit = timeout_from_conninfo(params)
    said = "connect_timeout" in params or "service" in params
    if said or _patience.seconds is None or not _ENVIRONMENT.isdisjoint(os.environ):
        return limit
    return _patience.seconds


_ENVIRONMENT = frozenset({"PGCONNECT_TIMEOUT", "PGSERVICE"})
