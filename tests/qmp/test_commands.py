"""Each command and event, as a client sees it."""

from __future__ import annotations

from typing import Any

import pytest

from dm.qmp.commands import SCHEMA
from dm.qmp.control import SessionClosed, SessionOpened, VcpuLost


def test_query_version(peer: Any) -> None:
    version = {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "x86-dm 1.2.3"}
    assert peer.ask({"execute": "query-version"}) == {"return": version}


def test_query_commands(peer: Any) -> None:
    names = [entry["name"] for entry in peer.ask({"execute": "query-commands"})["return"]]
    assert sorted(names) == [
        "cont",
        "qmp_capabilities",
        "query-commands",
        "query-qmp-schema",
        "query-status",
        "query-version",
        "query-x86-dm",
        "quit",
        "stop",
    ]


def test_query_qmp_schema(peer: Any) -> None:
    assert peer.ask({"execute": "query-qmp-schema"}) == {"return": SCHEMA.introspect()}


def test_stop_and_cont(peer: Any) -> None:
    """Each changes the state, with an event before the answer; repeated, it does nothing."""
    assert peer.ask({"execute": "query-status"}) == {"return": {"running": True, "status": "running"}}
    event = peer.ask({"execute": "stop"})
    assert event["event"] == "STOP"
    assert "data" not in event
    assert peer.read() == {"return": {}}
    assert peer.ask({"execute": "query-status"}) == {"return": {"running": False, "status": "paused"}}
    assert peer.ask({"execute": "stop"}) == {"return": {}}
    assert peer.ask({"execute": "cont"})["event"] == "RESUME"
    assert peer.read() == {"return": {}}
    assert peer.ask({"execute": "cont"}) == {"return": {}}
    assert peer.ask({"execute": "query-status"}) == {"return": {"running": True, "status": "running"}}


def test_quit(daemon: Any, peer: Any) -> None:
    """The client is told, gets its answer, then the end of the stream."""
    event = peer.ask({"execute": "quit", "id": "bye"})
    assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    assert peer.read() == {"return": {}, "id": "bye"}
    assert peer.ask({"execute": "query-status"}) == {"return": {"running": False, "status": "shutdown"}}
    daemon.run(daemon.server.close())
    assert peer.line() == b""


def test_control_errors_are_told(daemon: Any, peer: Any) -> None:
    peer.ask({"execute": "quit"})
    peer.read()
    assert peer.ask({"execute": "cont", "id": 1}) == {
        "error": {"class": "GenericError", "desc": "The daemon is shutting down"},
        "id": 1,
    }


def test_query_x86_dm(peer: Any) -> None:
    answer = peer.ask({"execute": "query-x86-dm"})["return"]
    assert 0 <= answer.pop("uptime-ms") < 60_000
    assert answer == {
        "sessions": [
            {
                "id": "1",
                "name": "vm",
                "engine": "python",
                "pid": 4711,
                "uptime-ms": 1500,
                "vcpus": [
                    {"index": 0, "state": "running", "requests": 7, "instructions": 2**63 + 1, "io-exits": 3},
                    {"index": 1, "state": "idle", "requests": 0, "instructions": 0, "io-exits": 0},
                ],
            },
            {"id": "2", "uptime-ms": 5, "vcpus": []},
        ]
    }


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (SessionOpened("1", "vm"), "X86_DM_SESSION_OPENED", {"session": "1", "name": "vm"}),
        (SessionOpened("1"), "X86_DM_SESSION_OPENED", {"session": "1"}),
        (SessionClosed("1", "peer gone"), "X86_DM_SESSION_CLOSED", {"session": "1", "reason": "peer gone"}),
        (VcpuLost("1", 3, "killed"), "X86_DM_VCPU_LOST", {"session": "1", "vcpu": 3, "reason": "killed"}),
    ],
)
def test_events(daemon: Any, peer: Any, event: Any, name: str, data: Any) -> None:
    daemon.emit(event)
    message = peer.read()
    assert set(message) == {"event", "timestamp", "data"}
    assert (message["event"], message["data"]) == (name, data)
    assert set(message["timestamp"]) == {"seconds", "microseconds"}
    assert message["timestamp"]["seconds"] > 1_700_000_000
    assert 0 <= message["timestamp"]["microseconds"] < 10**6


@pytest.mark.parametrize("name", sorted(SCHEMA.commands))
def test_unknown_arguments_are_refused_before_any_effect(daemon: Any, peer: Any, name: str) -> None:
    answer = peer.ask({"execute": name, "arguments": {"bogus": 1}})
    assert answer["error"]["class"] in ("GenericError", "CommandNotFound")
    if name != "qmp_capabilities":
        assert answer["error"]["desc"] == "Parameter 'bogus' is unexpected"
    assert daemon.control.calls == []
