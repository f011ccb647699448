"""pgbench, PostgreSQL's own load generator in C: the limit of server and machine.

``-M prepared -c 20 -j 1`` with the same statement as all peers on the same table, which is
what its built-in ``-S`` does on a table of its own. It has no pool: each client has its own
connection, so there are never more clients than connections.
"""

from __future__ import annotations

import math
import os
import re
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.job import Job, Sample
from benchmarks.registry import find_pgbench
from benchmarks.usage import cpu_seconds
from benchmarks.workload import SELECT_PGBENCH

RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
DONE = re.compile(r"transactions actually processed: (\d+)")


def measure(job: Job) -> Sample:
    program = find_pgbench()
    if program is None:
        raise FileNotFoundError("no pgbench program found")
    address: dict[str, Any] = dict(conninfo_to_dict(job.conninfo))
    password = address.pop("password", None)
    secret = {} if password is None else {"PGPASSWORD": password}  # not for everyone's ps
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "select.sql")
        script.write_text(
            SELECT_PGBENCH if job.cell.autocommit else f"BEGIN;\n{SELECT_PGBENCH}COMMIT;\n"
        )
        before = cpu_seconds(resource.RUSAGE_CHILDREN)
        output = subprocess.run(
            [
                program,
                *("-n", "-M", "prepared", "-j", "1"),
                *("-c", str(min(job.cell.count, job.connections))),
                *("-T", str(math.ceil(job.seconds))),
                *("-f", str(script), make_conninfo(**address)),
            ],
            check=True,
            env={**os.environ, **secret},
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        used = cpu_seconds(resource.RUSAGE_CHILDREN) - before
    rate, done = RATE.search(output), DONE.search(output)
    if rate is None or done is None:
        raise ValueError(f"pgbench said nothing about its rate: {output}")
    return {
        "queries_per_second": float(rate.group(1)),
        "cpu_us_per_query": used / int(done.group(1)) * 1e6,
    }
