"""Figures of patched QEMU with the daemon, against plain QEMU in the same run; they are printed (pytest -s -m long)."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from qemu_machine import Daemon, Qemu, assemble

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

Boot = Callable[..., Qemu]
#: A factor for the goals: other work on the machine makes all of this slower, not in proportion.
SLACK = float(os.environ.get("DM_SLACK", "1"))
#: Bytes of a port read's question and answer on the wire.
QUESTION, ANSWER = 100, 70


def until(what: Callable[[], bool], seconds: float = 120, pause: float = 0.001) -> float:
    """Return when ``what()`` first held, looking every ``pause`` seconds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(pause)
    return time.monotonic()


def boot_time(vm: Qemu, done: Callable[[], bool], pause: float = 0.001) -> float:
    """Start a machine that waits (-S), and return the seconds it takes; then it is ended."""
    started = time.monotonic()
    vm.command("cont")
    seconds = until(done, pause=pause) - started
    vm.quit()
    return seconds


def median(what: Callable[[], float], times: int) -> float:
    return statistics.median(what() for _ in range(times))


def _echo(endpoint: str) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    answer = bytes(ANSWER)
    while (message := socket.recv_multipart())[-1]:
        socket.send_multipart([message[0], answer])


def round_trip(folder: Path) -> float:
    """Return the seconds of a bare exchange of a port read's bytes between two processes that sleep while they wait."""
    endpoint = f"ipc://{folder / 'echo'}"
    other = multiprocessing.get_context("spawn").Process(target=_echo, args=(endpoint,))
    other.start()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    samples = []
    for n in range(5000):
        started = time.perf_counter()
        socket.send(bytes(QUESTION))
        socket.recv()
        if n >= 500:
            samples.append(time.perf_counter() - started)
    socket.send(b"")
    other.join(100)
    socket.close()
    context.term()
    return statistics.median(samples)


def say(text: str) -> None:
    print(f"\n{text}", end="")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A boot sector that writes an E to the debug console and halts."""
    image = tmp_path / "disk.img"
    code = bytes.fromhex("b045 e6e9 fa f4 ebfd")  # mov al,'E'; out 0e9h,al; cli; hlt; jmp $-1
    image.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    return image


def test_firmware_to_boot_sector(machine: Boot, daemon: Daemon, disk: Path, short_path: Path) -> None:
    daemon.start()
    accesses: list[int] = []

    def once(when: str | None, accel: str) -> float:
        vm = machine(when, "-S", "-drive", f"file={disk},format=raw,if=ide,snapshot=on", accel=accel)
        if when is not None:
            until(lambda: vm.info()["state"] == "connected")

        def done() -> bool:
            if vm.console().endswith("E"):
                accesses.append(vm.total("io") if when is not None else 0)
                return True
            return False

        return boot_time(vm, done)

    runs = [(once(None, "tcg"), round_trip(short_path), once("real", "tcg")) for _ in range(5)]
    plain, trip, real = (statistics.median(run[n] for run in runs) for n in range(3))
    bound = 1.2 * plain + accesses[-1] * trip
    say(f"SeaBIOS to boot sector, TCG: {plain:.2f} s plain, {real:.2f} s real, {accesses[-1]} accesses, "
        f"round trip {trip * 1e6:.0f} us; bound {bound:.2f} s")  # fmt: skip
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        legacy = median(lambda: once("legacy", "kvm"), 5)
        native = median(lambda: once(None, "kvm"), 3)
        say(f"SeaBIOS to boot sector, KVM: {native:.2f} s plain, {legacy:.2f} s legacy: {legacy / native:.2f}")
        assert legacy <= 0.3 * native * SLACK
    assert real <= bound * SLACK


@pytest.mark.kvm
def test_grub_under_kvm(machine: Boot, daemon: Daemon, rescue: Path) -> None:
    daemon.start()

    def once(when: str | None) -> float:
        vm = machine(when, "-S", "-cdrom", rescue, accel="kvm")
        if when is not None:
            until(lambda: vm.info()["state"] == "connected")
        return boot_time(vm, lambda: "grub>" in vm.screen(), 0.05)

    legacy, plain = median(lambda: once("legacy"), 5), once(None)
    say(f"GRUB to its prompt, KVM: {plain:.2f} s plain, {legacy:.2f} s legacy: {legacy / plain:.3f}")
    assert legacy <= 0.1 * plain * SLACK


@pytest.mark.parametrize("accel", ["tcg", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_accesses(machine: Boot, daemon: Daemon, tmp_path: Path, short_path: Path, accel: str) -> None:
    daemon.start()
    rom = assemble("speed", tmp_path)

    def once() -> tuple[float, float, float]:
        trip = round_trip(short_path)
        vm = machine("legacy", "-S", "-bios", rom, accel=accel)
        until(lambda: vm.info()["state"] == "connected")
        vm.command("cont")
        times = [until(lambda mark=mark: mark in vm.console()) for mark in "<>]"]  # type: ignore[misc]
        vm.quit()
        access = (times[1] - times[0]) / 10000
        return access, trip, (times[2] - times[1]) / 20

    runs = [once() for _ in range(7)]
    access, trip, scroll = (statistics.median(run[n] for run in runs) for n in range(3))
    ratios = sorted(run[0] / run[1] for run in runs)
    ratio = statistics.median(ratios)
    say(f"{accel}: port read {access * 1e6:.0f} us, {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) round trips "
        f"({trip * 1e6:.0f} us); scroll {scroll * 1e3:.1f} ms")  # fmt: skip
    assert scroll <= 0.020 * SLACK
    assert ratio <= 1.3 * SLACK
