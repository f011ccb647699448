"""Whether a pooler is in between, and what to tell the user if so.

A connection finds out once: when a statement is about to be prepared, when a pipeline begins,
or before a statement that leaves something in its session, which a pooler may take away.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from psycopg import errors, generators, pq
from psycopg.abc import PQGen

from geventpg.conninfo import startup_options
from geventpg.errors import StartupOptionRefused
from geventpg.sql.session_effects import Effect

from .abc import Link
from .psycopg_internals import encoding_of
from .wire import ask_gen

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger("geventpg.pooler")

TUPLES_OK = pq.ExecStatus.TUPLES_OK
IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS

# Settings with a dot are unknown to pg_settings unless an extension defines them.
_SETTINGS = b"""
SELECT wanted, coalesce(setting, CASE WHEN position('.' in wanted) > 0
                                      THEN coalesce(current_setting(wanted, true), '') END),
       unit, vartype
  FROM unnest($1::pg_catalog.text[]) AS wanted
  LEFT JOIN pg_catalog.pg_settings ON lower(name) = wanted
"""


class Warnings:
    """What was said already, by one pool or by all connections without one: each thing once."""

    __slots__ = ("_said", "_who")

    def __init__(self, who: str) -> None:
        self._who = who
        self._said: set[object] = set()

    def once(self, what: object, text: str, *args: object) -> None:
        """Log *text*, unless *what* was the subject before. Does not block."""
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s: %s", self._who, text % args)


OF_ALL = Warnings("connection without a pool")


def is_pooled(conn: Any) -> bool:
    """Tell whether a pooler is in between; a round trip unless it is known.

    Nothing is prepared behind one from then on, on a connection that is not ours neither. A
    transaction that was open is still open.
    """
    pooled: bool | None = getattr(conn, "pooled", None)
    if pooled is None:
        ours = hasattr(conn, "prepares_always")
        with conn.lock:
            if ours:
                conn.wait(find_pooler_gen(cast("Any", conn)))
                return bool(cast("Any", conn).pooled)
            pooled = conn.wait(_is_pooled_gen(conn.pgconn))
        if pooled:
            conn.prepare_threshold = None
    return pooled


def _is_pooled_gen(pgconn: pq.abc.PGconn) -> PQGen[bool]:
    # A pooler makes up the process id that it tells with the cancel key.
    (result,) = yield from ask_gen(pgconn, b"SELECT pg_catalog.pg_backend_pid()")
    return int(result.get_value(0, 0) or 0) != pgconn.backend_pid


def find_pooler_gen(conn: Link) -> PQGen[None]:
    """Find out whether a pooler is in between, and prepare nothing behind one. One round trip."""
    conn.pooled = yield from _is_pooled_gen(conn.pgconn)
    if not conn.pooled:
        return
    logger.debug("%s: a pooler is in between", conn)
    if not conn.prepares_always:
        conn.prepare_threshold = None
    if conn.pgconn.options:
        yield from _check_options_gen(conn)


def mind(conn: Link, effects: Iterable[Effect]) -> None:
    """Warn, once, of a statement that leaves *effects* in its session, if a pooler is in between.

    Called before the statement is sent. Ask the server if need be, which is a round trip.
    """
    if conn.pooled is None:
        if conn.open_pipeline is not None or conn.pgconn.transaction_status not in (IDLE, INTRANS):
            return  # another time
        conn.wait(find_pooler_gen(conn))
    for effect in effects if conn.pooled else ():
        conn.pooler_warnings.once(
            effect.lasting,
            "%s behind a pooler (at %s): unless the pooler is in session mode, %s; %s."
            " This is said once for each kind of statement.",
            effect.name,
            _caller(),
            effect.lasting.fate,
            effect.lasting.remedy,
        )


def explain_refusal(error: psycopg.Error) -> psycopg.Error:
    """Return *error* of connecting, or one that explains it if a pooler refused an option."""
    name = startup_options.refused(str(error))
    if name is None:
        return error
    pgconn = error.pgconn
    sent = startup_options.parse(pgconn.options.decode(errors="replace")) if pgconn else {}
    names = ", ".join(sent) if name == "options" and sent else name
    return StartupOptionRefused(
        f"{str(error).strip()}; a pooler takes no start-up option {names}: leave it out of the"
        " connection string ('options', PGOPTIONS) and set it for the role or the database (ALTER"
        " ROLE ... SET), or in each transaction (SET LOCAL), or connect to the server directly."
        " PgBouncer's ignore_startup_parameters lets it pass, without effect",
        pgconn=pgconn,
    )


def _check_options_gen(conn: Link) -> PQGen[None]:
    """Warn of start-up options that the pooler dropped. One round trip."""
    pgconn = conn.pgconn
    wanted = startup_options.parse(pgconn.options.decode(encoding_of(pgconn)))
    names = "{" + ",".join(f'"{name}"' for name in wanted if name.replace(".", "").isidentifier())
    pgconn.send_query_params(_SETTINGS, [names.encode(encoding_of(pgconn)) + b"}"])
    (result,) = yield from generators.execute(pgconn)
    if result.status != TUPLES_OK:
        raise errors.error_from_result(result, encoding=encoding_of(pgconn))
    for row in range(result.ntuples):
        cells = [result.get_value(row, column) for column in range(4)]
        name, setting, unit, kind = (
            cell if cell is None else cell.decode(encoding_of(pgconn)) for cell in cells
        )
        if name is None or setting is None:
            continue  # the server does not tell
        if not startup_options.is_in_force(wanted[name], setting, unit, kind):
            conn.pooler_warnings.once(
                ("option", name),
                "the pooler dropped the start-up option %s (ignore_startup_parameters); set it"
                " for the role or the database (ALTER ROLE ... SET), or in each transaction"
                " (SET LOCAL)",
                name,
            )


def _caller() -> str:
    """Return file and line of the innermost frame that is neither ours nor psycopg's."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in ("geventpg", "psycopg", "contextlib"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"
