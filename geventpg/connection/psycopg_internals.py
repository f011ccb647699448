"""The only file that names anything private of psycopg or psycopg_pool.

Some of what geventpg does is not possible with psycopg's public names: sending BEGIN together with
a statement, executing a statement again whose prepared form went stale, keeping what was found out
about a statement for its next execution. The private names that this needs are here, each behind
a public name of ours, and nowhere else.

At import each name is compared with what this file was written for: it is there, it takes the
same parameters, and a few exercises give what they should. `FEATURES` says what needs which names.
If one differs, the features that need it are off and only they: psycopg's own way is taken in
their place, and one warning of the logger ``geventpg`` says what differed and what is slower or
missing. Never off, because they stand on public names: waiting on the hub, cancelling what was
interrupted, and the pool's invariants.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import logging
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from weakref import ref

import psycopg
import psycopg_pool.base
from psycopg import errors, generators, pq, waiting
from psycopg.abc import ConnDict, PQGen, Query
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import Row
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("geventpg")

BAD = pq.ConnStatus.BAD
TEXT = pq.Format.TEXT


# -- what is needed, and what is so without it -------------------------------------------------


class Feature(NamedTuple):
    """Something that geventpg does with private names of psycopg."""

    needs: tuple[str, ...]
    """``Owner.name``, with the parameters if it is a function: ``Cursor._reset(reset_query=)``."""
    otherwise: str
    """What is so without it, for the warning."""
    above: tuple[str, ...] = ()
    """The features without which this one is off, too."""


FEATURES = {
    "record of prepared statements": Feature(
        (
            *("Connection._prepared", "PrepareManager._names", "PrepareManager._counts"),
            *("PrepareManager._to_flush", "PrepareManager.key(query)", "Prepare.NO"),
            *("Prepare.YES", "Prepare.SHOULD", "PrepareManager.prepare_threshold"),
            *("PrepareManager.get(query, prepare=)", "PrepareManager.clear()"),
            "PrepareManager.maybe_add_to_cache(query, prep, name)",
            "PrepareManager.validate(key, prep, name, results)",
            "PrepareManager.maintain_gen(conn)",
        ),
        "a prepared statement that was lost or went stale is an error and not executed again",
    ),
    "cursor": Feature(
        (
            *("Cursor._conn", "Cursor._pgconn", "Cursor._tx", "Cursor._last_query"),
            *("Cursor._results", "Cursor._pos", "Cursor._rowcount", "Cursor._statusmessage"),
            *("Cursor._make_row", "Cursor._row_factory", "Cursor._execmany_returning"),
            *("Cursor._query", "Cursor._closed", "Cursor._reset(reset_query=)"),
            "Cursor._convert_query(query, params=)",
            "Cursor._maybe_prepare_gen(pgq, *, prepare=, binary=)",
            *("Cursor._check_results(results)", "Cursor._set_results(results)"),
            *("Cursor._make_row_maker()", "Cursor._raise_for_result(result)"),
            "Connection._start_query()",
        ),
        "BEGIN is a round trip of its own, and each statement takes psycopg's longer way",
        ("record of prepared statements",),
    ),
    "quick start of cursors": Feature(
        (
            *("Cursor._adapters", "Cursor._iresult", "AdaptersMap._register_loader_callback"),
            "Cursor._loaders_changed(wself, oid, loader)",
        ),
        "each cursor copies the adapters of its connection, and nothing is kept of a statement for"
        " its next execution",
        ("cursor",),
    ),
    "quick conversion of statements": Feature(
        (
            *("_queries._query2pg(query, encoding)", "Cursor._query_cls"),
            *("PostgresQuery._want_formats", "PostgresQuery._parts"),
        ),
        "the text of a statement is read each time, and nothing is kept of it for its next"
        " execution",
        ("cursor",),
    ),
    "single statements": Feature(
        (
            "_queries._query2pg(query, encoding)",
            "PostgresQuery.validate_and_reorder_params(parts, vars, order)",
            *("Connection._notice_handlers", "Connection._notify_handlers"),
        ),
        "each single statement of a pool has a connection of its own while it is executed",
        ("cursor", "quick start of cursors"),
    ),
    "batches": Feature(
        ("Connection._rollback_gen()",),
        "the statements of a batch are sent one after the other",
        ("cursor",),
    ),
    "short COMMIT": Feature(
        ("Connection._num_transactions", "Connection._tpc"),
        "COMMIT takes psycopg's longer way, and less is known of lost transactions",
    ),
    "pooler found in time": Feature(
        (
            *("Connection._start_query()", "Connection._pipeline_nolock()"),
            "PrepareManager._counts",
        ),
        "each new connection asks at once whether a pooler is in between: one round trip more",
        ("record of prepared statements",),
    ),
    "quick change of settings": Feature(
        (
            *("Connection._autocommit", "Connection._isolation_level", "Connection._read_only"),
            *("Connection._deferrable", "Connection._begin_statement"),
        ),
        "autocommit and its like are changed by psycopg's setters",
    ),
    "settings with BEGIN": Feature(
        ("Transaction._enter_gen()", "Transaction._push_savepoint()"),
        "the time-out of a transaction's statements is set by a round trip of its own",
    ),
    "bounded end of stream()": Feature(
        ("Connection._try_cancel(*, timeout=)",),
        "the end of a stream() that its user left has no bound of its own",
    ),
    "warnings of server-side cursors": Feature(
        ("ServerCursor._convert_query(query, params=)",),
        "a WITH HOLD cursor behind a pooler is not warned of",
    ),
    "measured statements": Feature(
        (
            "Cursor._execute_gen(query, params=, *, prepare=, binary=)",
            "Cursor._executemany_gen_no_pipeline(query, params_seq, returning)",
            "ServerCursor._declare_gen(query, params=, binary=)",
            "Cursor._stream_send_gen(query, params=, *, binary=, size)",
            "Cursor._start_copy_gen(statement, params=)",
        ),
        "COPY, stream() and statements of psycopg's own cursor classes are not measured",
    ),
    "statements of waiting greenlets": Feature(
        (
            "Cursor.execute(query, params=, *, prepare=, binary=)",
            "Cursor.executemany(query, params_seq, *, returning=)",
            "Cursor.stream(query, params=, *, binary=, size=)",
            "Cursor.copy(statement, params=, *, writer=)",
        ),
        "holders() may not tell what a greenlet executes",
    ),
    "places in psycopg_pool's pools": Feature(
        ("ConnectionPool._lock", "ConnectionPool._nconns", "ConnectionPool._pool"),
        "without gevent, a connection that is detached from its pool keeps its place there, and a"
        " forked child may end the sessions of its parent",
    ),
    "facts of connections": Feature(
        (
            *("Connection._autocommit", "Connection._pipeline", "PGconn._encoding"),
            *("Connection._get_tx_start_command()", "Connection._should_cancel()"),
            *("Transaction._outer_transaction", "errors._NO_TRACEBACK", "errors._WaitTimeout"),
        ),
        "they are found out by public names, which takes longer",
    ),
}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"psycopg.{name}")
    except ImportError:
        return None


_preparing = _module("_preparing")
_queries = _module("_queries")

MAX_CACHED_STATEMENT_LENGTH: int = getattr(_queries, "MAX_CACHED_STATEMENT_LENGTH", 4096)
"""Statements that are longer are hardly ever executed again, and nothing is kept of them."""


class _NoServer:
    """Stands for libpq's connection where none is needed."""

    status = BAD
    notice_handler = notify_handler = None


class _Text(NamedTuple):
    """What a record of prepared statements looks at in a statement."""

    query: bytes
    types: tuple[int, ...]


class _Seen(Exception):
    """Ends an exercise at the place that it was about."""


def _specimens() -> dict[str, Any]:
    """Return an object of each kind that `FEATURES` names, or its class.

    Much is seen on an object only, because psycopg sets it when it makes one.
    """
    found: dict[str, Any] = {
        "AdaptersMap": AdaptersMap,
        "PGconn": pq.PGconn,
        "ConnectionPool": ConnectionPool(open=False),
        "ServerCursor": psycopg.ServerCursor,
        "_queries": _queries,
        "errors": errors,
        "Prepare": getattr(_preparing, "Prepare", None),
    }
    makers: dict[str, Any] = {
        "Connection": lambda: psycopg.Connection(_NoServer()),  # type: ignore[arg-type]
        "Cursor": lambda: psycopg.Cursor(found["Connection"]),
        "Transaction": lambda: psycopg.Transaction(found["Connection"]),
        "PrepareManager": getattr(_preparing, "PrepareManager", None),
        "PostgresQuery": lambda: _queries.PostgresQuery(Transformer()),
    }
    for name, make in makers.items():
        try:
            found[name] = make()
        except Exception as error:
            logger.debug("psycopg's %s could not be made: %s", name, error)
            found[name] = None
    return found


# Slots that are filled later than when the object is made.
_FILLED_LATER = {"Cursor._tx", "Cursor._make_row", "PostgresQuery._parts"}


def _shape(function: Any, *, of_class: bool) -> str:
    """Return the parameters of a function as `FEATURES` writes them, without ``self``."""
    parts: list[str] = []
    kinds = inspect.Parameter
    parameters = list(inspect.signature(function).parameters.values())
    if of_class and parameters and parameters[0].name == "self":
        del parameters[0]
    for parameter in parameters:
        if parameter.kind is kinds.VAR_KEYWORD:
            parts.append("**")
            continue
        if parameter.kind is kinds.VAR_POSITIONAL:
            parts.append("*")
            continue
        if parameter.kind is kinds.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(parameter.name + ("" if parameter.default is kinds.empty else "="))
    return ", ".join(parts)


def _difference(need: str, specimens: dict[str, Any]) -> str | None:
    """Return what is not as *need* says, ``None`` if all is well."""
    path, is_function, parameters = need.partition("(")
    owner, _, name = path.partition(".")
    specimen = specimens[owner]
    try:
        found = getattr(type(specimen) if path in _FILLED_LATER else specimen, name)
    except AttributeError:
        return f"{path} is not there"
    if not is_function:
        return None
    try:
        shape = _shape(found, of_class=isinstance(specimen, type))
    except (TypeError, ValueError):
        return f"{path} is not a function"
    wanted = parameters[:-1]
    return None if shape == wanted else f"{path} takes ({shape}), not ({wanted})"


# -- exercises: what is there does what it is used for ------------------------------------------


def _exercise_record(specimens: dict[str, Any]) -> bool:
    """Tell whether a record of prepared statements works as `Prepared` and its users think."""
    record, prepare = specimens["PrepareManager"], specimens["Prepare"]
    one: Any = _Text(b"select 1", ())
    is_new = record.get(one, True)[0] is prepare.SHOULD and record.get(one)[0] is prepare.NO
    key = record.maybe_add_to_cache(one, prepare.SHOULD, b"name")
    is_known = key == (b"select 1", ()) and record.get(one) == (prepare.YES, b"name")
    is_listed = dict(record._names) == {key: b"name"}
    record.validate(key, prepare.SHOULD, b"name", [])
    is_dropped = not record._names
    record._names[key] = b"name"
    record.clear()
    return is_new and is_known and is_listed and is_dropped and list(record._to_flush) == [None]


def _exercise_measuring(_specimens: dict[str, Any]) -> bool:
    """Tell whether ``wait()`` gets generators of the names that the meter looks for."""

    class Probe(psycopg.Connection[Any]):
        def wait(self, gen: Any, *_args: Any, **_kwargs: Any) -> NoReturn:
            arguments = gen.gi_frame.f_locals
            raise _Seen(gen.__name__, arguments.get("query", arguments.get("statement")))

    cursor = psycopg.Cursor(Probe(_NoServer()))  # type: ignore[arg-type]
    seen = []
    for act in (cursor.execute, lambda text: cursor.copy(text).__enter__()):
        try:
            act("text")
        except _Seen as end:
            seen.append(end.args)
    return seen == [("_execute_gen", "text"), ("_start_copy_gen", "text")]


def _exercise_start(_specimens: dict[str, Any]) -> bool:
    """Tell whether a cursor asks its connection for BEGIN where `OpenConnection` replaces it."""

    class Probe(psycopg.Connection[Any]):
        def _start_query(self) -> NoReturn:
            raise _Seen

    cursor = psycopg.Cursor(Probe(_NoServer()))  # type: ignore[arg-type]
    try:
        next(cursor._start_query())
    except _Seen:
        return True
    return False


def _exercise_quick_start(specimens: dict[str, Any]) -> bool:
    """Tell whether a cursor has the fields that are filled here, and no others."""
    kind: Any = type(specimens["Cursor"]).__mro__[1]
    return set(kind.__slots__) == {
        *("__weakref__", "_adapters", "_closed", "_conn", "_execmany_returning", "_iresult"),
        *("_last_query", "_make_row", "_pgconn", "_pos", "_query", "_results", "_row_factory"),
        *("_rowcount", "_statusmessage", "_tx", "arraysize", "format", "pgresult"),
    }


def _exercise_conversion(_specimens: dict[str, Any]) -> bool:
    """Tell whether the text of a statement is taken apart as it is put together here."""
    text, formats, order, parts = _queries._query2pg(b"select %s, %t", "utf-8")
    return bool(text == b"select $1, $2" and len(formats) == 2 and not order and len(parts) == 3)


_EXERCISES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "record of prepared statements": _exercise_record,
    "measured statements": _exercise_measuring,
    "pooler found in time": _exercise_start,
    "quick start of cursors": _exercise_quick_start,
    "quick conversion of statements": _exercise_conversion,
    "single statements": _exercise_conversion,
}


def _check() -> dict[str, list[str]]:
    """Return what differs from what this file was written for, for each feature."""
    specimens = _specimens()
    found: dict[str, list[str]] = {}
    for name, feature in FEATURES.items():
        differences = [_difference(need, specimens) for need in feature.needs]
        found[name] = [difference for difference in differences if difference is not None]
        exercise = _EXERCISES.get(name)
        if exercise is not None and not found[name]:
            try:
                worked = exercise(specimens)
            except Exception as error:
                logger.debug("the exercise of psycopg for %r failed", name, exc_info=error)
                worked = False
            if not worked:
                found[name].append(f"the exercise of {name!r} went otherwise")
    return found


DIFFERENCES = _check()
"""What differs from the psycopg that this file was written for, for each feature."""


def is_on(feature: str) -> bool:
    """Tell whether a feature, and what it stands on, finds in psycopg what it needs."""
    return not DIFFERENCES[feature] and all(is_on(other) for other in FEATURES[feature].above)


def report(level: int = logging.WARNING) -> None:
    """Log what differs in this psycopg and what is so for that, if anything differs."""
    if any(DIFFERENCES.values()):
        differences = dict.fromkeys(text for texts in DIFFERENCES.values() for text in texts)
        off = [feature.otherwise for name, feature in FEATURES.items() if not is_on(name)]
        logger.log(
            level,
            "psycopg %s is not the one that geventpg was tested with: %s. So: %s",
            psycopg.__version__,
            "; ".join(differences),
            "; ".join(off),
        )


report()


def _differs(path: str) -> bool:
    """Tell whether one name (``Owner.name``) is not as it was."""
    texts = (text for texts in DIFFERENCES.values() for text in texts)
    return any(text.split(" ")[0] == path for text in texts)


# -- facts about connections --------------------------------------------------------------------


def _encoding_publicly(pgconn: Any) -> str:
    return psycopg.ConnectionInfo(pgconn).encoding


def _begin_command_publicly(conn: Any) -> bytes:
    words = ["BEGIN"]
    if conn.isolation_level is not None:
        words.append(f"ISOLATION LEVEL {conn.isolation_level.name.replace('_', ' ')}")
    if conn.read_only is not None:
        words.append("READ ONLY" if conn.read_only else "READ WRITE")
    if conn.deferrable is not None:
        words.append("DEFERRABLE" if conn.deferrable else "NOT DEFERRABLE")
    return " ".join(words).encode()


def _begin_command(conn: Any) -> bytes:
    command: bytes = conn._get_tx_start_command()
    return command


def _should_cancel(conn: Any) -> bool:
    return bool(conn._should_cancel())


def _set_autocommit(conn: Any, value: bool) -> None:
    conn._autocommit = value


def _set_autocommit_publicly(conn: Any, value: bool) -> None:
    if conn.closed or conn.autocommit == value:
        return
    if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        conn.rollback()
    conn.autocommit = value


def _timeout_of_waits() -> type[BaseException]:
    """Return the exception that psycopg's own waiting raises when time is up."""
    ours, other = socket.socketpair()

    def waiting_for_nothing() -> Iterator[Any]:
        while True:
            yield waiting.Wait.R

    try:
        waiting.wait(waiting_for_nothing(), ours.fileno(), interval=0.001, timeout=0.001)  # type: ignore[arg-type]
    except psycopg.Error as error:
        return type(error)
    finally:
        ours.close()
        other.close()
    raise AssertionError("psycopg waits on after its time-out")


def _fact(path: str, privately: Any, publicly: Any) -> Any:
    return publicly if _differs(path) else privately


encoding_of: Callable[[Any], str] = _fact(
    "PGconn._encoding", attrgetter("_encoding"), _encoding_publicly
)
"""Return the name of Python's codec for the client encoding of a libpq connection."""

autocommit_of: Callable[[Any], bool] = _fact(
    "Connection._autocommit", attrgetter("_autocommit"), attrgetter("autocommit")
)
"""Return ``conn.autocommit``, in fewer steps."""

set_autocommit: Callable[[Any, bool], None] = _fact(
    "Connection._autocommit", _set_autocommit, _set_autocommit_publicly
)
"""Set ``conn.autocommit`` where psycopg's setter would refuse: an open transaction is to end."""

pipeline_of: Callable[[Any], Any] = _fact(
    "Connection._pipeline", attrgetter("_pipeline"), attrgetter("open_pipeline")
)
"""Return the pipeline of psycopg's that is open on a connection of ours, ``None`` if none is."""

blocks_of: Callable[[Any], int] = _fact(
    "Connection._num_transactions", attrgetter("_num_transactions"), lambda _conn: 0
)
"""Return how many ``transaction()`` blocks are open on a connection; 0 if that is not known."""

two_phase_of: Callable[[Any], Any] = _fact(
    "Connection._tpc", attrgetter("_tpc"), lambda _conn: True
)
"""Return something true in a two-phase transaction, or if that is not known."""

begin_command_of: Callable[[Any], bytes] = _fact(
    "Connection._get_tx_start_command", _begin_command, _begin_command_publicly
)
"""Return the BEGIN of a connection's next transaction."""

should_cancel: Callable[[Any], bool] = _fact(
    "Connection._should_cancel", _should_cancel, lambda conn: not conn.closed
)
"""Tell whether there may be something to cancel; raise as psycopg's ``cancel()`` does."""

is_outermost: Callable[[Any], bool] = _fact(
    "Transaction._outer_transaction", attrgetter("_outer_transaction"), lambda _block: True
)
"""Tell whether a ``transaction()`` block began the transaction; ``True`` if that is not known."""

NO_TRACEBACK: Any = getattr(errors, "_NO_TRACEBACK", (psycopg.Error, KeyboardInterrupt))
"""The exceptions from which psycopg removes its own frames."""

WaitTimeout: Any = getattr(errors, "_WaitTimeout", None) or _timeout_of_waits()
"""What psycopg expects ``wait()`` to raise when time is up."""


_TRANSACTION_SETTINGS = ("_autocommit", "_isolation_level", "_read_only", "_deferrable")


def exchange_transaction_settings(conn: Any, settings: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a connection these settings and return those that it had. No transaction is open.

    They are ``autocommit``, ``isolation_level``, ``read_only`` and ``deferrable``.
    """
    previous = conn.autocommit, conn.isolation_level, conn.read_only, conn.deferrable
    if previous == settings:
        return previous
    if is_on("quick change of settings"):
        for name, value in zip(_TRANSACTION_SETTINGS, settings, strict=True):
            setattr(conn, name, value)
        conn._begin_statement = b""  # made of them, when it is needed
    else:
        conn.autocommit, conn.isolation_level, conn.read_only, conn.deferrable = settings
    return previous


def has_handlers(conn: Any) -> bool:
    """Tell whether functions of the user's are called for notices or notifications."""
    return bool(conn._notice_handlers or conn._notify_handlers)


def has_notify_handlers(conn: Any) -> bool:
    """Tell whether functions of the user's are called for notifications, or may be."""
    return bool(getattr(conn, "_notify_handlers", True))


# -- the record of prepared statements -----------------------------------------------------------

RECORDS = is_on("record of prepared statements")

_Prepare: Any = _preparing.Prepare if RECORDS else None
NO: Any = getattr(_Prepare, "NO", None)
"""The statement is not prepared, and not to be."""
YES: Any = getattr(_Prepare, "YES", None)
"""The statement is prepared."""
SHOULD: Any = getattr(_Prepare, "SHOULD", None)
"""The statement is to be prepared now."""

Key = tuple[bytes, tuple[int, ...]]
"""Text and types of the parameters."""

if TYPE_CHECKING:
    from psycopg._preparing import PrepareManager as _Record
else:
    _Record = _preparing.PrepareManager if RECORDS else object


class Prepared(_Record):
    """psycopg's record of what a connection has prepared, its parts by public names.

    The object is psycopg's own, of this class instead: psycopg fills it and reads it.
    """

    names: OrderedDict[Key, bytes]
    """What is prepared, and as what."""
    counts: OrderedDict[Key, int]
    """How often the others were executed."""
    to_flush: deque[bytes | None]
    """What is to be deallocated; ``None``: everything."""
    is_readable = True


class _NoRecord:
    """Stands for the record where it cannot be read: nothing is known to be prepared."""

    is_readable = False

    def __init__(self) -> None:
        self.names: dict[Key, bytes] = {}
        self.counts: dict[Key, int] = {}
        self.to_flush: deque[bytes | None] = deque()
        self.prepare_threshold = None


def prepared_of(conn: psycopg.Connection[Any]) -> Prepared:
    """Return the record of a connection, an empty one if it cannot be read."""
    if not RECORDS:
        none: Any = _NoRecord()
        return none  # type: ignore[no-any-return]
    record: Any = conn._prepared
    if record.__class__ is not Prepared:
        record.__class__ = Prepared
        # psycopg never replaces these three, it only changes them.
        record.names, record.counts = record._names, record._counts
        record.to_flush = record._to_flush
    return record  # type: ignore[no-any-return]


# -- connections -------------------------------------------------------------------------------

FINDS_POOLER_IN_TIME = is_on("pooler found in time")
COMMITS_SHORTLY = is_on("short COMMIT")


class OpenConnection(psycopg.Connection[Row]):
    """psycopg's connection, with public methods of ours at the places where it calls itself."""

    pool: Any
    """The pool that has given it out, ``None`` in the pool; not set on one without a pool."""
    open_pipeline: psycopg.Pipeline | None = None
    """The pipeline of psycopg's that is open."""

    # Where psycopg looks, and asks whether it is there. What is written often is ours.
    _pool = property(attrgetter("pool"), lambda self, pool: setattr(self, "pool", pool))

    def before_statement(self) -> None:
        """Do something before any cursor sends a statement."""

    def before_pipeline(self) -> None:
        """Do something before psycopg opens a pipeline. The lock is held."""

    def cancel_to_end_stream(self, timeout: float) -> None:
        """Cancel a ``stream()`` that its user has left, for *timeout* seconds at most."""

    if FINDS_POOLER_IN_TIME:

        def _start_query(self) -> Any:
            self.before_statement()
            # psycopg iterates over it; nothing to iterate over is cheaper than a generator.
            if self._autocommit:
                return ()
            return super()._start_query()

        @contextmanager
        def _pipeline_nolock(self) -> Iterator[psycopg.Pipeline]:
            self.before_pipeline()
            try:
                with super()._pipeline_nolock() as pipeline:
                    self.open_pipeline = pipeline
                    yield pipeline
            finally:
                self.open_pipeline = None

    if is_on("bounded end of stream()"):

        def _try_cancel(self, *, timeout: float = 5.0) -> None:
            self.cancel_to_end_stream(timeout)


def connection_params(cls: type[OpenConnection[Any]], conninfo: str, kwargs: Any) -> ConnDict:
    """Return the parameters of a connection as psycopg, and a subclass of the user's, has them."""
    method: Any = getattr(cls, "_get_connection_params", conninfo_to_dict)
    params: ConnDict = method(conninfo, **kwargs)
    return params


class OpenTransaction(psycopg.Transaction):
    """psycopg's block, which can send a command together with BEGIN."""

    with_begin: bytes | None = None
    """A command that returns no rows."""

    if is_on("settings with BEGIN"):

        def _enter_gen(self) -> PQGen[None]:
            if self.with_begin is None:
                yield from super()._enter_gen()
                return
            # psycopg's own, which expects one result.
            self.status = self.Status.ACTIVE
            self._push_savepoint()
            if self.pgconn.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection is closed")
            self.pgconn.send_query(b"%s; %s" % (begin_command_of(self._conn), self.with_begin))
            for result in (yield from generators.execute(self.pgconn)):
                if result.status != pq.ExecStatus.COMMAND_OK:
                    raise errors.error_from_result(result, encoding=encoding_of(self.pgconn))

    else:

        def __enter__(self) -> Self:
            block = super().__enter__()
            if self.with_begin is not None:
                try:
                    self.connection.execute(self.with_begin)
                except BaseException:
                    self.__exit__(*sys.exc_info())
                    raise
            return block


def rollback_gen(conn: Any) -> PQGen[None]:
    """Roll back as psycopg's ``rollback()`` does. For batches, with the lock held."""
    yield from conn._rollback_gen()


# -- statements and cursors ----------------------------------------------------------------------

HAS_CURSOR = is_on("cursor")
STARTS_QUICKLY = is_on("quick start of cursors")
CONVERTS_QUICKLY = is_on("quick conversion of statements")
KEEPS_STATEMENTS = STARTS_QUICKLY and CONVERTS_QUICKLY
"""Whether what was found out about a statement is kept for its next execution."""
PIPELINES_STATEMENTS = is_on("single statements")
SENDS_BATCHES = is_on("batches")

if TYPE_CHECKING:
    from psycopg import _queries as _types

    PostgresQuery = _types.PostgresQuery
    QueryPart = _types.QueryPart
else:
    PostgresQuery = getattr(_queries, "PostgresQuery", None)
    QueryPart = Any

query2pg: Callable[[bytes, str], Any] = getattr(_queries, "_query2pg", None)  # type: ignore[assignment]
"""Return a text as the server knows it, the formats of its placeholders, their names, its parts."""


def in_order(parts: list[QueryPart], params: Any, order: list[str] | None) -> Any:
    """Return parameters in the order of the placeholders; raise as psycopg does."""
    return PostgresQuery.validate_and_reorder_params(parts, params, order)


def _of_cursor(name: str) -> Any:
    """Return what stands under a private name in psycopg's cursor class."""
    return getattr(psycopg.Cursor, name, None)


class OpenCursor(psycopg.Cursor[Row]):
    """psycopg's cursor, its fields by public names, and methods of ours where it calls itself.

    The fields are psycopg's own slots under a second name: that costs nothing.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        conn: Any
        pgconn: pq.abc.PGconn
        tx: Any
        last_query: Query | None
        answers: list[pq.abc.PGresult]
        position: int
        row_count: int
        status_message: bytes | None
        make_row: Any
        factory: Any
        many_returning: bool | None
        statement: PostgresQuery | None
        is_closed: bool
        current_adapters: Any

        reset: Callable[..., None]
        check_answers: Callable[[list[pq.abc.PGresult]], None]
        show_answers: Callable[[list[pq.abc.PGresult]], None]
        row_maker: Callable[[], Any]
        send_gen: Callable[..., PQGen[None]]
    else:
        conn = _of_cursor("_conn")
        pgconn = _of_cursor("_pgconn")
        tx = _of_cursor("_tx")
        last_query = _of_cursor("_last_query")
        answers = _of_cursor("_results")
        position = _of_cursor("_pos")
        row_count = _of_cursor("_rowcount")
        status_message = _of_cursor("_statusmessage")
        make_row = _of_cursor("_make_row")
        factory = _of_cursor("_row_factory")
        many_returning = _of_cursor("_execmany_returning")
        statement = _of_cursor("_query")
        is_closed = _of_cursor("_closed")
        current_adapters = _of_cursor("_adapters")
        reset = _of_cursor("_reset")
        check_answers = _of_cursor("_check_results")
        show_answers = _of_cursor("_set_results")
        row_maker = _of_cursor("_make_row_maker")
        send_gen = _of_cursor("_maybe_prepare_gen")

    if STARTS_QUICKLY:

        def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
            """Do what psycopg's does, without copying the adapters."""
            own = connection.own_adapters
            adapters = (own and own.copy) or connection.shared_adapters()
            if adapters is None:
                super().__init__(connection, row_factory=row_factory)
                return
            self._conn = connection
            self._pgconn = connection.pgconn
            self._adapters = adapters
            self._row_factory = row_factory or connection.row_factory
            self._last_query = self.pgresult = self._statusmessage = None
            self._execmany_returning = self._query = None
            self._results = []
            self._pos = self._iresult = 0
            self._rowcount = -1
            self.arraysize = 1
            self.format = TEXT
            self._closed = False

    def own_adapters(self) -> AdaptersMap:
        """Give the cursor its own copy of its adapters, from the next statement on."""
        adapters = self._adapters = AdaptersMap(self._adapters)
        adapters._register_loader_callback = partial(self._loaders_changed, ref(self))
        self._last_query = None
        return adapters

    def start(self, query: Query) -> None:  # noqa: ARG002  # for those that remember it
        """Get ready for the next statement."""
        self._tx = Transformer(self)

    def convert(self, query: Query, params: Any = None) -> PostgresQuery:
        """Return a statement and its parameters as the server gets them."""
        return super()._convert_query(query, params)

    def converted(
        self, text: bytes, formats: list[Any], parts: list[QueryPart], params: Any
    ) -> PostgresQuery:
        """Return what `convert` returns, for a text that was taken apart before."""
        tx = self._tx
        pgq = self._query_cls(tx)
        pgq.query, pgq._want_formats, pgq._parts = text, formats, parts
        pgq.params = tx.dump_sequence(params, formats)
        pgq.types = tx.types or ()
        pgq.formats = tx.formats
        return pgq

    def raise_for(self, result: pq.abc.PGresult) -> NoReturn:
        """Raise the error that *result* tells of."""
        super()._raise_for_result(result)

    def show(self, tx: Any, result: pq.abc.PGresult) -> None:
        """Let the cursor be looked at as if it had executed what *result* is the answer to."""
        self._tx = tx
        self._results = [result]
        self.pgresult = result
        self._rowcount = result.ntuples
        self._statusmessage = result.command_status

    if HAS_CURSOR:

        def _convert_query(self, query: Query, params: Any = None) -> PostgresQuery:
            return self.convert(query, params)

        def _raise_for_result(self, result: pq.abc.PGresult) -> NoReturn:
            self.raise_for(result)


def converted_by(cur: psycopg.Cursor[Any], query: Query, params: Any) -> PostgresQuery:
    """Return a statement of a batch as the server gets it; *cur* may be of any class."""
    if isinstance(cur, OpenCursor):
        cur.start(query)
    else:
        cur._tx = Transformer(cur)
    return cur._convert_query(query, params)


def show_answers(cur: psycopg.Cursor[Any], results: list[pq.abc.PGresult]) -> None:
    """Let a cursor of any class show the answers to a statement; raise if one is an error."""
    cur._check_results(results)
    cur._set_results(results)


class OpenServerCursor(psycopg.ServerCursor[Row]):
    """psycopg's server-side cursor, with a method of ours where it calls itself."""

    __slots__ = ()

    def before_sending(self, query: bytes) -> None:
        """Do something before the statement is declared."""

    if is_on("warnings of server-side cursors"):

        def _convert_query(self, query: Query, params: Any = None) -> PostgresQuery:
            pgq = super()._convert_query(query, params)
            self.before_sending(pgq.query)
            return pgq


GENERATORS_OF_STATEMENTS = frozenset(
    {
        *("_execute_gen", "_executemany_gen_no_pipeline", "_declare_gen", "_stream_send_gen"),
        "_start_copy_gen",
    }
)
"""The generators of psycopg's that execute what a cursor was given."""


def statement_of(gen: Any) -> tuple[Any, bool]:
    """Return what one of `GENERATORS_OF_STATEMENTS` is to execute, and whether with parameters.

    It has not begun: all that it knows is its arguments.
    """
    arguments = gen.gi_frame.f_locals
    query = arguments.get("query", arguments.get("statement"))
    return query, arguments.get("params", arguments.get("params_seq")) is not None


# -- libpq's pipeline ------------------------------------------------------------------------------


def _plain_sync(pgconn: pq.abc.PGconn) -> Callable[[], object]:
    return pgconn.pipeline_sync


def _find_sync() -> Callable[[pq.abc.PGconn], Callable[[], object]]:
    """Return what makes the function that queues a Sync on a connection.

    psycopg's ``pipeline_sync`` makes a system call of its own each time. libpq 17 has a function
    that waits for the next flush. psycopg does not offer it, so it is looked up in the very libpq
    that psycopg is linked with.
    """
    if pq.version() < 170000:
        return _plain_sync
    try:
        if pq.__impl__ == "python":
            libpq: Any = importlib.import_module("psycopg.pq._pq_ctypes")
            send = libpq.pq.PQsendPipelineSync
        else:
            # Looking a name up in a library looks in those it depends on, too.
            module = sys.modules[pq.PGconn.__module__]
            send = ctypes.PyDLL(module.__file__ or "").PQsendPipelineSync
    except (ImportError, AttributeError, OSError, KeyError):
        return _plain_sync
    send.argtypes, send.restype = [ctypes.c_void_p], None

    def sync_of(pgconn: Any) -> Callable[[], object]:
        pointer = ctypes.c_void_p(pgconn.pgconn_ptr)
        return partial(send, pointer)

    return sync_of


sync_of: Callable[[pq.abc.PGconn], Callable[[], object]] = _find_sync()
"""Return the function that queues a Sync; it may be called while the connection is open only.

It tells nothing: a connection on which it fails is one on which the next flush fails too.
"""


# -- psycopg_pool ----------------------------------------------------------------------------------


class OpenPool(ConnectionPool[CT]):
    """psycopg_pool's pool without its engine.

    Users' tests and tools read a few of its private names. They find them here, made of our public
    ones. A subclass leaves psycopg_pool's constructor out, which would prepare its engine.
    """

    _sched_runner, _workers = None, []  # it has no threads

    # psycopg_pool has plain attributes here, which it writes. Nothing writes these.
    _pool: deque[CT] = property(lambda self: deque(self.idle_connections()))  # type: ignore[assignment]
    _nconns: int = property(lambda self: self.get_stats()["pool_size"])  # type: ignore[assignment]
    _waiting: deque[Any] = property(lambda self: deque(self.waiters()))  # type: ignore[assignment]
    _configure = property(lambda self: self.callback("configure"))
    _check = property(lambda self: self.callback("check"))
    _reset = property(lambda self: self.callback("reset"))

    def idle_connections(self) -> list[CT]:
        """Return the idle connections, the most recently used last. They are to be looked at only.

        Does not block or switch.
        """
        raise NotImplementedError

    def waiters(self) -> Sequence[object]:
        """Return the waiters for a connection now, the first in line first."""
        raise NotImplementedError

    def callback(self, name: str) -> Any:
        """Return the user's function that is called ``configure``, ``check`` or ``reset``."""
        raise NotImplementedError


def backoff() -> tuple[float, float, float]:
    """Return psycopg_pool's first pause (s) between attempts, its growth, and its jitter."""
    of = getattr(psycopg_pool.base, "AttemptWithBackoff", None)
    return (
        getattr(of, "INITIAL_DELAY", 1.0),
        getattr(of, "DELAY_BACKOFF", 2.0),
        getattr(of, "DELAY_JITTER", 0.1),
    )


def pool_of(conn: Any) -> Any:
    """Return the pool that has given *conn* out, ours or psycopg_pool's; ``None`` if none has."""
    return getattr(conn, "_pool", None)


KNOWS_STOCK_POOLS = is_on("places in psycopg_pool's pools")


def give_place_back(pool: ConnectionPool[Any]) -> None:
    """Let psycopg_pool's own *pool* open a connection in place of one that leaves it for good."""
    if KNOWS_STOCK_POOLS:
        with pool._lock:
            pool._nconns -= 1


def idle_in(pool: ConnectionPool[Any]) -> list[psycopg.Connection[Any]]:
    """Return the idle connections of psycopg_pool's own *pool*; none if that is not known."""
    return list(pool._pool) if KNOWS_STOCK_POOLS else []
