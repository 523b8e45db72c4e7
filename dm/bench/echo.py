"""The bare ZeroMQ echo that round trips are compared with: `python -m dm.bench.echo ENDPOINT SIZE`.

A ROUTER in a process of its own that answers every message with SIZE bytes: the least any daemon in Python can do.
"""

from __future__ import annotations

import sys

import zmq


def main(endpoint: str, size: int) -> None:
    """Serve until an empty message comes."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind(endpoint)
    answer = bytes(size)
    while True:
        peer, data = router.recv_multipart()
        if not data:
            return
        router.send_multipart([peer, answer])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
