import itertools

import pytest

from dm.shim.bios import rom

MIB = 1 << 20
SIZE = 32 * MIB


def memory_map(bench):
    entries, ebx = [], 0
    while True:
        result = bench.interrupt(0x15, eax=0xE820, ebx=ebx, ecx=24, edx=0x534D4150, es=0x600, di=8)
        assert (result.cf, result.eax, result.ecx) == (False, 0x534D4150, 20)
        entry = bench.memory.read(0x6008, 20)
        entries.append(tuple(int.from_bytes(entry[a:b], "little") for a, b in ((0, 8), (8, 16), (16, 20))))
        ebx = result.ebx
        if not ebx:
            return entries


def test_memory_map_is_sorted_and_complete(bench):
    entries = memory_map(bench)
    assert entries[0] == (0, 0x9FC00, 1)
    assert (0x100000, SIZE - MIB, 1) in entries
    assert all(a[0] + a[1] <= b[0] for a, b in itertools.pairwise(entries))
    assert entries[-1][0] + entries[-1][1] == 1 << 32


@pytest.mark.parametrize(("ebx", "ecx", "edx"), [(5, 24, 0x534D4150), (0, 19, 0x534D4150), (0, 24, 0)])
def test_memory_map_refuses_bad_calls(bench, ebx, ecx, edx):
    result = bench.interrupt(0x15, eax=0xE820, ebx=ebx, ecx=ecx, edx=edx, es=0x600, di=0)
    assert (result.cf, result.ah) == (True, 0x86)


def test_older_memory_sizes(bench):
    result = bench.interrupt(0x15, ax=0xE801)
    assert (result.ax, result.bx, result.cx, result.dx) == (15 * 1024, 256, 15 * 1024, 256)
    assert bench.interrupt(0x15, ax=0x8800).ax == 31 * 1024
    assert bench.interrupt(0x12).ax == 639
    assert bench.memory.read_int(0x40E, 2) == 0x9FC0


def test_block_move_reaches_extended_memory_with_a20_masked(bench):
    assert not bench.memory.a20
    bench.memory.write(0x8000, bytes(range(200)))

    def descriptor(base):
        return b"\xff\xff" + base.to_bytes(4, "little")[:3] + b"\x93\0" + base.to_bytes(4, "little")[3:]

    bench.memory.write(0x6000, bytes(16) + descriptor(0x8000) + descriptor(0x1100000))
    result = bench.interrupt(0x15, ax=0x8700, cx=100, es=0x600, si=0)
    assert (result.cf, result.ah) == (False, 0)
    assert bytes(bench.memory.ram[0x1100000 : 0x1100000 + 200]) == bytes(range(200))
    assert not bench.memory.a20
    assert bench.interrupt(0x15, ax=0x8700, cx=0x8001, es=0x600, si=0).cf


def test_a20_services_change_the_memory_map(bench):
    generation = bench.pc.memory_map.generation
    assert bench.interrupt(0x15, ax=0x2402).al == 0
    assert not bench.interrupt(0x15, ax=0x2401).cf
    assert bench.interrupt(0x15, ax=0x2402).al == 1
    assert bench.pc.memory_map.a20
    assert bench.pc.memory_map.generation == generation + 1
    bench.interrupt(0x15, ax=0x2400)
    assert not bench.pc.memory_map.a20
    assert bench.interrupt(0x15, ax=0x2403).bx == 3
    assert bench.interrupt(0x15, ax=0x2404).cf


def test_wait_takes_its_time_and_lets_the_host_sleep(bench):
    result = bench.interrupt(0x15, ax=0x8600, cx=0x000F, dx=0x4240)
    assert (result.cf, result.ah) == (False, 0)
    assert sum(bench.idled) == 1_000_000_000


def test_wait_serves_interrupts_meanwhile(bench):
    bench._idle = None
    bench.pc.firmware._system._idle = lambda nanoseconds: bench.clock.advance(400_000)
    result = bench.interrupt(0x15, ax=0x8600, cx=0, dx=1000)
    assert result.rip == rom.YIELD, "the guest gets to take interrupts"
    bench.pc.firmware_call(0xF0000 + rom.vector_trap(0x15))
    assert bench.state.rip == rom.YIELD
    bench.pc.firmware_call(0xF0000 + rom.vector_trap(0x15))
    assert bench.state.rip == rom.IRET


def test_event_wait_sets_its_flag(bench):
    bench.memory.write(0x8000, b"\x01")
    assert not bench.interrupt(0x15, ax=0x8300, cx=0, dx=5000, es=0x800, bx=0).cf
    assert bench.interrupt(0x15, ax=0x8300, cx=0, dx=5000, es=0x800, bx=0).ah == 0x80, "one at a time"
    bench.clock.advance(4_000_000)
    bench.interrupt(0x70)
    assert bench.memory.read(0x8000, 1) == b"\x01"
    bench.clock.advance(2_000_000)
    bench.interrupt(0x70)
    assert bench.memory.read(0x8000, 1) == b"\x81"
    assert bench.pc.rtc.next_event() is None


def test_configuration_table_and_ebda(bench):
    result = bench.interrupt(0x15, ax=0xC000)
    table = bench.memory.read((result.es << 4) + result.bx, 10)
    assert int.from_bytes(table[:2], "little") == 8
    assert table[2] == bench.memory.read(0xFFFFE, 1)[0] == 0xFC
    assert bench.interrupt(0x15, ax=0xC100).es == 0x9FC0


@pytest.mark.parametrize("function", [0x53, 0x84, 0x89, 0xC2, 0xD8, 0xEC])
def test_absent_services(bench, function):
    result = bench.interrupt(0x15, ax=function << 8)
    assert (result.cf, result.ah) == (True, 0x86)


def test_keyboard_intercept_lets_the_key_pass(bench):
    result = bench.interrupt(0x15, ax=0x4F1E)
    assert (result.cf, result.al) == (True, 0x1E)
