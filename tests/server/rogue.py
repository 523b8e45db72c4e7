"""An engine that plays a compromised worker: what the shim asks for by its CPUID table it does to the supervisor.

The leaf of row 0 is the attack's number in :data:`ATTACKS`.  It happens while the worker carries out ``vcpu-create``.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

import fake_engine
import msgpack

from dm.server.worker_line import MAX_DATAGRAM


def line():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    return socket.socket(fileno=os.dup(parser.parse_known_args(sys.argv[1:])[0].fd))


def say(*whole):
    line().send(msgpack.packb(list(whole)))


ROW = [0, "idle", 1, 2, 3]


def counters(*row):
    return lambda: say("counters", 0, [list(row)])


def descriptors():
    """Each message is in order, and carries as many descriptors as one can."""
    one, null = line(), os.open(os.devnull, os.O_RDONLY)
    for _ in range(40):
        socket.send_fds(one, [msgpack.packb(["counters", 0, [ROW]])], [null] * 250)


def cut_the_run_table():
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "run-table" in os.readlink(f"/proc/self/fd/{fd}"):
                os.ftruncate(int(fd), 0)
        except OSError:
            continue


def leave_a_child():
    """End, but leave somebody who holds the line open."""
    subprocess.Popen(["sleep", "30"], pass_fds=[line().detach()])
    os.kill(os.getpid(), signal.SIGSEGV)


def close_the_line():
    one = line()
    one.shutdown(socket.SHUT_RDWR)
    time.sleep(60)


ATTACKS = {
    "descriptors": descriptors,
    "cut the run table": cut_the_run_table,
    "not MessagePack": lambda: line().send(b"\xc1rubbish"),
    "a number": lambda: line().send(msgpack.packb(7)),
    "too short": lambda: say("ready"),
    "too large": lambda: line().send(bytes(MAX_DATAGRAM + 1)),
    "nested": lambda: line().send(b"\x91" * 5000),
    "unknown operation": lambda: say("quit", 0, None),
    "operation no text": lambda: say(b"counters", 0, []),
    "ready again": lambda: say("ready", 0, ["other", "why"]),
    "failed late": lambda: say("failed", 0, "why"),
    "no such request": lambda: say("reply", 12345, b""),
    "wrong kind of answer": lambda: say("paused", 1, []),
    "rubbish for the shim": lambda: say("reply", 1, b"rubbish"),
    "another session's answer": lambda: say("reply", 1, msgpack.packb({"type": "ok", "seq": 1, "session": 1})),
    "a shim's message": lambda: say("reply", 1, msgpack.packb({"type": "bye", "seq": 1, "session": 1})),
    "tag no number": lambda: say("reply", "1", b""),
    "rows no list": lambda: say("counters", 0, 7),
    "row too short": counters(0, "idle"),
    "vCPU too large": counters(256, "idle", 1, 2, 3),
    "vCPU negative": counters(-1, "idle", 1, 2, 3),
    "vCPU a flag": counters(True, "idle", 1, 2, 3),
    "state unknown": counters(0, "fine", 1, 2, 3),
    "state a list": counters(0, ["idle"], 1, 2, 3),
    "counter negative": counters(0, "idle", -1, 2, 3),
    "counter text": counters(0, "idle", "1", 2, 3),
    "vCPU twice": lambda: say("counters", 0, [ROW, ROW]),
    "too many rows": lambda: say("counters", 0, [ROW] * 257),
    "memory lost a number": lambda: say("memory-lost", 0, 7),
    "memory lost twice": lambda: [say("memory-lost", 0, "what") for _ in range(2)],
    "close the line": close_the_line,
    "leave a child": leave_a_child,
}


def create(config):
    if config.cpuid and config.cpuid[0].leaf < len(ATTACKS):
        list(ATTACKS.values())[config.cpuid[0].leaf]()
    return fake_engine.create(config)
