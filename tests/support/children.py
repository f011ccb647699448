"""Forked children and gevent's hub, in scripts that fork."""

from __future__ import annotations

import gevent


def watch_children() -> None:
    """Have the hub hear of every child's end; what forks and waits under gevent calls it first.

    gevent handles SIGCHLD from when it watches its first child, which is after the fork: a child
    that had ended by then is waited for forever (seen with gevent 26.9.0, without geventpg too).
    """
    gevent.get_hub().loop.install_sigchld()
