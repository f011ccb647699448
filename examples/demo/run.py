"""One way from start to end: worker, tasks, the fault, what is left afterwards."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

from celery import Celery

from .broker import Broker
from .database import Database
from .plan import CAPACITY, STAGES, STALL_BOUND, TIME_LIMIT, WAY_BOUND, Stage
from .progress import Report
from .results import ResultsFile, WayResult
from .worker_process import running_worker
from .worker_settings import WorkerSettings, celery_app

BACKLOG = 300  # tasks on the broker ahead of the worker; a directory is slow with thousands
TICK = 0.02
START_BOUND = 20.0
QUIET_SECONDS = 0.3  # before and after the idle backends are terminated: they must be idle
AFTERMATH_SECONDS = 1.0
PROBE_BOUND = 6.0


class WayStoppedError(Exception):
    """A way did not get through within its bounds."""


def run_way(way: str, database: Database, broker: Broker, logs: Path, report: Report) -> WayResult:
    queue = f"geventpg-demo-{way}-{uuid4().hex[:8]}"
    events = ResultsFile(logs / f"{way}.jsonl")
    result = WayResult(way, events.tasks, capacity=CAPACITY[way])
    settings = WorkerSettings(
        way=way,
        conninfo=database.conninfo_for(way),
        results_file=str(events.path),
        queue=queue,
        broker_url=broker.url,
        broker_options=broker.worker_options,
    )
    with celery_app(settings) as sender:
        sender.conf.broker_transport_options = broker.sender_options
        with (
            database.sampled_backends(way) as backends,
            running_worker(settings, logs / f"{way}.log") as process,
        ):
            _Run(result, database, broker, sender, events, process, report).run()
        _delete_queue(sender, queue)
        result.backends_most = backends.most
    database.terminate_all_backends(way)
    report(way, len(result.tasks), result.failed, "stopped" if result.stopped else "done")
    return result


def _delete_queue(sender: Celery, queue: str) -> None:
    """Leave nothing behind on a broker that is not ours."""
    with sender.connection_for_write() as connection:
        sender.amqp.queues[queue].bind(connection.default_channel).delete()


@dataclass
class _Run:
    result: WayResult
    database: Database
    broker: Broker
    sender: Celery
    events: ResultsFile
    process: subprocess.Popen[bytes]
    report: Report
    activity: str = "starting"
    sent: int = 0
    deadline: float = inf

    def run(self) -> None:
        result = self.result
        self._wait_until_ready()
        self.deadline = monotonic() + WAY_BOUND
        try:
            for stage in STAGES:
                self._run_stage(stage)
        except WayStoppedError as stopped:
            result.stopped = str(stopped)
        self._tell("checking")
        sleep(AFTERMATH_SECONDS)
        result.statements_left = self.database.statements_running(result.way)
        self._probe()

    def _run_stage(self, stage: Stage) -> None:
        if stage.idle_backends_killed_before:
            self._tell("server fault")
            sleep(QUIET_SECONDS)
            self.result.backends_killed += self.database.terminate_idle_backends(self.result.way)
            sleep(QUIET_SECONDS)
        self._tell("time limits" if stage.slow else "running")
        tasks = self.events.tasks
        end = self.sent + stage.count
        stalled_at = monotonic() + STALL_BOUND
        while len(tasks) < end:
            ended = len(tasks)
            self._send_up_to(min(end, ended + BACKLOG), stage)
            self._tick()
            if len(tasks) > ended:
                stalled_at = monotonic() + STALL_BOUND
            elif monotonic() > stalled_at:
                raise WayStoppedError(f"stopped, as no task ended for {STALL_BOUND:.0f} s")
            if monotonic() > self.deadline:
                raise WayStoppedError(f"stopped after {WAY_BOUND:.0f} s")

    def _send_up_to(self, end: int, stage: Stage) -> None:
        name, limit = ("demo.slow", TIME_LIMIT) if stage.slow else ("demo.work", None)
        for number in range(self.sent, end):
            self.sender.send_task(name, args=[number], time_limit=limit)
        self.sent = max(self.sent, end)
        self.broker.deliver()

    def _wait_until_ready(self) -> None:
        deadline = monotonic() + START_BOUND
        while not self.events.ready:
            self._tick()
            if monotonic() > deadline:
                raise RuntimeError(f"the worker was not ready after {START_BOUND:.0f} s")

    def _probe(self) -> None:
        """Ask the worker how many of its connections can be checked out and used."""
        self.sender.send_task("demo.probe")
        self.broker.deliver()
        deadline = monotonic() + PROBE_BOUND
        while self.events.probe is None and monotonic() < deadline:
            self._tick()
        if self.events.probe is not None:
            self.result.usable = self.events.probe["usable"]

    def _tick(self) -> None:
        sleep(TICK)
        self.events.poll()
        self._tell()
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with exit status {self.process.returncode}")

    def _tell(self, activity: str | None = None) -> None:
        self.activity = activity or self.activity
        result = self.result
        self.report(result.way, len(result.tasks), result.failed, self.activity)
