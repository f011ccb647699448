"""Interleaved rounds: in every round every cell is measured with every peer, one after the other.

The machine's mood (neighbours, temperature, cache) then falls on all peers alike, and a ratio
compares samples that were taken seconds apart. The order rotates, so that no peer is always first.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.job import Cell, Job, Sample
from benchmarks.registry import PEERS

PATIENCE = 90.0
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*: ")

Samples = dict[tuple[Cell, str], dict[int, Sample]]  # by round


class SampleError(Exception):
    """A worker process gave no sample; the text is its last word."""


@dataclass
class Outcome:
    samples: Samples = field(default_factory=lambda: defaultdict(dict))
    failures: dict[tuple[Cell, str], str] = field(default_factory=dict)


def take_sample(job: Job) -> Sample:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.worker"],
            check=False,
            input=job.to_json(),
            capture_output=True,
            text=True,
            timeout=PATIENCE + job.seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise SampleError(f"no answer within {error.timeout:.0f} s") from None
    if done.returncode:
        raise SampleError(last_word(done.stderr) or f"exit status {done.returncode}")
    sample: Sample = json.loads(done.stdout)
    return sample


def last_word(stderr: str) -> str:
    """The line that names the exception; gevent prints more after it."""
    lines = stderr.strip().splitlines()
    named = [line for line in lines if EXCEPTION.match(line)]
    return (named or lines or [""])[-1]


def schedule(
    rounds: int, cells: Sequence[Cell], peers: Sequence[str]
) -> Iterator[tuple[int, Cell, str]]:
    for number in range(rounds):
        for position, cell in enumerate(cells):
            taking_part = [name for name in peers if cell.measure in PEERS[name].measures]
            first = (number + position) % max(len(taking_part), 1)
            for name in taking_part[first:] + taking_part[:first]:
                yield number, cell, name


def run_rounds(
    rounds: int,
    cells: Sequence[Cell],
    peers: Sequence[str],
    *,
    conninfo: str,
    seconds: float,
    connections: int,
    progress: Callable[[int, Cell, str], None],
) -> Outcome:
    """A peer that fails at a cell is not asked for it again; the others go on."""
    outcome = Outcome()
    for number, cell, peer in schedule(rounds, cells, peers):
        if (cell, peer) in outcome.failures:
            continue
        progress(number, cell, peer)
        try:
            sample = take_sample(Job(peer, cell, conninfo, seconds, connections))
        except SampleError as error:
            outcome.failures[cell, peer] = str(error)
        else:
            outcome.samples[cell, peer][number] = sample
    return outcome
