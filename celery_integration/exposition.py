"""``metrics_port``: each process of a worker serves its pools' metrics to Prometheus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from geventpg.errors import OptionError

from .report import Line
from .settings import Settings

if TYPE_CHECKING:
    from geventpg.metrics.prometheus import MetricsServer

_servers: list[MetricsServer] = []


def check(settings: Settings) -> None:
    """Raise `OptionError` if metrics are to be served and cannot be in this installation."""
    if settings.metrics_port is None:
        return
    try:
        import geventpg.metrics.prometheus  # noqa: F401
    except ImportError:
        raise OptionError("metrics_port needs: pip install 'geventpg[prometheus]'") from None


def start(settings: Settings) -> list[Line]:
    """Serve this process's metrics, if that is asked for; return lines for the log.

    The processes of a prefork worker take the first free ports from ``metrics_port`` on. If all
    ports are taken, the worker works without metrics. Does not block.
    """
    port = settings.metrics_port
    if port is None:
        return []
    from geventpg.metrics.prometheus import serve

    ports = [port] if port == 0 else range(port, min(port + settings.processes, 65536))
    try:
        server = serve(ports, settings.metrics_host)
    except OSError as error:
        return [(logging.ERROR, f"geventpg: no metrics are served at port {port}: {error}")]
    _servers.append(server)
    text = f"geventpg: metrics at http://{server.host}:{server.port}/metrics"
    return [(logging.INFO, text)]


def stop() -> None:
    """Free the port."""
    while _servers:
        _servers.pop().close()
