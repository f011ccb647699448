"""What `doctor` finds: values only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Level(enum.Enum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing has to be done."""
    WARNING = "warning"
    """It works, and will hurt some day."""
    PROBLEM = "problem"
    """It does not work, or loses or blocks something."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    code: str
    """A stable name, for scripts."""
    level: Level
    found: str
    """What is so. Never has a secret."""
    advice: str = ""
    """What to do about it; empty if nothing has to be done."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for programs."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "code": self.code,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice,
            "facts": self.facts,
        }


def ok(code: str, found: str, **facts: Any) -> Finding:
    """Return a finding that needs nothing done."""
    return Finding(code, Level.OK, found, "", facts)


def note(code: str, found: str, advice: str = "", **facts: Any) -> Finding:
    """Return something worth knowing."""
    return Finding(code, Level.NOTE, found, advice, facts)


def warning(code: str, found: str, advice: str, **facts: Any) -> Finding:
    """Return what will hurt some day."""
    return Finding(code, Level.WARNING, found, advice, facts)


def problem(code: str, found: str, advice: str, **facts: Any) -> Finding:
    """Return what does not work."""
    return Finding(code, Level.PROBLEM, found, advice, facts)
