"""Two readings of a running loop, made into rates."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.job import Sample

RAMP_UP = 0.3
ENOUGH = 10  # queries per greenlet, for a word on how they are shared out


@dataclass(frozen=True)
class Reading:
    clock: float
    cpu: float
    counts: tuple[int, ...]  # queries done, by greenlet


def rates(before: Reading, after: Reading) -> Sample:
    done = [now - then for then, now in zip(before.counts, after.counts, strict=True)]
    total = sum(done)
    if not total:
        raise RuntimeError("not one query finished while the clock ran")
    sample = {
        "queries_per_second": total / (after.clock - before.clock),
        "cpu_us_per_query": (after.cpu - before.cpu) / total * 1e6,
    }
    if total >= ENOUGH * len(done):
        sample["least_served"] = min(done) * len(done) / total
    return sample
