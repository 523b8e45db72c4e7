"""The daemon process: supervisor, monitor and signals put together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

from dm.qmp.address import Address
from dm.qmp.control import ShutdownCause
from dm.qmp.protocol import VersionInfo
from dm.qmp.server import Limits, QmpServer
from dm.server import signals
from dm.server.admission import draw_names
from dm.server.daemon.monitor import DaemonMonitor
from dm.server.daemon.supervisor import Settings, Supervisor
from dm.version import VERSION

_log = logging.getLogger(__name__)


async def serve(settings: Settings, qmp: Sequence[Address], ready: Callable[[], None]) -> None:
    """Run the daemon until SIGTERM, SIGINT, SIGQUIT or QMP ``quit``; ``ready`` is called once all sockets are bound.

    SIGHUP reopens the log file, and ends a daemon that has none.

    Raises:
        OSError: a socket cannot be bound; the text says which.
        ValueError: the system allows too few descriptors.
    """
    os.umask(0o077)  # only we may access what we create
    signals.reset()
    draw_names()
    monitor = DaemonMonitor()
    supervisor = Supervisor(settings, monitor)
    monitor.attach(supervisor)
    server = QmpServer(monitor, VersionInfo.parse(VERSION), limits=Limits(clients=supervisor.shares.qmp))

    def end() -> None:
        monitor.shut_down(ShutdownCause.HOST_SIGNAL)

    hang_up = supervisor.reopen_log if settings.log_file else end
    signals.install(asyncio.get_running_loop(), end, hang_up, lambda name: _log.info("%s is ignored", name))
    try:
        try:
            supervisor.bind()
            for address in qmp:
                await server.listen(address)
        except OSError:
            supervisor.close()
            raise
        ready()
        await supervisor.run()
    finally:
        await server.close()
