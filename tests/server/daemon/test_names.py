"""Names of connections: a peer may choose its own (ZMTP, Identity), but cannot know those that libzmq gives."""

import contextlib
import socket
import struct
import subprocess
import sys

import pytest
from harness import Daemon, environment, flat, session

from dm.protocol.schema import DoneReason
from dm.shim.client import Shim

#: What rand(3) gives first when nobody has seeded it: the number libzmq would count from.
UNSEEDED = 1804289383

NAME = """
import zmq
from dm.server.admission import draw_names
draw_names()
context = zmq.Context()
router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
router.bind("inproc://x")
dealer.connect("inproc://x")
dealer.send(b"")
print(int.from_bytes(router.recv_multipart()[0][1:], "big"))
"""


def test_they_differ_from_process_to_process():
    said = [
        subprocess.run([sys.executable, "-c", NAME], env=environment(), capture_output=True, timeout=60, check=True)
        for _ in range(3)
    ]
    numbers = {int(one.stdout) for one in said}
    assert len(numbers) == 3
    assert not numbers & set(range(UNSEEDED, UNSEEDED + 1000))


def claim(path, name):
    """Return a connection that has the name it wants: the handshake of ZMTP 3.0, mechanism NULL, by hand."""

    def prop(key, value):
        return bytes([len(key)]) + key + struct.pack(">I", len(value)) + value

    one = socket.socket(socket.AF_UNIX)
    one.settimeout(60)
    one.connect(path)
    one.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY" + prop(b"Socket-Type", b"DEALER") + prop(b"Identity", name)
    one.sendall(bytes([4, len(ready)]) + ready)
    answer = b""
    while len(answer) < 64 + 2:  # its greeting, and the beginning of its READY
        answer += one.recv(100)
    return one


@pytest.mark.parametrize("endpoint", ["control", "vcpu"])
def test_who_claims_the_names_to_come_harms_nobody(tmp_path, endpoint):
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, b"h") as (shim, vcpu), contextlib.ExitStack() as stack:
        assert vcpu.run(flat()).reason is DoneReason.HALT
        path = (daemon.endpoint if endpoint == "control" else vcpu.endpoint).removeprefix("ipc://")
        for number in range(UNSEEDED, UNSEEDED + 60):
            stack.enter_context(claim(path, b"\0" + struct.pack(">I", number)))
        for _ in range(3):
            with Shim.connect(daemon.endpoint):
                pass
            assert shim.reconnect()
            assert vcpu.run(flat()).reason is DoneReason.HALT
        assert daemon.process.poll() is None
