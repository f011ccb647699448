"""Host names to addresses before libpq sees them, under the connection's deadline.

libpq resolves names inside ``PQconnectStart``, which blocks, and psycopg resolves them with
the ``socket`` module, which blocks unless it was monkey-patched. Here gevent's resolver does
it and libpq gets ``hostaddr``; ``host`` stays for TLS verification and ``.pgpass``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from time import monotonic
from typing import Any

import psycopg

from geventpg import hub

logger = logging.getLogger("geventpg")

_DEFAULT_PORT = "5432"


def resolve_hosts(params: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Return *params* with every host name resolved.

    Several hosts, and several addresses of one host, become one list in the order in which
    they are to be tried. A name that does not resolve is skipped as long as another does.
    Block this greenlet only. Raise ``psycopg.OperationalError`` if nothing resolves,
    ``psycopg.errors.ConnectionTimeout`` at *deadline*.
    """
    hosts = _split(_get(params, "host", "PGHOST"))
    addresses = _split(_get(params, "hostaddr", "PGHOSTADDR")) or [""] * len(hosts)
    if not hosts or len(hosts) != len(addresses):
        return params  # libpq's business, or its error
    pairs = list(zip(hosts, addresses, strict=True))
    if not any(_needs_resolving(host, address) for host, address in pairs):
        return params

    ports = _split(_get(params, "port", "PGPORT")) or [_DEFAULT_PORT]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise psycopg.OperationalError(
            f"could not match {len(ports)} port numbers to {len(hosts)} hosts"
        )

    found: list[tuple[str, str, str]] = []
    failure: psycopg.OperationalError | None = None
    for position, ((host, address), port) in enumerate(zip(pairs, ports, strict=True)):
        if not _needs_resolving(host, address):
            found.append((host, address or ("" if _is_local(host) else host), port))
            continue
        budget = (deadline - monotonic()) / (len(hosts) - position)
        try:
            found.extend(
                (host, resolved, port)
                for resolved in hub.getaddrinfo(host, port or _DEFAULT_PORT, budget)
            )
        except hub.DeadlineReached:
            failure = psycopg.errors.ConnectionTimeout(
                f"connection timeout expired while resolving host {host!r}"
            )
            logger.debug("%s", failure)
        except (OSError, UnicodeError) as error:  # the latter: not a name at all
            failure = psycopg.OperationalError(f"failed to resolve host {host!r}: {error}")
            logger.debug("%s", failure)
    if not found:
        assert failure is not None
        raise failure
    params = dict(params)
    params["host"] = ",".join(host for host, _address, _port in found)
    params["hostaddr"] = ",".join(address for _host, address, _port in found)
    params["port"] = ",".join(port for _host, _address, port in found)
    return params


def _get(params: dict[str, Any], name: str, variable: str) -> str:
    value = params.get(name)
    return str(value) if value is not None else os.environ.get(variable, "")


def _split(value: str) -> list[str]:
    return value.split(",") if value else []


def _is_local(host: str) -> bool:
    # A directory or an abstract socket ("@"), or nothing: libpq's default.
    return not host or host.startswith(("/", "@"))


def _needs_resolving(host: str, address: str) -> bool:
    if address or _is_local(host):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
