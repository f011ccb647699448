"""Opening a connection: every wait on the hub, all of it under one deadline."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from psycopg import errors, generators
from psycopg.abc import ConnDict, ConnParam, PQGenConn
from psycopg.conninfo import timeout_from_conninfo
from psycopg.rows import Row

from geventpg import hub
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet, hide_secrets

from .base import BindableConnection
from .pooler import explain_refusal
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


class _Budget(hub.GreenletLocal):  # type: ignore[misc]
    """The deadline of the connect() running in this greenlet and the addresses left to try.

    *patience* (s) is the time for it if the user gives none.
    """

    deadline: float | None = None
    attempts: int = 1
    patience: float | None = None


_budget = _Budget()


class ConnectingOnHub(BindableConnection[Row]):
    """The part of `Connection` that opens one."""

    __module__ = "geventpg"

    @classmethod
    @discreet
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect to the server and return a new connection; arguments as in psycopg.

        Block this greenlet only, for ``connect_timeout`` seconds at most (2 at least, 130 by
        default, as in psycopg). That one deadline covers resolving names and all hosts and
        addresses: they are tried in turn, each with an equal share of the time left. Raise
        ``psycopg.OperationalError``, of which ``ConnectionTimeout`` is a subclass, or
        `OptionError` for a *conninfo* that libpq does not understand. A kill or time-out closes
        the half-open socket. No exception has a secret in its text or in our frames.
        """
        check_conninfo(conninfo)
        arguments = {name: kwargs.pop(name) for name in _CONNECT_ARGUMENTS if name in kwargs}
        params = cls._get_connection_params(conninfo, **kwargs)
        deadline = monotonic() + _time_to_connect(params)
        params, attempts = resolve_hosts(params, deadline)
        if params.get("target_session_attrs") == "prefer-standby":
            attempts *= 2  # psycopg goes through the list a second time
        outer = _budget.deadline, _budget.attempts
        _budget.deadline, _budget.attempts = deadline, attempts
        try:
            connect: Any = super().connect
            return cast("Self", connect("", **arguments, **params))
        finally:
            _budget.deadline, _budget.attempts = outer

    @classmethod
    def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> dict[str, ConnParam]:
        params = super()._get_connection_params(conninfo, **kwargs)
        if "service" in params or "PGSERVICE" in os.environ:
            return params
        return {**KEEPALIVE_DEFAULTS, **params}

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        # psycopg runs this generator with its own wait function, which may block; so it does
        # its waiting here, on the hub, and yields nothing.
        now = monotonic()
        deadline = _budget.deadline if _budget.deadline is not None else now + 130.0
        share = (deadline - now) / max(_budget.attempts, 1)
        _budget.attempts -= 1
        try:
            pgconn = hub.drive_connecting(generators.connect(conninfo), now + share)
        except hub.DeadlineReached:
            raise errors.ConnectionTimeout("connection timeout expired") from None
        except errors.Error as error:
            hide_secrets(error)
            explained = explain_refusal(error)
            if explained is not error:
                raise explained from error
            raise
        yield from ()
        return cls(pgconn)


_CONNECT_ARGUMENTS = (
    "autocommit",
    "prepare_threshold",
    "context",
    "row_factory",
    "cursor_factory",
)


@contextmanager
def connecting_within(seconds: float) -> Iterator[None]:
    """Make `Connection.connect` in this greenlet take *seconds* if the user says nothing."""
    outer, _budget.patience = _budget.patience, seconds
    try:
        yield
    finally:
        _budget.patience = outer


def _time_to_connect(params: ConnDict) -> float:
    limit = timeout_from_conninfo(params)
    said = "connect_timeout" in params or "service" in params
    if said or _budget.patience is None or not _ENVIRONMENT.isdisjoint(os.environ):
        return limit
    return _budget.patience


_ENVIRONMENT = frozenset({"PGCONNECT_TIMEOUT", "PGSERVICE"})
