"""QEMU's monitor while the daemon is frozen, lost or unwilling: it answers, says why, and loses nothing silently."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from qemu_machine import Daemon, Qemu, assemble, expected, poll

pytestmark = pytest.mark.timeout(1800)  # building QEMU takes minutes

Boot = Callable[..., Qemu]


@contextmanager
def frozen(daemon: Daemon) -> Iterator[None]:
    """Freeze a daemon and its workers; they thaw at the end."""
    processes = [daemon.pid, *daemon.workers()]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(processes):  # workers first: one that was killed is there until its parent can look
            os.kill(pid, signal.SIGCONT)


def run_under_way(vm: Qemu) -> None:
    """Wait until a frozen daemon has a vCPU: its counters stand still."""
    before = -1
    while before != (before := vm.total("runs") + vm.total("io")):
        vm.hmp("info version")


@pytest.fixture(params=["tcg", "tcg,thread=single", pytest.param("kvm", marks=pytest.mark.kvm)])
def working(request: pytest.FixtureRequest, machine: Boot, daemon: Daemon, tmp_path: Path) -> Qemu:
    """A guest in the middle of its work, all of which the daemon does."""
    daemon.start()
    vm = machine("legacy", "-bios", assemble("work", tmp_path), accel=request.param)
    poll(lambda: "." in vm.console(), 30)
    return vm


def test_monitor_answers_while_the_daemon_is_frozen(working: Qemu, daemon: Daemon) -> None:
    """Each of these would otherwise wait until the session is given up, and find the run lost."""
    with frozen(daemon):
        run_under_way(working)
        working.command("query-status")
        assert "EIP=" in working.hmp("info registers")
        working.command("stop")
        assert working.status() == "paused"
        assert working.info()["state"] == "connected"
        assert "EIP=" in working.hmp("info registers")
        assert "connected" in working.hmp("info x86-dm")
        working.command("cont")
        working.command("stop")
        working.command("cont")
        assert working.status() == "running"
        assert working.info()["state"] == "connected"
    assert working.finish() == expected("work")
    assert "X86_DM_LOST" not in working.events


def test_stopped_machine_stands_still_when_the_daemon_thaws(working: Qemu, daemon: Daemon) -> None:
    with frozen(daemon):
        run_under_way(working)
        working.command("stop")
    thawed = time.monotonic()
    before = working.console()
    poll(lambda: time.monotonic() > thawed + 0.5, 5)
    registers = working.hmp("info registers")
    assert working.console() == before
    assert working.hmp("info registers") == registers
    working.command("cont")
    assert working.finish() == expected("work")


def test_reset_while_the_daemon_is_frozen(working: Qemu, daemon: Daemon) -> None:
    """What is left of the old run reaches neither devices nor registers of the machine after the reset."""
    with frozen(daemon):
        run_under_way(working)
        working.command("system_reset")
        assert working.status() == "running"
        assert working.info()["state"] == "connected"
        begun = working.console()
    text = working.finish()
    assert text.startswith(begun)
    last = text[text.rindex("work") :]
    assert last.count(".") == expected("work").count(".")  # the sum depends on what memory held before
    assert "X86_DM_STOPPED" not in working.events


def test_no_snapshot_without_the_vcpu(working: Qemu, daemon: Daemon, short_path: Path) -> None:
    """Registers from before a run with memory from after it would be a snapshot that does not go on."""
    with frozen(daemon):
        run_under_way(working)
        working.command("stop")
        working.command("migrate", uri=f"file:{short_path / 'state'}")
        poll(lambda: working.command("query-migrate")["status"] == "failed", 30)
        assert "come back from the daemon" in working.stderr()
    working.command("migrate", uri=f"file:{short_path / 'state'}")
    poll(lambda: working.command("query-migrate")["status"] == "completed", 60)
    working.command("cont")
    assert working.finish() == expected("work")


def test_quit_while_the_daemon_is_frozen(working: Qemu, daemon: Daemon) -> None:
    with frozen(daemon):
        run_under_way(working)
        working.quit()


# ------------------------------------------------------------------------------------------ losses


def lose_the_run(vm: Qemu, daemon: Daemon) -> None:
    """Kill the worker in the middle of a run."""
    (worker,) = daemon.workers()
    os.kill(worker, signal.SIGKILL)
    poll(lambda: vm.info()["state"] == "failed", 60, lambda: f"{vm.info()} {vm.events} {vm.stderr()}")


def test_run_lost_needs_a_reset(working: Qemu, daemon: Daemon) -> None:
    lose_the_run(working, daemon)
    assert working.status() == "internal-error"
    assert working.info()["cause"] == "run-lost"
    assert "lost in the middle" in working.info()["error"]
    assert working.data["X86_DM_STOPPED"]["cause"] == "run-lost"
    assert "Reset" in working.refused("cont")
    working.command("system_reset")
    poll(lambda: working.status() == "prelaunch", 10)
    assert "cause" not in working.info()
    working.command("cont")
    working.finish()


def test_run_lost_can_be_forced(working: Qemu, daemon: Daemon) -> None:
    assert "not stopped for a loss" in working.refused("x-x86-dm-force", id="dm0")
    lose_the_run(working, daemon)
    assert "'other'" in working.refused("x-x86-dm-force", id="other")
    working.command("x-x86-dm-force", id="dm0")
    assert working.status() == "paused"
    working.command("cont")
    working.finish()
    assert working.status() == "running"


def test_run_lost_while_the_machine_is_stopped(working: Qemu, daemon: Daemon) -> None:
    """It is found by then, and `cont` does not get a single instruction out of it."""
    with frozen(daemon):
        run_under_way(working)
        working.command("stop")
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
    poll(lambda: working.info()["state"] == "failed", 60)
    assert working.status() == "paused"
    assert working.info()["cause"] == "run-lost"
    before = working.hmp("info registers")
    text = working.console()
    working.command("cont")
    poll(lambda: working.status() == "internal-error", 10)
    assert (working.hmp("info registers"), working.console()) == (before, text)


def test_killed_daemon_is_not_called_shutting_down(working: Qemu, daemon: Daemon) -> None:
    daemon.stop(kill=True)
    poll(lambda: working.info()["state"] == "waiting", 30)
    assert "shutting down" not in str(working.data["X86_DM_LOST"])
    daemon.start()
    assert working.finish() == expected("work")


# ------------------------------------------------------------------------------------------ refusals


def test_ram_outside_of_the_memory_path_is_refused_at_once(machine: Boot, daemon: Daemon, short_path: Path) -> None:
    (short_path / "ram").mkdir()
    (short_path / "other").mkdir()
    daemon.start("--memory-path", str(short_path / "other"))
    backend = f"memory-backend-file,id=file,mem-path={short_path / 'ram' / 'guest'},size=128M,share=on"
    vm = machine("real,timeout=0", "-object", backend, "-machine", "memory-backend=file")
    poll(lambda: vm.status() == "io-error", 30, lambda: f"{vm.info()}")
    assert vm.info()["cause"] == vm.data["X86_DM_STOPPED"]["cause"] == "refused"
    assert "memory path" in vm.info()["error"]
    assert str(short_path / "ram") in vm.info()["error"]
    daemon.stop()
    daemon.start("--memory-path", str(short_path / "ram"))
    poll(lambda: vm.info()["connects"] == 1, 30)
    vm.command("cont")
    vm.wait_for("No bootable device.")


def test_options_hold(machine: Boot, daemon: Daemon) -> None:
    daemon.start()
    vm = machine("real")
    for name, value in (("when", "legacy"), ("rules", "svm"), ("timeout", 1), ("endpoint", "ipc:///x")):
        before = vm.command("qom-get", path="/objects/dm0", property=name)
        assert f"'{name}'" in vm.refused("qom-set", path="/objects/dm0", property=name, value=value)
        assert vm.command("qom-get", path="/objects/dm0", property=name) == before
