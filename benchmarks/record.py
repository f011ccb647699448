"""A run as JSON, for the chart and for comparing with the next run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal
from benchmarks.registry import PEERS
from benchmarks.rounds import Outcome
from benchmarks.summary import Result


def as_record(
    *,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    results: Sequence[Result],
    outcome: Outcome,
    absent: Mapping[str, str],
    promised: Sequence[Goal],
) -> dict[str, Any]:
    return {
        "facts": dict(facts),
        "settings": dict(settings),
        "results": [asdict(result) for result in results],
        "goals": [{**asdict(goal), "met": goal.met} for goal in promised],
        "absent": {PEERS[name].label: reason for name, reason in absent.items()},
        "failures": [
            {"cell": asdict(cell), "peer": peer, "reason": reason}
            for (cell, peer), reason in outcome.failures.items()
        ],
    }


def write(record: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
