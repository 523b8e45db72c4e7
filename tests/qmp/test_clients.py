"""The stock clients against the server: qemu.qmp's QMPClient, legacy client and qmp-shell."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient, Runstate
from qemu.qmp.legacy import QEMUMonitorProtocol

from dm.qmp.commands import SCHEMA
from dm.qmp.control import VcpuLost

TIMEOUT = 100


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, TIMEOUT))


async def connect(address: str | tuple[str, int]) -> QMPClient:
    client = QMPClient("test")
    await client.connect(address)
    return client


@pytest.fixture(params=["unix", "tcp"])
def address(request: Any, daemon: Any) -> str | tuple[str, int]:
    if request.param == "unix":
        return str(daemon.address.path)
    tcp = daemon.tcp()
    return tcp.host, tcp.port


def test_client_runs_every_command(address: Any) -> None:
    async def work() -> None:
        client = await connect(address)
        try:
            assert client.greeting is not None
            assert client.greeting.QMP.version["package"] == "x86-dm 1.2.3"
            names = [entry["name"] for entry in await client.execute("query-commands")]  # type: ignore[attr-defined]
            assert set(names) == set(SCHEMA.commands)
            for name in names:
                if name not in ("qmp_capabilities", "quit", "query-qmp-schema"):
                    await client.execute(name)
            assert await client.execute("query-qmp-schema") == SCHEMA.introspect()
            assert await client.execute("quit") == {}
        finally:
            await client.disconnect()

    run(work())


def test_client_sees_errors(address: Any) -> None:
    async def work() -> None:
        client = await connect(address)
        try:
            with pytest.raises(ExecuteError) as caught:
                await client.execute("frobnicate")
            assert caught.value.error.error.class_ == "CommandNotFound"
            with pytest.raises(ExecuteError) as caught:
                await client.execute("stop", {"now": True})
            assert caught.value.error.error.desc == "Parameter 'now' is unexpected"
            assert await client.execute("query-status") == {"running": True, "status": "running"}
        finally:
            await client.disconnect()

    run(work())


def test_client_pipelines(address: Any) -> None:
    """Many coroutines on one connection, each with its own answer."""

    async def work() -> None:
        client = await connect(address)
        try:
            answers = await asyncio.gather(*(client.execute("query-status") for _ in range(100)))
            assert answers == [{"running": True, "status": "running"}] * 100
        finally:
            await client.disconnect()

    run(work())


def test_client_sees_events(daemon: Any, address: Any) -> None:
    async def work() -> None:
        clients = [await connect(address) for _ in range(2)]
        try:
            await clients[0].execute("stop")
            for client in clients:
                assert (await client.events.get())["event"] == "STOP"
            await asyncio.to_thread(daemon.emit, VcpuLost("1", 0, "gone"))
            for client in clients:
                event = await client.events.get()
                assert (event["event"], event["data"]) == (
                    "X86_DM_VCPU_LOST",
                    {"session": "1", "vcpu": 0, "reason": "gone"},
                )
        finally:
            for client in clients:
                await client.disconnect()

    run(work())


def test_client_goes_out_of_band(daemon: Any, address: Any) -> None:
    """It negotiates ``oob`` since the server offers it; a stuck stop does not keep it from looking."""

    async def work() -> None:
        client = await connect(address)
        try:
            daemon.do(daemon.control.may_stop.clear)
            stopping = asyncio.create_task(client.execute("stop"))
            answer: Any = await client.execute("query-x86-dm", oob=True)
            assert [session["id"] for session in answer["sessions"]] == ["1", "2"]
            assert not stopping.done()
            daemon.do(daemon.control.may_stop.set)
            assert await stopping == {}
        finally:
            await client.disconnect()

    run(work())


def test_client_sees_the_end(daemon: Any) -> None:
    async def work() -> None:
        client = await connect(str(daemon.address.path))
        await client.execute("quit")
        await asyncio.to_thread(daemon.run, daemon.server.close())
        if client.runstate is Runstate.RUNNING:
            await client.runstate_changed()
        with pytest.raises(EOFError):
            await client.disconnect()

    run(work())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop of this thread, which the synchronous client takes and would leave open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.usefixtures("loop")
def test_legacy_client(daemon: Any) -> None:
    """The synchronous client that QEMU's own tests use."""
    with QEMUMonitorProtocol(str(daemon.address.path)) as client:
        greeting = client.connect()
        assert greeting is not None
        assert greeting["QMP"]["version"]["qemu"] == {"major": 1, "minor": 2, "micro": 3}
        assert client.cmd("query-status") == {"running": True, "status": "running"}
        assert client.cmd("stop") == {}
        event = client.pull_event(wait=100)
        assert event is not None
        assert event["event"] == "STOP"


def shell(target: str, home: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run stock qmp-shell with ``script`` as its input."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("qmp-shell")), *options, target],
        input=script,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, "HOME": str(home)},
    )


def test_qmp_shell(address: Any, tmp_path: Path) -> None:
    target = address if isinstance(address, str) else "{}:{}".format(*address)
    done = shell(target, tmp_path, "query-status\nstop\nstop now=true\nfrob\nquery-status\nquery-x86-dm\nquit\n")
    assert done.returncode == 0, done.stderr
    assert "Connected to QEMU 1.2.3" in done.stdout
    answers = [line.removeprefix("(QEMU) ") for line in done.stdout.splitlines() if "{" in line]
    assert answers[0] == '{"return": {"running": true, "status": "running"}}'
    assert answers[1] == '{"return": {}}'
    assert "Parameter 'now' is unexpected" in answers[2]
    assert "The command frob has not been found" in answers[3]
    assert answers[4] == '{"return": {"running": false, "status": "paused"}}'
    assert '"io-exits": 3' in answers[5]
    assert answers[6] == '{"return": {}}'
    assert len(answers) == 7


def test_qmp_shell_shows_events_and_prettifies(daemon: Any, tmp_path: Path) -> None:
    done = shell(str(daemon.address.path), tmp_path, "cont\nstop\n\nquery-version\n", "-p", "-v")
    assert done.returncode == 0, done.stderr
    assert "'event': 'STOP'" in done.stdout
    assert '"package": "x86-dm 1.2.3"' in done.stdout


def test_two_shells_and_a_client_at_once(daemon: Any, tmp_path: Path) -> None:
    async def work() -> None:
        client = await connect(str(daemon.address.path))
        try:
            jobs = (asyncio.to_thread(shell, str(daemon.address.path), tmp_path, "query-status\n") for _ in range(2))
            for done in await asyncio.gather(*jobs):
                assert '"status": "running"' in done.stdout, done.stderr
            assert await client.execute("query-status") == {"running": True, "status": "running"}
        finally:
            await client.disconnect()

    run(work())
