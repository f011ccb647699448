"""The way to the server: TLS, round-trip time, keepalives."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

from geventpg.cli.findings import Finding, ok, problem, warning
from geventpg.cli.output import milliseconds
from geventpg.connection.connection import Connection

SLOW = 0.010
"""Seconds of a round trip that decide, more than the server does, how fast statements can be."""

_ROUND_TRIPS = 15
_VERIFYING = ("verify-full", "verify-ca")


def is_local(host: str) -> bool:
    """Tell whether *host*, as it is given, is this machine."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def look_at_tls(conn: Connection[Any], parameters: Mapping[str, Any]) -> list[Finding]:
    """Return findings on encryption and on the identity of the server."""
    host = conn.info.host
    facts = {"tls": bool(conn.pgconn.ssl_in_use), "host": host}
    if not conn.pgconn.ssl_in_use:
        if is_local(host):
            return [ok("tls", "no TLS, and none needed: the server is on this machine", **facts)]
        return [
            problem(
                "tls-off",
                f"The connection to {host} is not encrypted: an attacker on the way reads data and"
                " passwords.",
                "Turn ssl on in the server, and set sslmode=verify-full with sslrootcert.",
                **facts,
            )
        ]
    mode = str(parameters.get("sslmode") or "prefer")
    if mode not in _VERIFYING and not is_local(host):
        return [
            warning(
                "tls-unverified",
                f"TLS with sslmode={mode} does not check the identity of {host}: an attacker on the"
                " way can pretend to be it.",
                "Set sslmode=verify-full, and sslrootcert to the authority's file, or to 'system'"
                " for a public one.",
                sslmode=mode,
                **facts,
            )
        ]
    return [ok("tls", f"TLS, sslmode={mode}", sslmode=mode, **facts)]


def look_at_round_trip(conn: Connection[Any]) -> list[Finding]:
    """Return a finding on the time of a round trip; make some."""
    times = []
    for _ in range(_ROUND_TRIPS):
        begin = perf_counter()
        conn.execute("SELECT 1")
        times.append(perf_counter() - begin)
    typical, longest = median(times), max(times)
    text = f"round trip {milliseconds(typical)}, at most {milliseconds(longest)}"
    facts = {"median_seconds": typical, "longest_seconds": longest}
    if typical < SLOW:
        return [ok("round-trip", text, **facts)]
    return [
        warning(
            "round-trip-slow",
            f"The {text} is long: every statement holds its connection for that time.",
            "Bring workers and server closer together, send statements together (geventpg.Batch),"
            " and count with this time in geventpg plan.",
            **facts,
        )
    ]


def look_at_keepalives(
    conn: Connection[Any], parameters: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Finding]:
    """Return findings on how a server that has silently gone is noticed."""
    found = []
    if conn.info.host.startswith("/"):
        found.append(ok("keepalives", "a Unix socket needs no TCP keepalives"))
    elif str(parameters.get("keepalives", "1")) == "0":
        found.append(
            warning(
                "keepalives-off",
                "keepalives=0: a statement waits for a server that has silently gone until the"
                " kernel gives up, which takes hours.",
                "Remove it from the connection string. geventpg's own values notice it within a"
                " minute.",
            )
        )
    else:
        found.append(ok("keepalives", "TCP keepalives are on"))
    if options.get("keepalive_interval") == 0:
        found.append(
            warning(
                "probes-off",
                "keepalive_interval is 0: idle connections that a firewall has forgotten are met"
                " by users.",
                "Leave it at 30 seconds, or below the shortest idle limit in between.",
            )
        )
    return found
