"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plan import MEASURES, THROUGHPUT
from benchmarks.registry import PEERS

LATEST = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: float
    connections: int
    short: bool
    only: tuple[str, ...]
    peers: tuple[str, ...]
    modes: tuple[str, ...]
    greenlets: tuple[int, ...] | None
    dsn: str | None
    json: Path
    chart: Path | None


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="geventpg against its peers, in interleaved rounds on this machine.",
    )
    parser.add_argument("--rounds", type=_positive_int, help="rounds per figure (5; short: 2)")
    parser.add_argument("--seconds", type=_positive, help="clock time per sample (1; short: 0.5)")
    parser.add_argument("--short", action="store_true", help="few points, short samples: a look")
    parser.add_argument(
        "--only", type=_names(MEASURES), default=tuple(MEASURES), metavar="MEASURE,...",
        help=f"of {', '.join(MEASURES)}",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=_names(PEERS), default=tuple(PEERS), metavar="PEER,...",
        help=f"of {', '.join(PEERS)}",
    )  # fmt: skip
    parser.add_argument(
        "--modes", type=_names(THROUGHPUT.modes), default=THROUGHPUT.modes, metavar="MODE,...",
        help=f"of throughput: {', '.join(THROUGHPUT.modes)}",
    )  # fmt: skip
    parser.add_argument(
        "--greenlets", type=_counts, metavar="N,...", help="of throughput (1,20,100,1000)"
    )
    parser.add_argument("--connections", type=_positive_int, default=20, help="in each pool (20)")
    parser.add_argument("--dsn", help="a server to use instead of the embedded PostgreSQL")
    parser.add_argument("--json", type=Path, default=LATEST, metavar="FILE", help="the results")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="a chart (.svg or .png)")
    given = parser.parse_args(arguments)
    return Options(
        rounds=given.rounds or (2 if given.short else 5),
        seconds=given.seconds or (0.5 if given.short else 1.0),
        connections=given.connections,
        short=given.short,
        only=given.only,
        peers=given.peers,
        modes=given.modes,
        greenlets=given.greenlets,
        dsn=given.dsn,
        json=given.json,
        chart=given.chart,
    )


def _positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive_int(part) for part in text.split(","))


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    order = tuple(known)

    def names(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        for name in asked:
            if name not in order:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(order)}")
        return tuple(name for name in order if name in asked)

    return names
