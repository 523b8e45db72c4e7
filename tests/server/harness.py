"""A daemon process with the scripted engine, and a bare peer that can say anything."""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import zmq

import dm
from dm.commands import serve
from dm.machine.state import GROUPS, State, get_group
from dm.protocol import codec, schema

HERE = Path(__file__).resolve().parent
SERVE = (
    "import argparse, sys; from dm.commands import serve as command; p = argparse.ArgumentParser(); "
    "command.add_arguments(p); sys.exit(command.main(p.parse_args()))"
)


def environment():
    """Workers import the scripted engine from here, and the package that is tested from where we have it."""
    paths = [str(Path(dm.__file__).parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def command(*arguments):
    return [sys.executable, "-c", SERVE, *arguments]


def stop(pid):
    """Stop a process and wait until all its threads have stopped: one takes the signal and then stops the others."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    eventually(lambda: all((t / "stat").read_text().rpartition(") ")[2][0] == "T" for t in threads.iterdir()))


def eventually(test, timeout=60.0):
    """Wait until ``test()`` is true; the timeout is there to end a hang."""
    deadline = time.monotonic() + timeout
    while not test():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def children(pid):
    """Process ids of a process's children: those of a daemon are its workers."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def free_port():
    """A port nobody listens on, below those that the kernel gives away by itself (ip(7), ip_local_port_range)."""
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


class Daemon:
    """``x86-dm serve`` in a directory of its own."""

    def __init__(self, directory, *options, engine="fake_engine:create", prepare=None):
        """``prepare`` is called in the new process before it is the daemon."""
        self.directory = directory
        self.endpoint = f"ipc://{directory}/control"
        self.log = directory / "log"
        arguments = ["--listen", self.endpoint, "--engine", engine, "--log-file", str(self.log), *options]
        if "--session-timeout" not in options:  # one that a loaded machine does not reach
            arguments += ["--session-timeout", "300"]
        self.process = subprocess.Popen(
            command(*arguments), env=environment(), stdin=subprocess.DEVNULL, preexec_fn=prepare
        )

    def stop(self, sig=signal.SIGTERM):
        """Return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Peer:
    """A DEALER that sends messages or any bytes."""

    def __init__(self, endpoint):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, *parts):
        self.socket.send_multipart([part if isinstance(part, bytes) else codec.encode(part) for part in parts])

    def receive(self, timeout=100):
        assert self.socket.poll(int(timeout * 1000)), "no answer"
        frames = self.socket.recv_multipart()
        assert len(frames) == 1
        return codec.decode(frames[0])

    def silent(self, timeout=0.1):
        return not self.socket.poll(int(timeout * 1000))

    def ask(self, *parts):
        self.send(*parts)
        return self.receive()

    def hello(self, **changes):
        return self.ask(schema.Hello(**{"seq": 1, "min_version": 1, "max_version": 1, **changes}))

    def close(self):
        self.socket.close()
        self.context.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def groups(state):
    return {group: get_group(state, group) for group in GROUPS}


def flat(program_at=0, **registers):
    """A state whose code starts at physical ``program_at``."""
    state = State.reset()
    state.cs.base, state.rip = 0, program_at
    for name, value in registers.items():
        setattr(state, name, value)
    return state


@contextlib.contextmanager
def session(endpoint, program=b"", size=1 << 16, name="test"):
    """A Shim with RAM at 0 that holds ``program``, coalesced memory at 0xa0000, and vCPU 0."""
    from dm.shim.client import Shim
    from dm.shim.ram import Ram

    with Shim.connect(endpoint, name) as shim, Ram(size) as ram:
        ram.view[: len(program)] = program
        block = shim.add_ram(ram)
        shim.set_map(
            [
                schema.Region(0, size, schema.Kind.RAM, block),
                schema.Region(0xA0000, 0x20000, schema.Kind.COALESCED),
            ]
        )
        shim.ram, shim.block = ram, block
        yield shim, shim.create_vcpu(0)


#: A program of the scripted engine that never ends.
FOREVER = b"nJ\x01"


def run(*arguments, timeout=100):
    return subprocess.run(
        command(*arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def arguments(*words):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(words)


def daemon_pid(log):
    """The daemon writes no pid file; its children know their parent, its directory lock knows the rest."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if str(log).encode() in file.read():
                        return int(entry)
            except OSError:
                continue
    raise AssertionError("no daemon")


def when_it_runs(shim, act):
    """Do something, in a thread, as soon as the run of vCPU 0 that is about to begin is under way."""

    def wait():
        eventually(lambda: shim.counters().vcpus[0].requests)
        act()

    threading.Thread(target=wait).start()


class Qmp:
    """Just enough of a QMP client."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(100)
        eventually(lambda: self.socket.connect_ex(str(path)) == 0)  # the daemon may just have been started
        self.file = self.socket.makefile("rb")
        assert "QMP" in self.read()
        self.events = []
        assert self.ask("qmp_capabilities") == {}

    def read(self):
        return json.loads(self.file.readline())

    def ask(self, execute, **arguments):
        self.socket.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode())
        while True:
            message = self.read()
            if "event" in message:
                self.events.append(message)
                continue
            assert "return" in message, message
            return message["return"]

    def event(self, name):
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            self.events.append(self.read())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()
