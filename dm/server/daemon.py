"""The daemon process: supervisor, monitor and signals put together."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from dm.qmp.address import Address
from dm.qmp.control import ShutdownCause
from dm.qmp.protocol import VersionInfo
from dm.qmp.server import QmpServer
from dm.server.monitor import Monitor
from dm.server.supervisor import Settings, Supervisor
from dm.version import VERSION


async def serve(settings: Settings, qmp: Sequence[Address], ready: Callable[[], None]) -> None:
    """Run the daemon until SIGTERM, SIGINT or QMP ``quit``; ``ready`` is called once all sockets are bound.

    Raises:
        OSError: a socket cannot be bound; the text says which.
    """
    os.umask(0o077)  # whatever is created is ours alone
    monitor = Monitor()
    supervisor = Supervisor(settings, monitor)
    monitor.attach(supervisor)
    server = QmpServer(monitor, VersionInfo.parse(VERSION))
    try:
        try:
            supervisor.bind()
            for address in qmp:
                await server.listen(address)
        except OSError:
            supervisor.close()
            raise
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, monitor.shut_down, ShutdownCause.HOST_SIGNAL)
        ready()
        await supervisor.run()
    finally:
        await server.close()
