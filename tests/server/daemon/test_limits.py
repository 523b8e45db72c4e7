"""Limits that an operator sets: what is beyond is refused with the number and the option's name."""

import pytest
from harness import Daemon, Peer, arguments, flat, session

from dm.commands import serve
from dm.protocol import schema
from dm.protocol.schema import DoneReason, ErrorClass, Kind, Region
from dm.shim.client import Shim
from dm.shim.errors import Refused
from dm.shim.ram import Ram

OPTIONS = ["--max-sessions", "2", "--max-vcpus", "3", "--max-regions", "8", "--max-ram", "64K"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("l"), *OPTIONS) as running:
        yield running


def refused(call, *args):
    with pytest.raises(Refused) as caught:
        call(*args)
    assert caught.value.error.error is ErrorClass.LIMIT
    return caught.value.error.expected


def regions(count, block):
    return [Region(at * 0x2000, 0x1000, Kind.RAM, block, 0) for at in range(count)]


def test_vcpus_and_regions(limited):
    with session(limited.endpoint, b"h") as (shim, vcpu):
        assert shim.welcome.max_vcpus == 3
        assert refused(shim.create_vcpu, 3) == "below 3"
        shim.create_vcpu(1)
        shim.set_map(regions(4, shim.block))
        assert "at most 8 regions times vCPUs (--max-regions)" in refused(shim.create_vcpu, 2)
        assert "at most 8 regions times vCPUs (--max-regions)" in refused(shim.set_map, regions(5, shim.block))
        assert vcpu.run(flat()).reason is DoneReason.HALT  # with the map before
        shim.destroy_vcpu(1)
        shim.set_map(regions(8, shim.block))
        shim.destroy_vcpu(0)
        shim.set_map(regions(8, shim.block))


def test_ram(limited):
    with Shim.connect(limited.endpoint) as shim, Ram(0x8000) as half, Ram(1 << 40) as vast:
        assert refused(shim.add_ram, vast) == "at most 0x10000 more of 0x10000 in all (--max-ram)"
        first = shim.add_ram(half)
        shim.add_ram_by_messages(bytearray(0x8000))
        assert refused(shim.add_ram, half).startswith("at most 0x0 more")
        shim.remove_ram(first)
        shim.add_ram(half)


def test_sessions(limited):
    with Shim.connect(limited.endpoint), Shim.connect(limited.endpoint), Peer(limited.endpoint) as third:
        error = third.hello()
        assert (error.error, error.expected) == (ErrorClass.LIMIT, "at most 2")


def test_as_much_ram_as_the_host_has_is_the_default(tmp_path):
    with Daemon(tmp_path) as daemon, Shim.connect(daemon.endpoint) as shim, Ram(1 << 44) as vast:
        assert "(--max-ram)" in refused(shim.add_ram, vast)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-sessions", "0"], "--max-sessions 0: use 1 to 65536"),
        (["--max-vcpus", "257"], f"--max-vcpus 257: use 1 to {schema.MAX_VCPUS}"),
        (["--max-regions", "-1"], "--max-regions -1: use 1 to 262144"),
        (["--max-ram", "much"], "--max-ram much: use a number of bytes, or one with the suffix K, M, G or T"),
        (["--max-ram", "0"], "--max-ram 0: use"),
        (["--max-ram", "²K"], "--max-ram ²K: use"),
    ],
)
def test_bad_arguments(words, expected, capsys):
    assert serve.main(arguments("--listen", "ipc:///tmp/x", *words)) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("64k", 1 << 16), ("2G", 1 << 31), ("1T", 1 << 40)])
def test_sizes(text, size):
    assert serve._size(text) == size
