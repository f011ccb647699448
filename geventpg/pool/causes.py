"""Why connections leave a pool: one closed list, for log lines, statistics and metrics."""

from __future__ import annotations

import enum


class Cause(enum.Enum):
    """Why a connection left its pool; the value is what statistics and metrics call it.

    A connection is evicted when it is of no more use, and retired when its end was planned.
    """

    CHECK_FAILED = "check_failed"
    CLOSED_BY_SERVER = "closed_by_server"
    PROBE_FAILED = "probe_failed"
    BROKEN = "broken"
    UNCLEAN = "unclean"

    EXPIRED = "expired"
    UNUSED = "unused"
    SHRUNK = "shrunk"
    DRAINED = "drained"
    READ_ONLY_SERVER = "read_only_server"
    CLOSED_BY_USER = "closed_by_user"
    DETACHED = "detached"
    POOL_CLOSED = "pool_closed"

    @property
    def is_planned(self) -> bool:
        """Tell whether it counts as retired, and not as evicted."""
        return self not in EVICTIONS

    @property
    def text(self) -> str:
        """Say it in words, for a log line."""
        return _TEXTS[self]


EVICTIONS = (
    Cause.CHECK_FAILED,
    Cause.CLOSED_BY_SERVER,
    Cause.PROBE_FAILED,
    Cause.BROKEN,
    Cause.UNCLEAN,
)

RETIREMENTS = tuple(cause for cause in Cause if cause not in EVICTIONS)

_TEXTS = {
    Cause.CHECK_FAILED: "it failed its check",
    Cause.CLOSED_BY_SERVER: "the server closed it",
    Cause.PROBE_FAILED: "it did not answer a probe",
    Cause.BROKEN: "it was lost while it was in use",
    Cause.UNCLEAN: "its cleaning, or a probe, was interrupted",
    Cause.EXPIRED: "it is older than max_lifetime",
    Cause.UNUSED: "it was not needed for max_idle",
    Cause.SHRUNK: "the pool is over its max_size",
    Cause.DRAINED: "the pool is drained",
    Cause.READ_ONLY_SERVER: "its server takes no more writes",
    Cause.CLOSED_BY_USER: "its user closed it",
    Cause.DETACHED: "it was detached",
    Cause.POOL_CLOSED: "the pool is closed",
}
