"""A connection's state follows from where the bag has it, and only the bag moves it."""

from __future__ import annotations

from typing import Any

import pytest

from geventpg.pool.slots import Bag, Slot, SlotState

IDLE, IN_USE, RETURNING = SlotState.IDLE, SlotState.IN_USE, SlotState.RETURNING
CHECKING, CLOSED = SlotState.CHECKING, SlotState.CLOSED

WAYS: dict[SlotState, list[str]] = {
    CHECKING: [],
    IDLE: ["rest"],
    IN_USE: ["rest", "use"],
    RETURNING: ["rest", "use", "clean"],
    CLOSED: ["remove"],
}
"""How a connection that was just opened gets into each state."""

ALLOWED = {
    "use": {IDLE: IN_USE},
    "reserve": {IDLE: CHECKING},
    "clean": {IN_USE: RETURNING},
    "hand_on": {IN_USE: IN_USE, RETURNING: IN_USE, CHECKING: IN_USE},
    "rest": {IN_USE: IDLE, RETURNING: IDLE, CHECKING: IDLE},
    "remove": dict.fromkeys((IDLE, IN_USE, RETURNING, CHECKING), CLOSED),
}


def slot_in(state: SlotState) -> tuple[Bag, Slot]:
    bag, conn = Bag(), object()
    bag.connecting = 1
    any_bag: Any = bag
    slot = any_bag.add(conn, 0.0, 1.0)
    for way in WAYS[state]:
        getattr(bag, way)(slot)
    assert slot.state is state
    return bag, slot


def places(bag: Bag) -> tuple[int, int]:
    return len(bag.idle), len(bag.out)


@pytest.mark.parametrize("state", SlotState)
@pytest.mark.parametrize("move", ALLOWED)
def test_a_move_is_made_from_the_right_states_and_refused_from_others(move, state):
    bag, slot = slot_in(state)
    before = places(bag)
    target = ALLOWED[move].get(state)
    if target is None:
        with pytest.raises(AssertionError, match="a connection cannot go from"):
            getattr(bag, move)(slot)
        assert (slot.state, places(bag)) == (state, before)
    else:
        getattr(bag, move)(slot)
        assert slot.state is target
        assert places(bag) == {IDLE: (1, 0), CLOSED: (0, 0)}.get(target, (0, 1))


def test_the_state_cannot_be_set():
    _, slot = slot_in(IDLE)
    with pytest.raises(AttributeError):
        slot.state = IN_USE  # type: ignore[misc]


def test_what_checkouts_and_returns_do_without_a_call_changes_the_state_too():
    bag, slot = slot_in(IDLE)
    assert bag.idle.pop() is slot
    bag.out[slot.conn] = slot
    assert (slot.state, bag.in_use) == (IN_USE, 1)
    del bag.out[slot.conn]
    bag.idle.append(slot)
    assert (slot.state, bag.in_use) == (IDLE, 0)
