import pytest

from dm.machine.architecture import Eflags
from dm.shim import keys
from dm.shim.bios import rom


def strike(bench, data):
    """Let the firmware's INT 9 take scan codes, as its stub in ROM hands them over."""
    for byte in data:
        bench.state.ax = 0x4F00 | byte
        bench.state.rflags |= Eflags.CF
        bench.enter(rom.Trap.KEY)
        assert bench.state.rip == rom.KEY_DONE


def strike_in_memory(bench, word):
    assert bench.pc.bda.put_key(word)


def taken(bench, function=0):
    result = bench.interrupt(0x16, ax=function << 8)
    assert result.returned
    return result.ax


@pytest.mark.parametrize(
    ("char", "word"),
    [("a", 0x1E61), ("A", 0x1E41), ("1", 0x0231), ("!", 0x0221), ("$", 0x0524), ("{", 0x1A7B), ("\\", 0x2B5C),
     (" ", 0x3920), ("\n", 0x1C0D), ("\t", 0x0F09), ("\x1b", 0x011B), ("\b", 0x0E08), ("\x03", 0x2E03)],
)  # fmt: skip
def test_characters(bench, char, word):
    strike(bench, keys.type_character(char))
    assert taken(bench) == word


@pytest.mark.parametrize(
    ("name", "old", "enhanced"),
    [("<up>", 0x4800, 0x48E0), ("<f1>", 0x3B00, 0x3B00), ("<alt-x>", 0x2D00, 0x2D00), ("<ctrl-left>", 0x7300, 0x73E0),
     ("<shift-f2>", 0x5500, 0x5500), ("<delete>", 0x5300, 0x53E0)],
)  # fmt: skip
def test_named_keys(bench, name, old, enhanced):
    (key,) = keys.parse(name)
    strike(bench, key)
    strike(bench, key)
    assert taken(bench) == old
    assert taken(bench, 0x10) == enhanced


def test_new_keys_are_invisible_to_the_old_call(bench):
    strike(bench, keys.press(keys.NAMED["f11"]) + keys.type_character("x"))
    assert taken(bench) == 0x2D78
    strike(bench, keys.press(keys.NAMED["f11"]))
    assert taken(bench, 0x10) == 0x8500


def test_peek_says_whether_a_key_waits(bench):
    assert not bench.pc.keys.asked
    assert bench.interrupt(0x16, ax=0x0100).zf
    assert bench.pc.keys.asked
    strike(bench, keys.type_character("q"))
    result = bench.interrupt(0x16, ax=0x0100)
    assert (result.zf, result.ax) == (False, 0x1071)
    assert taken(bench) == 0x1071
    assert bench.interrupt(0x16, ax=0x1100).zf


def test_read_without_a_key_waits_in_the_guest(bench):
    assert not bench.interrupt(0x16, ax=0).returned
    assert bench.pc.waits
    assert bench.state.rflags & Eflags.IF, "for the keyboard's interrupt"
    assert bench.pc.keys.asked
    strike_in_memory(bench, 0x1E61)
    bench.run()
    assert (bench.state.cs.selector, bench.state.ax) == (0x1234, 0x1E61)


def test_modifiers_show_in_the_flags(bench):
    strike(bench, bytes((0x2A,)))
    assert bench.interrupt(0x16, ax=0x0200).al == 0x02
    strike(bench, bytes((0x1D, 0xE0, 0x38)))
    assert bench.interrupt(0x16, ax=0x1200).ax == 0x090E
    strike(bench, bytes((0xAA, 0x9D, 0xE0, 0xB8)))
    assert bench.interrupt(0x16, ax=0x0200).al == 0


def test_caps_lock_toggles_letters_only(bench):
    strike(bench, bytes((0x3A, 0x3A, 0xBA)) + keys.type_character("a") + keys.type_character("1"))
    assert taken(bench) == 0x1E41
    assert taken(bench) == 0x0231
    strike(bench, bytes((0x3A, 0xBA)) + keys.type_character("a"))
    assert taken(bench) == 0x1E61


def test_num_lock_gives_digits(bench):
    strike(bench, bytes((0x45, 0xC5, 0x47, 0xC7)))
    assert taken(bench) == 0x4737


def test_alt_digits_make_a_character(bench):
    strike(bench, bytes((0x38, 0x4D, 0xCD, 0x4C, 0xCC, 0xB8)))
    assert taken(bench) == 65


def test_buffer_holds_fifteen_keys(bench):
    for _ in range(20):
        strike(bench, keys.type_character("z"))
    assert bench.pc.bda.keys_full
    assert [taken(bench) for _ in range(15)] == [0x2C7A] * 15
    assert bench.interrupt(0x16, ax=0x0100).zf


def test_stuffing_a_key(bench):
    assert bench.interrupt(0x16, ax=0x0500, cx=0x1234).al == 0
    assert taken(bench) == 0x1234
    for _ in range(15):
        bench.interrupt(0x16, ax=0x0500, cx=0x1234)
    assert bench.interrupt(0x16, ax=0x0500, cx=0x1234).al == 1


def test_intercepted_key_is_dropped(bench):
    bench.state.ax, bench.state.rflags = 0x4F1E, 2
    bench.enter(rom.Trap.KEY)
    assert bench.interrupt(0x16, ax=0x0100).zf


def test_ctrl_alt_del_resets(bench):
    strike(bench, bytes((0x1D, 0x38, 0xE0, 0x53)))
    assert bench.pc.system.reset_requested
    assert bench.memory.read_int(0x472, 2) == 0x1234


def test_pause_and_fake_shifts_leave_no_key(bench):
    strike(bench, bytes((0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5, 0xE0, 0x2A, 0xE0, 0xAA, 0xFA)))
    assert bench.interrupt(0x16, ax=0x0100).zf
    assert bench.pc.bda.shift_flags == 0


def test_key_interrupt_is_acknowledged(bench):
    bench.pc.keyboard.type([keys.type_character("k")])
    assert bench.pc.pic.acknowledge() == 9
    strike(bench, b"\x25")
    assert not bench.pc.pic.master.isr & 2


def poll(bench, times, function=0x0100, work=0):
    for _ in range(times):
        bench.work += work
        bench.interrupt(0x16, ax=function)


def test_a_guest_that_only_polls_lets_the_host_sleep(bench):
    poll(bench, 63)
    assert bench.idled == []
    poll(bench, 1)
    assert bench.idled == [5_000_000]
    poll(bench, 2)
    assert len(bench.idled) == 2, "once it is known to wait it is asked sooner"
    poll(bench, 80)
    assert bench.idled[-1] == 60_000_000
    poll(bench, 8, work=100_000)
    count = len(bench.idled)
    poll(bench, 640, work=100_000)
    assert len(bench.idled) == count, "a guest with other work between its polls is not slowed down"


def test_waiting_for_the_next_tick_lets_the_host_sleep(bench):
    for _ in range(65):
        assert bench.interrupt(0x1A, ax=0).returned
    assert len(bench.idled) == 1


def test_a_guest_that_watches_ticks_that_come_does_not_rest(bench):
    for i in range(200):
        bench.pc.bda.ticks = i
        bench.interrupt(0x1A, ax=0)
    assert bench.idled == []
