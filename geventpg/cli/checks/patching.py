"""Whether a program patches the standard library, and before it imports what needs that.

The program's module is imported in an interpreter of its own, which notes what was there when
gevent began to patch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from geventpg.cli.findings import Finding, note, ok, problem, warning

_PROBE = r"""
import json, os, sys
answer = os.dup(1)
os.dup2(2, 1)  # whatever the program prints
import gevent.events, gevent.monkey
name, at_first, seen = sys.argv[1], set(sys.modules), []
def patching(event):
    if isinstance(event, gevent.events.GeventWillPatchModuleEvent) and not seen:
        seen.append(set(sys.modules) - at_first)
gevent.events.subscribers.append(patching)
sys.argv = [name]
sys.path.insert(0, os.getcwd())
import importlib
module = importlib.import_module(name)
celery = sys.modules.get("celery")
apps = celery is not None and any(
    isinstance(value, celery.Celery) for value in list(vars(module).values())
)
os.write(answer, json.dumps({
    "patched": [m for m in ("socket", "select", "threading", "time", "ssl")
                if gevent.monkey.is_module_patched(m)],
    "early": sorted(m for m in (seen[0] if seen else ()) if "." not in m),
    "celery": apps,
}).encode())
"""

BIND_AT_IMPORT = frozenset(
    {
        *("psycopg", "psycopg_pool", "psycopg2", "ssl", "requests", "urllib3", "httpx", "httpcore"),
        *("redis", "kombu", "amqp", "celery", "django", "flask", "sqlalchemy", "boto3", "botocore"),
        *("pymongo", "elasticsearch", "grpc", "threading", "concurrent", "queue"),
    }
)
"""Modules that take functions, classes or locks of the standard library when they are imported.
What they took before patching blocks all greenlets afterwards."""

_NEEDED = ("socket", "threading")


def look_at_program(app: str, timeout: float) -> list[Finding]:
    """Import the module of *app* (``module`` or ``module:name``) apart, and tell what it patches.

    Block for *timeout* seconds at most. The module's code is run.
    """
    module = app.partition(":")[0]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, module],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return [
            problem(
                "app-hangs",
                f"Importing {module} takes more than {timeout:g} s.",
                "Look for a server that it waits for; --timeout allows it longer.",
            )
        ]
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return [
            problem(
                "app-fails",
                f"{module} cannot be imported: {lines[-1] if lines else done.returncode}",
                "Run it from the directory, and with the environment, that the workers have.",
            )
        ]
    return [judge(module, json.loads(done.stdout))]


def judge(module: str, seen: dict[str, Any]) -> Finding:
    """Return the finding for what the import showed."""
    facts = {"patched": seen["patched"], "celery": seen["celery"]}
    if any(name not in seen["patched"] for name in _NEEDED):
        if seen["celery"]:
            return note(
                "patched-by-celery",
                f"{module} does not patch the standard library itself.",
                "celery worker -P gevent does, before it loads the app. Anything else that runs"
                " this module has to call gevent.monkey.patch_all() first.",
                **facts,
            )
        return problem(
            "not-patched",
            f"{module} does not patch the standard library: everything but geventpg's own"
            " connections blocks all greenlets.",
            "Let its first lines be: from gevent import monkey; monkey.patch_all()",
            **facts,
        )
    early = sorted(BIND_AT_IMPORT.intersection(seen["early"]))
    if early:
        # Under celery -P gevent it was all patched before.
        level = warning if seen["celery"] else problem
        return level(
            "patched-too-late",
            f"{module} imports {', '.join(early)} before it patches: what these took from the"
            " standard library blocks all greenlets.",
            "Move gevent.monkey.patch_all() above all other imports.",
            early=early,
            **facts,
        )
    return ok("patched", f"{module} patches the standard library in time", **facts)
