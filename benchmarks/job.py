"""What the parent process asks of a worker process, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

Sample = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One point of one measure; what ``count`` counts is the measure's business."""

    measure: str
    count: int
    mode: str = "autocommit"

    @property
    def autocommit(self) -> bool:
        return self.mode == "autocommit"


@dataclass(frozen=True)
class Job:
    peer: str
    cell: Cell
    conninfo: str
    seconds: float
    connections: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "cell": Cell(**fields["cell"])})
