"""Objects per second through an ORM: what `throughput` does, with peers that are frameworks."""

from benchmarks.measures.throughput import measure

__all__ = ["measure"]
