"""One sample in a process of its own: a job as JSON on stdin, the sample as JSON on stdout.

gevent's monkey patching, psycogreen and uvloop exclude each other, and what one sample leaves
behind (connections, caches, a grown heap) is no business of the next: hence a process each.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import cast

from benchmarks.job import Job, Sample
from benchmarks.registry import PEERS


def run(job: Job) -> Sample:
    peer = PEERS[job.peer]
    if not peer.gevent:
        return cast(Sample, importlib.import_module(peer.module).measure(job))
    from gevent import monkey

    monkey.patch_all()  # before the peer's driver is imported, as gevent's documentation demands
    driver = importlib.import_module(peer.module).Driver()
    measure = importlib.import_module(f"benchmarks.measures.{job.cell.measure}").measure
    try:
        return cast(Sample, measure(driver, job))
    finally:
        driver.close()


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints, the answer stays readable
    sample = run(Job.from_json(sys.stdin.read()))
    os.write(answer, json.dumps(sample).encode())


if __name__ == "__main__":
    main()
