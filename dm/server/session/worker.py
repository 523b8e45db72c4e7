"""The worker: one process per session, started by exec, so that one VM can neither read nor slow another.

Its main thread serves the line to the supervisor (:mod:`dm.server.worker_line`): the shim's control requests about
RAM, maps and vCPUs, and the supervisor's own.  Each vCPU has a thread (:mod:`dm.server.vcpu.thread`).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dm.engine.api import CpuConfig, Engine
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass
from dm.server import log, logfile, signals, worker_line
from dm.server.admission import draw_names
from dm.server.limits import SessionLimits
from dm.server.memory import guard
from dm.server.run_table import RunTable
from dm.server.session.session import WorkerSession
from dm.server.vcpu import exchange

_log = logging.getLogger(__name__)

#: Counters go to the supervisor this often while they change, in milliseconds.
_REPORT_MS: Final = 200


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine: its name, why this one, and what makes one."""

    name: str
    why: str
    create: Callable[[CpuConfig], Engine]


def find_engine(name: str) -> EngineChoice:
    """Return the engine of that name: ``native``, ``python``, ``auto`` for the one in use, or ``module:function``.

    Raises:
        ImportError: there is no such module or function.
        RuntimeError: it, or with ``native`` the exchange in C, cannot be used; the text says why.
    """
    module, colon, function = name.partition(":")
    if colon:
        factory = getattr(importlib.import_module(module), function, None)
        if factory is None:
            raise ImportError(f"module {module} has no {function}")
        return EngineChoice(name, "given as module:function", factory)
    import dm.engine

    why = "asked for"
    if name == "auto":
        name, why = dm.engine.engine_in_use()
        usable, why_not = exchange.status()
        if name == "native" and not usable:
            why = f"{why}; exchanges are made in Python: {why_not}"
    elif name == "native":
        for usable, why_not in (dm.engine.native_status(), exchange.status()):
            if not usable:
                raise RuntimeError(why_not)
    return EngineChoice(name, why, lambda config: dm.engine.create(name, config))


def _answer(session: WorkerSession, datagram: worker_line.Datagram) -> bytes:
    """Return the encoded answer to a shim's request."""
    try:
        message = codec.decode(datagram.body, schema.MAX_CONTROL)
        try:
            return codec.encode(session.handle(message, datagram.fd))
        except ProtocolError as error:
            return codec.encode(error.message(seq=message.seq, session=session.number))  # type: ignore[attr-defined]
        except Exception as error:
            _log.exception("%s failed", message.NAME)
            refusal = ProtocolError(ErrorClass.INTERNAL, f"{message.NAME} failed: {type(error).__name__}: {error}")
            return codec.encode(refusal.message(seq=message.seq, session=session.number))  # type: ignore[attr-defined]
    except ProtocolError as error:
        return codec.encode(error.message(session=session.number))
    finally:
        if datagram.fd >= 0:
            os.close(datagram.fd)


def serve(session: WorkerSession, line: socket.socket) -> None:
    """Serve the supervisor until it says ``close`` or ``abort``, or is gone (then in order, as if it had closed).

    Raises:
        LineError: the supervisor asks for an unknown operation.
    """
    reported: list[list[Any]] = []
    memory_lost = False
    due = time.monotonic()
    poller = select.poll()
    poller.register(line, select.POLLIN)
    while True:
        ready = poller.poll(_REPORT_MS)
        if time.monotonic() >= due:
            due = time.monotonic() + _REPORT_MS / 1000
            now = session.counters()
            if now != reported:
                worker_line.send(line, "counters", 0, now)
                reported = now
            if guard.lost() and not memory_lost:
                worker_line.send(line, "memory-lost", 0, codec.clip(guard.lost(), 512))
                memory_lost = True
        if not ready:
            continue
        datagram = worker_line.receive(line)
        if datagram is None:
            _log.warning("the supervisor is gone; ending in order")
            session.end(orderly=True)
            return
        match datagram.operation:
            case "message":
                worker_line.send(line, "reply", datagram.tag, _answer(session, datagram))
            case "pause":
                worker_line.send(line, "paused", datagram.tag, session.pause(datagram.body))
            case "log":
                logfile.use(datagram.fd)
            case "close" | "abort":
                session.end(orderly=datagram.operation == "close")
                return
            case operation:
                if datagram.fd >= 0:
                    os.close(datagram.fd)
                raise worker_line.LineError(f"there is no operation {operation!r:.40}")


def main(argv: list[str] | None = None) -> int:
    """Run a worker; returns its exit status."""
    parser = argparse.ArgumentParser(prog="x86-dm worker", description="Serves one session; started by the daemon.")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the line to the supervisor")
    parser.add_argument("--session", type=int, required=True, help="session number")
    parser.add_argument("--features", default="", help="features that shim and daemon share, with commas")
    parser.add_argument("--engine", required=True, help="engine, or module:factory")
    parser.add_argument("--log-level", default="warning")
    args = parser.parse_args(argv)
    log.set_up(args.log_level, f"session {args.session}: ")
    signals.leave_to_supervisor()
    draw_names()
    os.umask(0o077)
    guard.install()
    # A thread that runs Python would otherwise hold the GIL 5 ms and turn a round trip of 60 us into that.
    sys.setswitchinterval(50e-6)
    with socket.socket(fileno=args.fd) as line:
        try:
            engine = find_engine(args.engine)
            probe = engine.create(CpuConfig())  # loads what it needs before the shim is welcomed
            name = probe.name
            probe.close()
        except Exception as error:
            worker_line.send(line, "failed", 0, codec.clip(f"engine {args.engine}: {error}", 512))
            return 1
        task = worker_line.receive(line)
        if task is None:
            return 1
        if task.operation != "begin":
            _log.error("the supervisor began with %r", task.operation)
            return 1
        log.set_up(args.log_level, f"{task.body['name']}: ")
        features = args.features.split(",")
        runs, limits = RunTable(task.fd), SessionLimits(**task.body["limits"])
        endpoints, secret = task.body["endpoints"], task.body["secret"]
        session = WorkerSession(args.session, endpoints, engine.create, runs, features, secret, limits)
        try:
            worker_line.send(line, "ready", 0, [codec.clip(name, 64), codec.clip(engine.why, 512)])
            serve(session, line)
        except (BrokenPipeError, ConnectionResetError):
            _log.warning("the supervisor is gone; ending in order")
            session.end(orderly=True)
            return 1
        except worker_line.LineError as error:
            _log.error("the supervisor said what none says: %s; ending in order", error)
            session.end(orderly=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
