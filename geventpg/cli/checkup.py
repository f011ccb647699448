"""All of `doctor`'s checks, one after the other, within a bounded time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gevent
import psycopg

from geventpg.cli.checks.environment import look_at_resolver, look_at_variables, look_at_versions
from geventpg.cli.checks.link import look_at_keepalives, look_at_round_trip, look_at_tls
from geventpg.cli.checks.patching import look_at_program
from geventpg.cli.checks.pooler import look_at_pooler
from geventpg.cli.checks.reaching import Target, explain, explain_conninfo
from geventpg.cli.checks.server import look_at_server
from geventpg.connection.connection import Connection
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.errors import OptionError
from geventpg.pool.options import from_environment

from .findings import Finding, Level, note, problem


@dataclass(frozen=True)
class Questions:
    """What to look at."""

    app: str | None
    processes: int
    max_size: int | None
    prepare: str | None
    idle_after: float
    timeout: float
    """Seconds for connecting, and for each group of checks on the server."""


@discreet
def examine(
    conninfo: str | None, questions: Questions, environ: Mapping[str, str]
) -> list[Finding]:
    """Return what was found, in the order in which it was looked at; connect to *conninfo*."""
    found = [*look_at_versions(), *look_at_resolver(), *look_at_variables(environ)]
    if questions.app is not None:
        found += look_at_program(questions.app, max(questions.timeout, 30.0))
    if conninfo is None:
        found.append(
            note("no-server", "No server was looked at.", "Name one, or set GEVENTPG_CONNINFO.")
        )
        return found
    try:
        check_conninfo(conninfo)
    except OptionError as error:
        return [*found, explain_conninfo(error)]
    target = Target(conninfo, questions.timeout)
    try:
        conn = target.connect()
    except psycopg.Error as error:
        return [*found, explain(error, target)]
    found += _examine_server(conn, target, questions, _options(environ))
    return found


def _examine_server(
    conn: Connection[Any], target: Target, questions: Questions, options: Mapping[str, Any]
) -> list[Finding]:
    parameters = target.parameters
    prepare = questions.prepare or str(options.get("prepare", "auto"))
    max_size = questions.max_size or options.get("max_size") or 20
    checks: list[tuple[str, Callable[[Connection[Any]], list[Finding]]]] = [
        ("pooler", lambda conn: look_at_pooler(conn, target, prepare)),
        ("TLS", lambda conn: look_at_tls(conn, parameters)),
        ("round trip", look_at_round_trip),
        ("keepalives", lambda conn: look_at_keepalives(conn, parameters, options)),
        (
            "server",
            lambda conn: look_at_server(
                conn,
                processes=questions.processes,
                max_size=max_size,
                idle_after=questions.idle_after,
            ),
        ),
    ]
    found: list[Finding] = []
    try:
        for name, check in checks:
            try:
                with gevent.Timeout(2 * questions.timeout):
                    if conn.closed:  # a pooler in statement mode does that
                        conn = target.connect()
                    found += check(conn)
            except gevent.Timeout:
                found.append(
                    problem(
                        "no-answer",
                        f"No answer in time while looking at: {name}.",
                        "The server or the network is overloaded or stuck; --timeout allows it"
                        " longer.",
                    )
                )
            except psycopg.Error as error:
                text = " ".join(str(error).split())
                advice = "Mend what the server says, and run this again."
                found.append(problem("check-failed", f"Looking at {name}: {text}", advice))
    finally:
        conn.close()
    return found


def _options(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the pool options of the environment, those that can be read."""
    options: dict[str, Any] = {}
    for variable, value in environ.items():
        try:
            options.update(from_environment({variable: value}))
        except OptionError:
            continue  # there is a finding for it
    return options


def worst(found: list[Finding]) -> Level:
    """Return the highest level among *found*."""
    order = list(Level)
    return max((finding.level for finding in found), key=order.index, default=Level.OK)
