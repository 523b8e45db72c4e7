"""The bare ZeroMQ echo that round trips are compared with: ``python -m dm.bench.echo ENDPOINT SIZE [awake]``.

A ROUTER in a process of its own that answers every message with SIZE bytes: the least any daemon in Python can do.  It
sleeps until a message comes; ``awake``: it waits as the daemon does, which spares both sides the waking.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import cast

import zmq

from dm.protocol.waiter import Waiter


def receiver(socket: zmq.Socket[bytes], awake: bool) -> Callable[[], list[bytes]]:
    """Return a function that waits for a message and returns its parts."""
    if not awake:
        return socket.recv_multipart
    waiter = Waiter()
    waiter.add(cast(int, socket.getsockopt(zmq.FD)))

    def receive() -> list[bytes]:
        # Its descriptor only says that something has happened; EVENTS says what (zmq_getsockopt(3)).
        while not cast(int, socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            waiter.wait()
        return socket.recv_multipart()

    return receive


def main(endpoint: str, size: int, awake: bool) -> None:
    """Serve until an empty message comes."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind(endpoint)
    receive = receiver(router, awake)
    answer = bytes(size)
    while True:
        peer, data = receive()
        if not data:
            return
        router.send_multipart([peer, answer])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "awake" in sys.argv[3:])
