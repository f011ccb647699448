"""What is started by ``with`` and closed at its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Started"]


class Started(ABC):
    """A context manager of `start` and `close`; closed also when it could not be started."""

    @abstractmethod
    def start(self) -> None:
        """Start what is not running."""

    @abstractmethod
    def close(self) -> None:
        """End everything. Harmless when repeated."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
