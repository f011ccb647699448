"""A unit of work, such as a Celery task, which commits what its greenlet holds.

`held` has the table of all that may commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType

from .held import HeldConnection, current_holdings


class Scope:
    """A block that is one unit of work, such as a task, and commits or rolls back as a whole.

    If the block ends normally, the scope commits the connections that `get_conn` bound inside it;
    otherwise it rolls them back. In both cases it gives them back. Connections that were bound
    before the block belong to the code around it, and a scope inside a scope leaves everything to
    the outer one.

    :param adopt: the greenlet does nothing but this unit of work, so the scope commits and gives
        back everything that the greenlet holds.
    :param deadline: when the unit has to be over (``time.monotonic``), if no scope around it has an
        earlier deadline. The scope does not end the block; `remaining_time` tells of the deadline.
    :param commit: is called with the connections to be committed, in place of the scope's own way.
    """

    def __init__(
        self,
        *,
        adopt: bool = False,
        deadline: float | None = None,
        commit: Callable[[list[HeldConnection]], None] | None = None,
    ) -> None:
        self._holdings = current_holdings()
        self._adopt = adopt
        self._deadline = deadline
        self._commit = commit or _commit_all
        self._outer_deadline: float | None = None
        self._foreign = frozenset() if adopt else frozenset(self._holdings.by_name)

    @property
    def joins(self) -> bool:
        """Whether code around the scope ends a part of its work; to be asked before the block."""
        return not self._adopt and bool(self._holdings.scopes or self._foreign)

    def __enter__(self) -> None:
        holdings = self._holdings
        holdings.scopes += 1
        self._outer_deadline = holdings.deadline
        if self._deadline is not None:
            holdings.deadline = min(self._deadline, holdings.deadline or self._deadline)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._holdings.scopes -= 1
        self._holdings.deadline = self._outer_deadline
        if self._holdings.scopes and not self._adopt:
            return
        mine = [
            *self._holdings.units,
            *(
                held
                for name, held in self._holdings.by_name.items()
                if held.owner is None and name not in self._foreign
            ),
        ]
        try:
            if exc is None:
                self._commit(mine)
            else:
                _end_units(mine, exc)
        except BaseException as error:
            _end_units([held for held in mine if held.in_unit], error)
            raise
        finally:
            # After a failed commit the pools roll back the connections that come after it.
            for held in mine:
                if held.owner is None or not held.wanted:
                    held.give_back()


def _end_units(helds: Sequence[HeldConnection], failure: BaseException | None) -> None:
    for position, held in enumerate(helds):
        try:
            held.end_unit(failure)
        except BaseException as error:
            # The other connections are rolled back when they are given back.
            _end_units([h for h in helds[position + 1 :] if h.in_unit], failure or error)
            raise


def _commit_all(mine: list[HeldConnection]) -> None:
    for held in mine:
        held.end_unit(None)


def remaining_time() -> float | None:
    """Return the seconds that this greenlet's unit of work has left, ``None``: no limit."""
    deadline = current_holdings().deadline
    return None if deadline is None else max(deadline - monotonic(), 0.0)
