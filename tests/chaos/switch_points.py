"""Throw an exception into a greenlet at its n-th switch point, for n = 1, 2, 3 ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gevent
import greenlet

Moment = Literal["as it leaves", "as it is woken"]
MOMENTS: tuple[Moment, ...] = ("as it leaves", "as it is woken")

EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "a time-out": gevent.Timeout,
    "a kill": gevent.GreenletExit,
    "ctrl-c": KeyboardInterrupt,
}


class ThrowAtSwitch:
    """Throw exceptions into the victims, at their switch points of these numbers.

    ``"as it leaves"`` kills one right after it has switched to the hub, before anything else could
    happen. ``"as it is woken"`` replaces its next wake-up by the exception: what it waited for is
    there, was perhaps handed over to it, and it never sees it.

    :param is_victim: tells whose switches count.
    :param errors: what to throw, by the number of the switch point; the first is 1.
    """

    def __init__(
        self,
        is_victim: Callable[[Any], bool],
        errors: Mapping[int, BaseException],
        moment: Moment,
    ) -> None:
        self._is_victim = is_victim
        self._errors = errors
        self._leaving = moment == "as it leaves"
        self._has_left: set[Any] = set()
        self._sentenced: Any = None
        self._sentence: BaseException | None = None
        self.points = 0
        self.delivered: list[BaseException] = []

    def __enter__(self) -> ThrowAtSwitch:
        self._previous = greenlet.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        greenlet.settrace(self._previous)

    def _trace(self, event: str, args: tuple[Any, Any]) -> None:
        origin, target = args
        if self._leaving:
            if self._sentence is not None and event == "throw" and target is self._sentenced:
                self.delivered.append(self._sentence)
                self._sentence = None
            elif self._is_victim(origin) and not origin.dead:
                self.points += 1
                if self.points in self._errors:
                    self._sentenced, self._sentence = origin, self._errors[self.points]
                    origin.kill(self._sentence, block=False)
            return
        if self._is_victim(origin):
            self._has_left.add(origin)
        if event == "switch" and target in self._has_left:  # not its start: it is woken
            self.points += 1
            if self.points in self._errors:
                error = self._errors[self.points]
                self.delivered.append(error)
                # It comes out of the switch, and ends the tracing, which must go on.
                gevent.get_hub().loop.run_callback(greenlet.settrace, self._trace)
                raise error


def engine_greenlets_running(*names: str) -> Callable[[Any], bool]:
    """Return a predicate for greenlets of the engine whose function has one of *names*."""

    def is_one(thing: Any) -> bool:
        function = getattr(thing, "_run", None)
        return (
            str(getattr(function, "__module__", "")).startswith("geventpg")
            and getattr(function, "__name__", "") in names
        )

    return is_one
