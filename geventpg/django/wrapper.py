"""The wrapper of a database alias whose connections come from a geventpg pool.

Django keeps one wrapper for each greenlet (or thread) and alias. The wrapper checks a connection
out of the alias's pool when it connects, and gives it back when it closes, which Django does at the
end of a request or a Celery task. The registry knows the connection as the greenlet's own: so
``get_conn(alias)`` returns the same one, and it goes back when the greenlet ends in any way.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, transaction
from django.db import Error as DjangoError
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.utils.asyncio import async_unsafe
from greenlet import getcurrent
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Literal

import geventpg
from geventpg import hub
from geventpg.connection.base import BindableConnection
from geventpg.connection.pooler import is_pooled
from geventpg.connection.psycopg_internals import set_autocommit
from geventpg.conninfo.discretion import discreet
from geventpg.registry import pools as registry
from geventpg.registry.held import HeldConnection, cannot_commit

from . import pools
from .asynchrony import tell_greenlets_apart
from .creation import DatabaseCreation


class PooledWrapper:
    """The first base class, before one of Django's PostgreSQL wrappers."""

    creation_class = DatabaseCreation

    # Attributes of Django's wrapper.
    alias: str
    settings_dict: dict[str, Any]
    connection: Any
    in_atomic_block: bool
    closed_in_transaction: bool
    needs_rollback: bool
    allow_thread_sharing: bool
    wrap_database_errors: Any
    isolation_level: IsolationLevel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: HeldConnection | None = None
        self._greenlet = weakref.ref(getcurrent())
        self._patience: float | None = None
        if self.is_pooled:
            pools.introduce(self.alias, self.settings_dict)

    @property
    def is_pooled(self) -> bool:
        """Whether the settings give this wrapper a pool."""
        return self.alias != NO_DB_ALIAS and pools.is_wanted(self.settings_dict)

    # -- the pool -------------------------------------------------------------------------

    @property
    def pool(self) -> Any:
        """The alias's pool, made at the first use; ``None`` without one. Does not block."""
        if not self.is_pooled:
            return None
        if pools.current_session(self.alias) is None:
            pools.configure(self)
        return registry.get_pool(self.alias)

    def close_pool(self) -> None:
        """Close the alias's pool in this process; the next connection makes another pool.

        Django's test runner does that before it drops a database. Celery does it after every task
        in a prefork worker, because Django's own pools do not survive a fork; ours does, so it is
        kept then.
        """
        if sys._getframe(1).f_globals.get("__name__") != "celery.fixups.django":
            registry.remove(self.alias)

    def ensure_timezone(self) -> bool:
        """Do as Django does: connect anew after a change of ``TIME_ZONE`` or ``USE_TZ``."""
        registry.remove(self.alias)
        if self.connection is None:
            return False
        return bool(self._configure_timezone(self.connection))  # type: ignore[attr-defined]

    # -- connecting -----------------------------------------------------------------------

    @async_unsafe  # type: ignore[untyped-decorator]
    @discreet
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Check a connection out, or open one if this wrapper has no pool.

        Block as `geventpg.get_conn` does, and raise what it raises.
        """
        level = self._configured_isolation_level()
        self.isolation_level = level or IsolationLevel.READ_COMMITTED
        if self.is_pooled and self._fits_pool(conn_params):
            shared = self._is_current()
            self._held = registry.check_out(self.alias, self, shared=shared, timeout=self._patience)
            if self.allow_thread_sharing:
                self._held.outlive_greenlet()
            connection: Any = self._held.conn
        else:
            cls = geventpg.Connection if hub.in_use() else BindableConnection
            connection = cls.connect(**conn_params)
        try:
            if connection.isolation_level != level:
                connection.isolation_level = level
        except BaseException:
            self._give_up(connection)
            raise
        return connection

    def _give_up(self, connection: Any) -> None:
        held, self._held = self._held, None
        if held is None:
            connection.close()
        else:
            held.give_back()

    def _configured_isolation_level(self) -> IsolationLevel | None:
        value = self.settings_dict["OPTIONS"].get("isolation_level")
        if value is None:
            return None
        try:
            return IsolationLevel(value)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {value} specified."
                " Use one of the psycopg.IsolationLevel values."
            ) from None

    def _fits_pool(self, conn_params: dict[str, Any]) -> bool:
        """Tell whether the alias's pool has connections for *conn_params*.

        If the settings of the alias have changed, configure its pool anew: Django changes them when
        a test database takes the place of the real one.
        """
        session = pools.session_of(self, conn_params)
        current = pools.current_session(self.alias)
        if current == session:
            return True
        if current is not None:
            if not self._is_current():
                return False  # a copy with settings of its own opens a connection of its own
            registry.remove(self.alias)
        pools.configure(self)
        return True

    def _is_current(self) -> bool:
        """Tell whether this wrapper is ``connections[alias]`` in this greenlet."""
        return any(wrapper is self for wrapper in connections.all(initialized_only=True))

    def check_out_within(self, timeout: float | None) -> None:
        """Connect for `get_conn` if there is no connection yet; raise psycopg's errors."""
        if self.connection is not None or not self.is_pooled:
            return
        if self.in_atomic_block and self.closed_in_transaction:
            raise psycopg.InterfaceError(
                f"the connection of {self.alias!r} was closed inside an atomic block that goes on"
            )
        self._patience = timeout
        try:
            self.connect()  # type: ignore[attr-defined]
        finally:
            self._patience = None
        if self._held is not None:
            self._held.wanted = False

    def set_up_session(self, connection: Any) -> Any:
        """Set the time zone and the role of a new connection; tell whether that needs a COMMIT."""
        return self._configure_connection(connection)  # type: ignore[attr-defined]

    def _configure_role(self, connection: Any) -> bool:
        # Django asks its wrapper for another connection to quote the name; psycopg needs none.
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if not role:
            return False
        with connection.cursor() as cursor:
            cursor.execute(SQL("SET ROLE {}").format(Literal(role)))
        return True

    def init_connection_state(self) -> None:
        """Do as Django does: set a session up here only if the connection is not from a pool."""
        super().init_connection_state()  # type: ignore[misc]
        if self._held is None and self.is_pooled:
            commit = self.set_up_session(self.connection)
            if commit and not self.get_autocommit():  # type: ignore[attr-defined]
                self.connection.commit()

    # -- giving back ----------------------------------------------------------------------

    def _close(self) -> None:
        held, self._held = self._held, None
        if held is None:
            if self.connection is not None:
                with self.wrap_database_errors:
                    self.connection.close()
            return
        _leave_as_found(self.connection)
        self.connection = None
        if not held.leave_to_blocks():
            with self.wrap_database_errors:
                held.give_back()

    # -- the greenlet's connection: `geventpg.connection.base.Owner` ------------------------------

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction goes on, or autocommit is off."""
        return self.connection is not None and not self.connection.autocommit

    @contextmanager
    def join(self) -> Iterator[None]:
        """Run a block as ``transaction.atomic``; raise at its end if it cannot be committed."""
        with transaction.atomic(using=self.alias):
            yield
            if self.closed_in_transaction or self.connection is None:
                raise psycopg.InterfaceError(
                    f"the connection of {self.alias!r} was closed inside a transaction"
                )
            if self.connection.pgconn.transaction_status == TransactionStatus.INERROR:
                raise cannot_commit("with atomic():")
            if self.needs_rollback:
                raise transaction.TransactionManagementError(
                    "the transaction was marked for rollback, so it cannot be committed"
                )

    def database_error(self, error: Exception) -> Exception:
        """Return psycopg's error that Django wrapped in *error*, or *error* itself."""
        cause = error.__cause__ if isinstance(error, DjangoError) else None
        return cause if isinstance(cause, psycopg.Error) else error

    def released(self) -> None:
        """Forget the connection, because it goes back to its pool or the process was forked."""
        if self._held is None:
            return
        self._held = None
        _leave_as_found(self.connection)
        self.connection = None
        if self.in_atomic_block:
            self.closed_in_transaction = True
            self.needs_rollback = True

    # -- use ------------------------------------------------------------------------------

    def close_if_health_check_failed(self) -> None:
        """Do as Django does, unless the connection is from the pool, which has checked it."""
        if self._held is None:
            super().close_if_health_check_failed()  # type: ignore[misc]

    @async_unsafe  # type: ignore[untyped-decorator]
    def chunked_cursor(self) -> Any:
        """Return a server-side cursor, or a plain one where a pooler would lose it.

        Behind PgBouncer in transaction mode, statements outside a transaction go to different
        server connections, and the cursor is on only one of them. So there
        ``DISABLE_SERVER_SIDE_CURSORS`` is the default.
        """
        self.close_if_health_check_failed()
        self.ensure_connection()  # type: ignore[attr-defined]
        if (
            "DISABLE_SERVER_SIDE_CURSORS" not in self.settings_dict
            and self.connection.autocommit
            and self._is_behind_pooler()
        ):
            return self.cursor()  # type: ignore[attr-defined]
        return super().chunked_cursor()  # type: ignore[misc]

    def _is_behind_pooler(self) -> bool:
        with self.wrap_database_errors:
            return is_pooled(self.connection)

    def inc_thread_sharing(self) -> None:
        """Do as Django does, and keep the connection when the greenlet ends: others use it too."""
        super().inc_thread_sharing()  # type: ignore[misc]
        if self._held is not None:
            self._held.outlive_greenlet()

    def validate_thread_sharing(self) -> None:
        """Do as Django does, and tell greenlets apart even where gevent has patched nothing."""
        if self.allow_thread_sharing:
            return
        if self._greenlet() is not getcurrent():
            raise DatabaseError(
                "DatabaseWrapper objects created in a greenlet or thread can only be used in that"
                f" same one. The object with alias {self.alias!r} was created in another."
                + (_LATE if hub.in_use() else "")
            )
        try:
            super().validate_thread_sharing()  # type: ignore[misc]
        except DatabaseError as error:
            # The greenlet is the same, so gevent was patched in between and a thread is another.
            raise DatabaseError(f"{error}{_LATE}") from None


def pooled_wrappers() -> list[PooledWrapper]:
    """Return this greenlet's wrappers of the aliases that have a pool, and check their options.

    Makes the wrappers; does not connect.
    """
    found = (connections[alias] for alias in connections)
    return [wrapper for wrapper in found if isinstance(wrapper, PooledWrapper) if wrapper.is_pooled]


_LATE = (
    " If it came from django.db.connections, gevent.monkey.patch_all() was called too late, after"
    " Django was imported, or not at all."
)


def _leave_as_found(connection: Any) -> None:
    # As the pool opened it, for code that uses the pool without Django. psycopg's setter would
    # refuse inside a transaction, which the pool is about to roll back.
    set_autocommit(connection, True)


# This must come before Django makes the first wrapper of this engine.
tell_greenlets_apart()
