"""Peers are found, or named with what brings them; those that are here compute what this engine computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dm.bench import peers
from dm.bench.engines import BenchMachine
from dm.bench.kernels import KERNELS
from dm.bench.peers import Missing, Peer, find


def test_every_peer_that_is_missing_names_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DM_PEER_QEMU", raising=False)
    tcg, bochs = find("TCG"), find("Bochs")
    assert isinstance(tcg, Missing)
    assert "apt-get install" in tcg.remedy
    assert "qemu-system-x86" in tcg.remedy
    assert isinstance(bochs, Missing)
    assert "bochs bochs-term bochsbios" in bochs.remedy
    monkeypatch.setattr(peers.sys, "executable", "/bin/false")
    unicorn = find("Unicorn")
    assert isinstance(unicorn, Missing)
    assert unicorn.remedy == f"pip install --target {tmp_path}/x86-dm/peers unicorn==2.1.4"


def test_qemu_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my-qemu"
    program.write_text("#!/bin/sh\necho my QEMU 1\necho more\n")
    program.chmod(0o755)
    monkeypatch.setenv("DM_PEER_QEMU", str(program))
    found = find("TCG")
    assert isinstance(found, Peer)
    assert found.version == "my QEMU 1"
    assert found.command(tmp_path / "x", tmp_path)[0] == str(program)
    monkeypatch.setenv("DM_PEER_QEMU", str(tmp_path / "other"))
    wrong = find("TCG")
    assert isinstance(wrong, Missing)
    assert wrong.remedy == f"DM_PEER_QEMU names {tmp_path}/other, which is not a program"


def agrees(name: str, kernels: list[str]) -> None:
    peer = find(name)
    if isinstance(peer, Missing):
        pytest.skip(f"{name} is not here: {peer.remedy}")
    machine = BenchMachine("native")
    for kernel in (KERNELS[kernel] for kernel in kernels):
        if kernel.device and not peer.devices:
            continue
        seconds, checksum = peer.run(kernel, 5, 60)
        assert checksum == machine.run(kernel, 5).checksum, f"{name}: {kernel.name}"
        assert seconds >= 0
    machine.close()


@pytest.mark.long
@pytest.mark.parametrize("name", ["TCG", "Bochs", "Unicorn"])
def test_checksums_are_the_peers(name: str) -> None:
    agrees(name, list(KERNELS))


@pytest.mark.kvm
def test_checksums_are_those_of_kvm() -> None:
    # Not call32: there are KVMs without paging outside 64-bit mode.
    agrees("KVM", [kernel for kernel in KERNELS if kernel != "call32"])
