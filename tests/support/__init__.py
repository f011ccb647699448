"""What tests share: waiting for events, servers, workers, invariants, the hang guard."""

from tests.support.waiting import wait_until

__all__ = ["wait_until"]
