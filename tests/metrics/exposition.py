"""Reading what a process exposes, as Prometheus does."""

from __future__ import annotations

import urllib.request

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample


def expose(collector: Collector) -> str:
    """Return the text that a server with *collector* would answer with."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def scrape(port: int, host: str = "127.0.0.1") -> str:
    """Return what is served at a port."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def samples_of(text: str) -> list[Sample]:
    """Return the samples of geventpg's metrics in an exposition."""
    return [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("geventpg_")
    ]


def value_of(text: str, name: str, **labels: str) -> float:
    """Return the value of the one sample of *name* that has *labels*."""
    (sample,) = [
        sample
        for sample in samples_of(text)
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sample.value
