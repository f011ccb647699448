"""Tasks that are run again when the reason for their failure may pass: `retry_policy`.

Celery's ``autoretry_for`` goes by the class of an exception. That is not enough for a lost
connection: whether the task may be repeated depends on whether COMMIT had been sent. So the policy
is an attribute of the task, and the wrapper around the task's body (see `tasks`) applies it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import psycopg

from geventpg import CommitUnknown, ConnectRejected, PoolTimeout, TooManyRequests, is_transient
from geventpg.connection.loss import is_rolled_back

ATTRIBUTE = "geventpg_retry"


def retry_policy(
    *,
    max_retries: int | None = 5,
    backoff: float = 1.0,
    backoff_max: float = 60.0,
    idempotent: bool = False,
) -> dict[str, Any]:
    """Return task options: ``@app.task(**retry_policy())``, or ``task_annotations`` for many.

    Celery retries the task when `geventpg.is_transient` says that its failure may pass, and when it
    got no connection in time. Its work was rolled back before. The policy works with every kind of
    task and pool, and beside ``autoretry_for``; `install` has to be in effect.

    *max_retries* is Celery's (``None``: no limit). A pause is random between 0 and a bound, which
    is *backoff* seconds at first, doubles after each retry, and is *backoff_max* at most.

    A task is not retried if it may be committed already: after `CommitUnknown`, and after a
    connection was lost in autocommit mode. *idempotent* says that doing it twice is harmless.
    To be sure more often, a task with a policy looks up the outcome of a COMMIT that got no answer,
    as `geventpg.transaction` does; that costs a round trip before COMMIT. Raise ``ValueError``
    for impossible values.
    """
    if max_retries is not None and max_retries < 0:
        raise ValueError(f"max_retries must not be negative, not {max_retries}")
    if not 0 <= backoff <= backoff_max:
        raise ValueError(f"backoff must be between 0 and backoff_max, not {backoff:g}")
    return {
        ATTRIBUTE: RetryPolicy(backoff, backoff_max, idempotent),
        "max_retries": max_retries,
        # Also if the task has an autoretry_for that includes it.
        "dont_autoretry_for": () if idempotent else (CommitUnknown,),
    }


@dataclass(frozen=True)
class RetryPolicy:
    """The errors after which a task is run again, and the pauses before that."""

    backoff: float
    backoff_max: float
    idempotent: bool

    def covers(self, error: psycopg.Error) -> bool:
        """Tell whether a task that failed with *error* may be run again."""
        if isinstance(error, CommitUnknown) or is_rolled_back(error) is False:
            return self.idempotent
        if isinstance(error, (PoolTimeout, TooManyRequests)):
            return not isinstance(error, ConnectRejected)
        return is_transient(error)

    def run(self, task: Any, body: Callable[[], Any]) -> Any:
        """Return the result of *body*. Raise Celery's ``Retry`` for an error that is covered."""
        try:
            return body()
        except psycopg.Error as error:
            if not self.covers(error):
                raise
            self._retry(task, error)

    def _retry(self, task: Any, error: psycopg.Error) -> NoReturn:
        longest = min(self.backoff * 2.0 ** min(task.request.retries, 64), self.backoff_max)
        # This raises: after the last retry the error itself, before that Celery's `Retry`.
        raise task.retry(exc=error, countdown=random.uniform(0.0, longest))
