"""RAM that its owner truncates under a running guest: the run ends with memory-lost, everybody else goes on."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from harness import Daemon, environment, flat, session

from dm.engine import native_status
from dm.protocol.schema import DoneReason, Kind, Region
from dm.shim.client import Shim

SIZE = 1 << 20
#: L: inc eax; mov [8000h],ax; cmp byte [9000h],0; je L (real mode): touches its pages for ever, and asks nothing
BUSY = bytes.fromhex("6640 A30080 803E009000 74F4")
#: as above, with out 80h,al in every turn
ASKING = bytes.fromhex("6640 A30080 E680 803E009000 74F2")

ENGINES = ["python", pytest.param("native", marks=pytest.mark.skipif(not native_status()[0], reason="not built"))]


@pytest.fixture(scope="module", params=ENGINES)
def daemon(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("d")
    (directory / "memory").mkdir()
    with Daemon(directory, "--memory-path", str(directory / "memory"), engine=request.param) as running:
        yield running


@pytest.fixture
def file(daemon):
    path = daemon.directory / "memory" / "vm"
    path.write_bytes(bytes(SIZE))
    yield path
    path.unlink()


def with_file(daemon, file, program):
    """Return a Shim and a vCPU whose RAM is the file."""
    with open(file, "r+b") as out:
        out.write(program)
    shim = Shim.connect(daemon.endpoint)
    block = shim.add_ram_file(str(file), SIZE)
    shim.set_map([Region(0, SIZE, Kind.RAM, block)])
    return shim, shim.create_vcpu(0)


def after(seconds, call, *arguments):
    timer = threading.Timer(seconds, call, arguments)
    timer.start()
    return timer


@pytest.mark.parametrize("left", [0, 4096, 0x9000])
def test_truncated_in_mid_run(daemon, file, left):
    shim, vcpu = with_file(daemon, file, BUSY)
    try:
        state = flat()
        after(0.3, os.truncate, file, left)
        done = vcpu.run(state)
        assert done.reason is DoneReason.MEMORY_LOST
        assert done.detail.startswith("RAM block 1 is gone: its byte 0x")
        assert done.instructions > 0
        os.truncate(file, SIZE)  # what comes back is not what was there
        again = vcpu.run(state)
        assert (again.reason, again.steps) == (DoneReason.MEMORY_LOST, 0)
    finally:
        shim.close()
    with session(daemon.endpoint, b"\xf4") as (_, other):
        assert other.run(flat()).reason is DoneReason.HALT


def flags(daemon, path):
    """Return the flags (proc(5), VmFlags) of the workers' mappings of a file."""
    found = []
    with open(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children") as file:
        workers = file.read().split()
    for pid in workers:
        with open(f"/proc/{pid}/smaps") as file:
            mapped = False
            for line in file:
                if not line.split()[0].endswith(":"):
                    mapped = line.rstrip().endswith(str(path))
                elif mapped and line.startswith("VmFlags:"):
                    found.append(set(line.split()[1:]))
    return found


def test_guest_memory_is_kept_out_of_core_dumps(daemon, file):
    shim, _ = with_file(daemon, file, BUSY)
    try:
        (mapping,) = flags(daemon, file)
        assert {"sh", "wr", "dd"} <= mapping
    finally:
        shim.close()


def test_no_device_is_asked_afterwards(daemon, file):
    shim, vcpu = with_file(daemon, file, ASKING)
    asked = []

    def devices(io):
        asked.append(io.io)
        if len(asked) == 20:
            os.truncate(file, 0)

    try:
        assert vcpu.run(flat(), on_io=devices).reason is DoneReason.MEMORY_LOST
        assert len(asked) <= 21
    finally:
        shim.close()


def test_truncated_before_the_first_run(daemon, file):
    shim, vcpu = with_file(daemon, file, BUSY)
    try:
        os.truncate(file, 0)
        assert vcpu.run(flat()).reason is DoneReason.MEMORY_LOST
    finally:
        shim.close()


def test_both_vcpus_of_the_session_are_told(daemon, file):
    shim, first = with_file(daemon, file, BUSY)
    second = shim.create_vcpu(1)
    ends = []
    threads = [threading.Thread(target=lambda v=vcpu: ends.append(v.run(flat()).reason)) for vcpu in (first, second)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        os.truncate(file, 0)
        for thread in threads:
            thread.join(60)
        assert ends == [DoneReason.MEMORY_LOST] * 2
    finally:
        shim.close()


def test_other_faults_end_the_process_as_ever(tmp_path):
    (tmp_path / "file").write_bytes(bytes(4096))
    code = (
        "import mmap, os, resource, sys; from dm.server.memory import guard; guard.install(); "
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); f = open(sys.argv[1], 'r+b'); "
        "block = mmap.mmap(f.fileno(), 4096); os.ftruncate(f.fileno(), 0); block[0]"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], env=environment(), timeout=100)
    assert done.returncode == -signal.SIGBUS


def test_a_block_that_is_unmapped_is_forgotten(tmp_path):
    (tmp_path / "file").write_bytes(bytes(8192))
    code = (
        "import mmap, os, sys; from dm.server.memory import guard; guard.install(); f = open(sys.argv[1], 'r+b')\n"
        "block = mmap.mmap(f.fileno(), 4096); guard.watch(block, 'one'); assert len(guard._blocks) == 1\n"
        "del block; assert guard._blocks == ()\n"
        "block = mmap.mmap(f.fileno(), 8192); guard.watch(block, 'two'); os.ftruncate(f.fileno(), 4096)\n"
        "block[4095] = 7; assert not guard.lost()\n"
        "assert block[4096] == 0; assert guard.lost() == 'two is gone: its byte 0x1000 cannot be accessed any more'\n"
        "block[8191] = 1; block[:] = bytes(8192); block.close()"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], env=environment(), timeout=100)
    assert done.returncode == 0
