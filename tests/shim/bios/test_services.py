"""The services that the guest executes itself: that they cost no exits, and what other modules' tests do not show."""

import pytest

from dm.shim.bios import rom, services


@pytest.mark.parametrize(
    ("vector", "ax"),
    [(0x10, 0x0E41), (0x10, 0x0200), (0x10, 0x0300), (0x10, 0x0601), (0x10, 0x0700), (0x10, 0x0800), (0x10, 0x0941),
     (0x10, 0x0A41), (0x10, 0x0F00), (0x10, 0x1301), (0x11, 0), (0x12, 0), (0x16, 0x0100), (0x16, 0x1200), (0x1A, 0),
     (0x1A, 0x0100)],
)  # fmt: skip
def test_nothing_is_asked_of_the_shim(bench, vector, ax):
    calls = dict(bench.pc.firmware.calls)
    bench.pc.answer = None
    assert bench.interrupt(vector, ax=ax, bx=7, cx=1, dx=0, es=0x500, bp=0).returned
    assert bench.pc.firmware.calls == calls


def test_registers_are_kept(bench):
    values = {"eax": 0xAAAA0E41, "ebx": 0xBBBB0007, "ecx": 0xCCCCCCCC, "edx": 0xDDDDDDDD, "esi": 0x11111111}
    values |= {"edi": 0x22222222, "ebp": 0x33333333}
    for _ in range(2000):  # the last scroll
        bench.interrupt(0x10, **values)
    assert {name: getattr(bench.state, name) for name in values} == values
    assert bench.state.ds.selector == bench.state.es.selector == 0


def test_flags_but_the_results_are_kept(bench):
    bench.state.rflags = 0x0CD7
    assert bench.interrupt(0x16, ax=0x0100).zf
    assert bench.state.rflags & ~0x40 == 0x0CD7 & ~0x40, "direction flag and carry too"


def test_equipment_and_memory_size(bench):
    assert bench.interrupt(0x11).ax == 0x0221
    assert bench.interrupt(0x12).ax == 639


def test_the_cursor_of_the_vga_follows(bench):
    bench.interrupt(0x10, ax=0x0200, bx=0, dx=0x0305)
    assert bench.pc.vga.cursor == 3 * 80 + 5
    bench.outb(0x3D4, 0x0F)
    assert bench.inb(0x3D5) == 245
    bench.outb(0x3D5, 246)
    assert bench.pc.vga.cursor == 246
    assert bench.memory.read_int(0xF0000 + services.CURSOR, 2) == 246


def test_teletype_on_another_page_leaves_the_shown_one(bench):
    bench.interrupt(0x10, ax=0x1301, bx=0x0207, cx=3, dx=0x1800, es=0xF000, bp=0xFFF5)
    assert bench.row(0) == ""
    assert bench.memory.read(0xBA000 + 24 * 160, 5) == b"0\x071\x07/"
    assert bench.pc.vga.cursor == 0


def test_mode_7_writes_where_its_memory_is(bench):
    bench.interrupt(0x10, ax=0x0007)
    bench.interrupt(0x10, ax=0x0E4D)
    assert bench.memory.read(0xB0000, 2) == b"M\x07"
    assert bench.memory.read(0xB8000, 1) == b"\xff", "nothing is there now"
    assert bench.interrupt(0x10, ax=0x0800, bx=0).al == 0x20
    assert bench.inb(0x3D5) == 0xFF
    bench.outb(0x3B4, 0x0F)
    assert bench.inb(0x3B5) == 1


def test_labels_lie_within_their_room():
    made = rom.code()
    assert services.START + len(made.code) <= services.END
    assert {"int10", "int11", "int12", "int16", "int1a", "print"} <= made.labels.keys()


def test_services_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(services, "END", services.START + 100)
    with pytest.raises(ValueError, match="the services end at"):
        services.assembled.__wrapped__(0xE120, 0xE12C, 0xE134, 0xE404)
