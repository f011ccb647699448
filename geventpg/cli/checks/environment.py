"""The interpreter: psycopg, libpq, gevent's resolver, and the variables that are set."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import gevent
import psycopg
from gevent import config
from psycopg import pq

from geventpg.cli.findings import Finding, ok, problem, warning
from geventpg.pool.options import ENVIRONMENT_PREFIX, from_environment

GOOD_LIBPQ = 170_000
"""The first libpq that cancels without blocking, over TLS, and can close prepared statements."""


def look_at_versions() -> list[Finding]:
    """Return findings on psycopg and its libpq."""
    implementation, libpq = pq.__impl__, pq.version()
    text = f"{libpq // 10_000}.{libpq % 10_000}"
    found = [
        ok(
            "versions",
            f"Python {platform.python_version()}, gevent {gevent.__version__}, psycopg"
            f" {psycopg.__version__} ({implementation}), libpq {text}",
            python=platform.python_version(),
            gevent=gevent.__version__,
            psycopg=psycopg.__version__,
            implementation=implementation,
            libpq=libpq,
        )
    ]
    if implementation == "python":
        found.append(
            warning(
                "psycopg-in-python",
                "psycopg runs in pure Python, which takes several times the CPU for each row.",
                "Install psycopg's C part: pip install 'geventpg[binary]', or psycopg[c]; unset"
                " PSYCOPG_IMPL.",
            )
        )
    if libpq < GOOD_LIBPQ:
        found.append(
            warning(
                "libpq-old",
                f"libpq {text} is older than 17: it cancels statements in a thread and without"
                " TLS, and nothing can be prepared behind PgBouncer.",
                "pip install 'geventpg[binary]' brings a current libpq; else upgrade libpq5.",
                libpq=libpq,
            )
        )
    return found


def look_at_resolver() -> list[Finding]:
    """Return a finding on how gevent resolves names."""
    resolver = config.resolver
    name = f"{resolver.__module__}.{resolver.__qualname__}"
    if name.startswith("gevent.resolver.blocking"):
        return [
            problem(
                "resolver-blocks",
                "GEVENT_RESOLVER=block: every look-up of a name stops all greenlets.",
                "Unset GEVENT_RESOLVER (then a thread does it), or set it to ares.",
                resolver=name,
            )
        ]
    return [ok("resolver", f"gevent resolves names without blocking ({name})", resolver=name)]


def look_at_variables(environ: Mapping[str, str]) -> list[Finding]:
    """Return a problem for each GEVENTPG_* variable that is unknown or cannot be read."""
    found: list[Finding] = []
    for variable, value in sorted(environ.items()):
        try:
            from_environment({variable: value})
        except psycopg.ProgrammingError as error:
            found.append(
                problem(
                    "variable",
                    f"{error}.",
                    "Correct it. A worker that reads it does not start.",
                    variable=variable,
                )
            )
    ours = [name for name in environ if name.startswith(ENVIRONMENT_PREFIX)]
    if ours and not found:
        found.append(ok("variables", f"understood: {', '.join(sorted(ours))}"))
    return found
