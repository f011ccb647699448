"""The numbers of single statements, and the description of a statistic of ours.

Each statistic is named once: as a field of `StatementStats` here or of `PoolStats` in
`geventpg.pool.stats`. The field's `Statistic` says what it means and what it is called elsewhere,
and from it come ``get_stats()``, Prometheus, OpenTelemetry, ``celery inspect`` and the tables of
the documentation.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any


class Kind(enum.Enum):
    """How a statistic changes, and how those of several pools are put together."""

    GAUGE = "gauge"
    """It goes up and down; several are added."""
    AGE = "age"
    """Seconds since something began; of several the longest counts."""
    COUNTER = "counter"
    """It only grows; several are added."""
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Statistic:
    """One statistic: its meaning, and its names outside."""

    kind: Kind
    text: str
    """The meaning, in one sentence."""
    name: str = ""
    """The field's name, with a dot in it if the field is one of `StatementStats`."""
    key: str | None = None
    """The key in ``get_stats()``."""
    metric: str | None = None
    """The metric of Prometheus, without the prefix ``geventpg_``."""
    label: str | None = None
    """The label besides the pool's name. Its value is the name here, or each key of a mapping."""
    otel: tuple[str, ...] = ()
    """The metrics of OpenTelemetry, without the prefix ``db.client.connection.``."""
    state: str | None = None
    """The state in the metric of OpenTelemetry."""

    def of(self, stats: Any) -> Any:
        """Return this statistic of *stats*, which has the field."""
        return attrgetter(self.name)(stats)


def statistic(kind: Kind, text: str, default: Any = 0, **names: Any) -> Any:
    """Return a dataclass field that is a statistic; *names* are those of `Statistic`."""
    # A factory, because a dataclass refuses a mapping as a default.
    return field(
        default_factory=lambda: default, metadata={"statistic": Statistic(kind, text, **names)}
    )


def statistics_of(cls: type[Any], within: str = "") -> Iterator[Statistic]:
    """Yield the statistics among the fields of *cls*; *within* comes before their names."""
    for one in dataclasses.fields(cls):
        if "statistic" in one.metadata:
            yield dataclasses.replace(one.metadata["statistic"], name=within + one.name)


@dataclass(frozen=True)
class StatementStats:
    """The single statements of one pool: counters since its start, and what is so now."""

    sent: int = statistic(
        Kind.COUNTER,
        "Single statements sent over shared connections.",
        key="statements_sent",
        metric="statements_sent",
    )
    batches: int = statistic(
        Kind.COUNTER,
        "Portions in which they were sent; each is one write to the network.",
        key="statements_batches",
        metric="statements_batches",
    )
    batch_max: int = statistic(
        Kind.GAUGE, "The largest number of statements in one portion.", key="statements_batch_max"
    )
    spilled: int = statistic(
        Kind.COUNTER,
        "Single statements that were given a connection of their own instead.",
        key="statements_spilled",
        metric="statements_spilled",
    )
    moved: int = statistic(
        Kind.COUNTER,
        "Times that a statement went to another connection before it was executed.",
        key="statements_moved",
    )
    abandoned: int = statistic(
        Kind.COUNTER,
        "Statements that were sent and whose greenlets were killed or timed out.",
        key="statements_abandoned",
    )
    outstanding: int = statistic(
        Kind.GAUGE,
        "Single statements that were sent and not answered yet.",
        key="statements_outstanding",
        metric="statements_outstanding",
    )
    waiting: int = statistic(
        Kind.GAUGE,
        "Single statements that were not sent yet.",
        key="statements_waiting",
        metric="statements_waiting",
    )
    connections: int = statistic(
        Kind.GAUGE, "Connections that carry single statements.", key="statements_connections"
    )
