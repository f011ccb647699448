"""How many connections a fleet needs, how long one waits, and when a pooler is due."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .queueing import ErlangC, FiniteSource, Queue, percentile

SERVED_IN_TIME = 0.95
"""This share of the uses must have its connection within the wait that is accepted."""

PER_CORE = 2
"""Statements that a server works on at the same time, for each core, before they only wait for
each other: HikariCP's "About Pool Sizing", after PostgreSQL's own measurements."""


@dataclass(frozen=True)
class Demand:
    """A fleet of workers and what they do. Times in seconds."""

    machines: int
    processes: int
    """On each machine."""
    concurrency: int
    """Greenlets, or tasks at a time, in each process."""
    held: float
    """How long a task holds its connection: its statements, one after the other."""
    elsewhere: float | None
    """How long it does something else between two uses; ``None``: *rate* says what is asked."""
    rate: float | None
    """Tasks each second, of all machines together."""
    accepted_wait: float
    """The wait that one use in twenty may reach or exceed."""

    @property
    def fleet(self) -> int:
        """How many processes there are."""
        return self.machines * self.processes

    def queue(self, connections: int, processes: int = 1) -> Queue:
        """Return the model of *connections* that *processes* of the fleet share."""
        if self.rate is not None:
            return ErlangC(connections, self.rate * processes / self.fleet, self.held)
        assert self.elsewhere is not None
        greenlets = self.concurrency * processes
        return FiniteSource(connections, greenlets, self.held, self.elsewhere)


@dataclass(frozen=True)
class Server:
    """What the server has room for."""

    max_connections: int
    reserved: int
    others: int
    """Connections of other programs."""
    cores: int | None

    @property
    def room(self) -> int:
        """How many connections the fleet can have."""
        return max(self.max_connections - self.reserved - self.others, 0)


@dataclass(frozen=True)
class Waiting:
    """What a number of connections means for their users. Times in seconds."""

    connections: int
    utilisation: float
    waiting_share: float
    mean: float
    p95: float
    p99: float
    per_second: float

    @classmethod
    def of(cls, queue: Queue) -> Waiting:
        """Read *queue*."""
        return cls(
            connections=queue.servers,
            utilisation=queue.busy / queue.servers,
            waiting_share=queue.waiting_share,
            mean=queue.mean_wait,
            p95=percentile(queue, 0.95),
            p99=percentile(queue, 0.99),
            per_second=queue.throughput,
        )


@dataclass(frozen=True)
class Plan:
    """The answer; see `make`."""

    demand: Demand
    server: Server
    formula: str
    pool: Waiting
    """One process's pool, ``max_size`` being ``connections``."""
    enough: bool
    """Whether the accepted wait is kept; not if the tasks ask for more than can be done."""
    needed: int
    """Connections of the whole fleet."""
    busy: float
    """Of these, how many are at work on average."""
    processes_that_fit: int
    """From the next one on a pooler is due."""
    squeezed: Waiting | None
    """Without a pooler: a process's pool, made small enough to fit. ``None``: there is no room
    for one connection each, or no need."""
    pooler: Waiting | None
    """With a pooler in transaction mode: its server connections, if one is due."""

    @property
    def pooler_is_due(self) -> bool:
        """Whether the fleet asks for more connections than the server has room for."""
        return self.needed > self.server.room

    @property
    def overloads_cores(self) -> bool:
        """Whether more statements run at a time than the server's cores can work on."""
        cores = self.server.cores
        return cores is not None and self.busy > PER_CORE * cores

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for JSON. Times in seconds; ``None`` for what never ends."""
        return {
            **{name: _finite(value) for name, value in asdict(self).items()},
            "room": self.server.room,
            "pooler_is_due": self.pooler_is_due,
            "overloads_cores": self.overloads_cores,
        }


def make(demand: Demand, server: Server) -> Plan:
    """Return the smallest pools with which *demand* keeps the accepted wait, and what follows."""
    size, enough = _smallest(demand, demand.queue, demand.concurrency)
    pool = demand.queue(size)
    needed = size * demand.fleet
    due = needed > server.room
    each = server.room // demand.fleet
    pooler = None
    if due and server.room:
        wanted, _ = _smallest(demand, lambda size: demand.queue(size, demand.fleet), server.room)
        pooler = Waiting.of(demand.queue(wanted, demand.fleet))
    return Plan(
        demand=demand,
        server=server,
        formula="Erlang C (M/M/c)" if demand.rate is not None else "finite source (M/M/c//N)",
        pool=Waiting.of(pool),
        enough=enough,
        needed=needed,
        busy=pool.busy * demand.fleet,
        processes_that_fit=server.room // size,
        squeezed=Waiting.of(demand.queue(each)) if due and each else None,
        pooler=pooler,
    )


def _smallest(demand: Demand, queue: Callable[[int], Queue], most: int) -> tuple[int, bool]:
    """Return the fewest connections, at most *most*, that do, and whether they do."""

    def does(size: int) -> bool:
        return queue(size).waits_longer(demand.accepted_wait) <= 1 - SERVED_IN_TIME

    if not does(most):
        return most, False
    low, high = 0, most  # `low` does not do, `high` does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high, True


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
