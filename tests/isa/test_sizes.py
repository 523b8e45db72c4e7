"""Instructions in every operand and address size, memory and register operands: the prefixes change only what they may.

What an instruction does is tested elsewhere, mostly in its usual form; here each form of it must do the same.
"""

from __future__ import annotations

import random

import pytest
from encode import encode, home
from machine import Machine, execute, forms
from system_machine import DS, GDT, LDT, LDTR, TR, TSS2, System, descriptor

from dm.isa import features
from dm.isa.insn import Variant
from dm.isa.lineage import Lineage
from dm.isa.map.coverage import form_name
from dm.isa.map.forms import MAPS, ROWS, Row
from dm.machine.state import Seg

#: Where memory operands are, and what lies there before: no byte of it may change that is not written.
AT, FILL = 0x500, 0xEE
UD, NM = 6, 7
EM, TS = 4, 8
_PREFIX = {"66": b"\x66", "F3": b"\xf3", "F2": b"\xf2"}


def code(row: Row, variant: Variant, code32: bool, reg: int = 1) -> bytes:
    """Return the instruction with memory operand [AT], or EBX in its place."""
    out = _PREFIX.get(row.prefix, b"") + b"\xf0" * variant.lock
    out += {"": b"", "rep": b"\xf3", "repe": b"\xf3", "repne": b"\xf2"}[variant.rep]
    if variant.osize != (32 if code32 else 16):
        out += b"\x66"
    if (variant.memory or row.addressed) and variant.asize != (32 if code32 else 16):
        out += b"\x67"
    out += bytes.fromhex(MAPS[row.map]) + bytes([row.opcode])
    if row.third >= 0:
        return out + bytes([row.third])
    if row.mod:
        reg = row.reg if row.reg >= 0 else reg
        wide = variant.asize == 32
        address = bytes([reg << 3 | (5 if wide else 6)]) + AT.to_bytes(4 if wide else 2, "little")
        out += address if variant.memory else bytes([0xC3 | reg << 3])
    return out


def every(*names: str, memory: bool | None = None) -> list[object]:
    """Return the forms of these instructions as parameters."""
    return [
        pytest.param(row, variant, id=f"{row.text} {form_name(variant, row)}")
        for row, variant in forms(*names)
        if memory is None or variant.memory == memory
    ]


def system() -> System:
    m = System()
    m.features = (1 << 64) - 1
    m.memory[AT : AT + 16] = bytes([FILL]) * 16
    return m


def give(m: System, variant: Variant, value: int, size: int = 2) -> None:
    """Set the operand of :func:`code`."""
    if variant.memory:
        m.put(AT, value, size)
    else:
        m.gpr32[3] = value


@pytest.mark.parametrize(("row", "variant"), every("SLDT", "STR", "SMSW"))
def test_selectors_and_status_are_stored_as_words(row: Row, variant: Variant) -> None:
    m = system()
    m.gpr32[3] = 0xEEEEEEEE
    assert m.attempt(code(row, variant, True)) is None
    value = {"SLDT": 0x28, "STR": 0x30, "SMSW": 0x60000011}[row.mnemonic]
    if variant.memory:
        assert m.at(AT, 4) == 0xEEEE0000 | value & 0xFFFF
    else:
        assert m.gpr32[3] == (value if variant.osize == 32 else 0xEEEE0000 | value & 0xFFFF)


@pytest.mark.parametrize(("row", "variant"), every("LLDT", "LTR"))
def test_system_segments_are_loaded_by_a_word(row: Row, variant: Variant) -> None:
    m = system()
    m.set_gdt(0x50, descriptor(LDT + 0x80, 0x7F, 0x82))
    give(m, variant, 0xEEEE0050 if row.mnemonic == "LLDT" else 0xEEEE0038, 4)
    assert m.attempt(code(row, variant, True)) is None
    if row.mnemonic == "LLDT":
        assert (m.seg.selector[LDTR], m.seg.base[LDTR], m.seg.limit[LDTR]) == (0x50, LDT + 0x80, 0x7F)
    else:
        assert (m.seg.selector[TR], m.seg.base[TR], m.at(GDT + 0x3D, 1)) == (0x38, TSS2, 0x8B)


@pytest.mark.parametrize(("row", "variant"), every("VERR", "VERW"))
def test_segments_are_verified_by_a_word(row: Row, variant: Variant) -> None:
    for selector, readable, writable in ((0x10, 1, 1), (0x08, 1, 0), (0x28, 0, 0), (0, 0, 0)):
        m = system()
        give(m, variant, 0xEEEE0000 | selector, 4)
        assert m.attempt(code(row, variant, True)) is None
        assert m["zf"] == (readable if row.mnemonic == "VERR" else writable)


@pytest.mark.parametrize(("row", "variant"), every("LAR", "LSL"))
def test_rights_and_limits_come_in_the_operand_size(row: Row, variant: Variant) -> None:
    m = system()
    m.gpr32[1] = 0xEEEEEEEE
    give(m, variant, 0xEEEE0010, 4)
    assert m.attempt(code(row, variant, True)) is None
    found, value = m.gpr32[1], 0x00C09300 if row.mnemonic == "LAR" else 0xFFFFFFFF
    if variant.osize == 16:
        assert found == 0xEEEE0000 | value & 0xFFFF
    elif row.mnemonic == "LAR":
        assert found & 0xFFF0FFFF == value  # the limit's bits are undefined
    else:
        assert found == value
    assert m["zf"] == 1


@pytest.mark.parametrize(("row", "variant"), every("SGDT", "SIDT"))
def test_table_registers_are_stored_whole(row: Row, variant: Variant) -> None:
    m = system()
    m.gdtr_base = m.idtr_base = 0x12345678
    m.gdtr_limit = m.idtr_limit = 0x7FF
    assert m.attempt(code(row, variant, True)) is None
    assert (m.at(AT, 2), m.at(AT + 2, 4)) == (0x7FF, 0x12345678)
    assert m.at(AT + 6, 1) == FILL


@pytest.mark.parametrize(("row", "variant"), every("LGDT", "LIDT"))
def test_a_16_bit_load_takes_24_bits_of_the_base(row: Row, variant: Variant) -> None:
    m = system()
    m.put(AT, 0x123456780123, 6)
    assert m.attempt(code(row, variant, True)) is None
    base, limit = (m.gdtr_base, m.gdtr_limit) if row.mnemonic == "LGDT" else (m.idtr_base, m.idtr_limit)
    assert (base, limit) == (0x12345678 if variant.osize == 32 else 0x345678, 0x123)


@pytest.mark.parametrize(("row", "variant"), every("LMSW"))
def test_lmsw_loads_four_bits_and_cannot_clear_pe(row: Row, variant: Variant) -> None:
    for value, low in ((0xFFFE, 0xF), (0, 1), (4, 5)):
        m = system()
        give(m, variant, 0xEEEE0000 | value, 4)
        assert m.attempt(code(row, variant, True)) is None
        assert m.cr0 == 0x60000010 | low


@pytest.mark.parametrize(("row", "variant"), every("INVLPG"))
def test_invlpg_takes_the_linear_address(row: Row, variant: Variant) -> None:
    m = system()
    m.seg.base[DS] = 0x10000
    assert m.attempt(code(row, variant, True)) is None
    assert m.log == [("invlpg", 0x10000 + AT)]


@pytest.mark.parametrize("prefix", ["", "66"])
def test_the_operand_size_does_not_matter_to_system_instructions(prefix: str) -> None:
    def run(text: str, **cells: int) -> System:
        m = system()
        for name, value in cells.items():
            setattr(m, name, value)
        assert m.attempt(bytes.fromhex(prefix + text)) is None, text
        return m

    assert run("0f06", cr0=0x60000019).cr0 == 0x60000011  # CLTS
    for nothing in ("0f08", "0f09", "9b"):  # INVD, WBINVD, FWAIT
        m = run(nothing)
        assert (m.gpr32, m.cr0) == (system().gpr32, 0x60000011)
    m = system()
    m.cr3 = 0x123000
    assert m.attempt(bytes.fromhex(prefix + "0f20db")) is None  # MOV EBX,CR3: 32 bits always
    assert m.gpr32[3] == 0x123000
    m.gpr32[3] = 0xABC000
    assert m.attempt(bytes.fromhex(prefix + "0f22db")) is None
    assert (m.cr3, m.flushed) == (0xABC000, 1)
    m.gpr32[3] = 0x11223344
    assert m.attempt(bytes.fromhex(prefix + "0f23d3")) is None
    assert m.attempt(bytes.fromhex(prefix + "0f21d1")) is None
    assert (m.dr[2], m.gpr32[1]) == (0x11223344, 0x11223344)
    m.msrs[0x8B] = 0x1122334455667788
    m.gpr32[1] = 0x8B
    assert m.attempt(bytes.fromhex(prefix + "0f32")) is None
    assert (m.gpr32[2], m.gpr32[0]) == (0x11223344, 0x55667788)
    m.gpr32[0] = 5
    assert m.attempt(bytes.fromhex(prefix + "0f30")) is None
    assert m.msrs[0x8B] == 0x1122334400000005
    m = run("0fa2")
    assert m.gpr32[:4] == [0, 0, 0, 0]  # this machine's table has no leaf 0
    m = run("0f01f9", tsc_aux=7)
    assert (m.gpr32[2], m.gpr32[0], m.gpr32[1]) == (0x12345678, 0x9ABCDEF0, 7)
    m = run("0f34", sysenter_cs=0x43, sysenter_esp=0x6000, sysenter_eip=0x1000)
    assert (m.cpl, m.eip, m.esp) == (0, 0x1000, 0x6000)
    m.gpr32[1], m.gpr32[2] = 0x9000, 0x401000
    assert m.attempt(bytes.fromhex(prefix + "0f35")) is None
    assert (m.cpl, m.eip, m.esp) == (3, 0x401000, 0x9000)
    m = run("0f05", vendor=1, efer=1, star=0x0048_0040_00123000)
    assert (m.cpl, m.eip, m.gpr32[1]) == (0, 0x123000, 0x8002 + len(prefix) // 2)
    assert m.attempt(bytes.fromhex(prefix + "0f07")) is None
    assert (m.cpl, m.eip) == (3, 0x8002 + len(prefix) // 2)


@pytest.mark.parametrize("prefix", ["", "66"])
def test_lock_names_cr8_on_amd(prefix: str) -> None:
    m = system()
    m.vendor = 1
    m.gpr32[0] = 5
    assert m.attempt(bytes.fromhex(prefix + "f00f22c0")) is None
    assert m.cr8 == 5
    assert m.attempt(bytes.fromhex(prefix + "f00f20c3")) is None
    assert m.gpr32[3] == 5


@pytest.mark.parametrize("prefix", ["", "66"])
@pytest.mark.parametrize("opcode", ["0f01c8", "0f01c9", "0f01f9"])
def test_what_cpuid_lacks_is_undefined(prefix: str, opcode: str) -> None:
    m = system()
    m.features = 0
    fault = m.attempt(bytes.fromhex(prefix + opcode))
    assert (fault.vector, fault.cause) == (UD, "NO_FEATURE")


@pytest.mark.parametrize(("row", "variant"), every("RDRAND", "RDSEED"))
def test_random_bits_come_in_the_operand_size(row: Row, variant: Variant) -> None:
    m = system()
    m.gpr32[3] = 0x11111111
    assert m.attempt(code(row, variant, True)) is None
    assert m.gpr32[3] == (0x76543210 if variant.osize == 32 else 0x11113210)
    assert m["cf"] == 1


@pytest.mark.parametrize(("row", "variant"), every("NOP"))
def test_hint_nops_touch_nothing(row: Row, variant: Variant) -> None:
    m = Machine()
    m.code32 = True
    m.seg.limit[Seg.DS] = 0  # nor is their operand looked at
    execute((code(row, variant, True) if row.mod else b"\x66" * (variant.osize == 16) + b"\x90").hex(), m=m)


@pytest.mark.parametrize("row", [row for row in ROWS if row.mnemonic in ("UD", "UD0", "UD1", "UD2", "RSM")], ids=str)
def test_undefined_opcodes_in_every_size(row: Row) -> None:
    rng = random.Random(row.text)
    tried = 0
    for variant in {v for r, v in forms(row.mnemonic) if r is row}:
        for code32 in (False, True):
            for _ in range(24):
                text = encode(row, variant, code32, rng)
                if text is not None:
                    m = Machine()
                    m.vendor = int(home(row) == Lineage.AMD)
                    m.code32 = code32
                    with pytest.raises(Exception, match="#6") as raised:
                        m.run(text)
                    assert (raised.value.vector, raised.value.error) == (UD, 0)
                    tried += 1
    assert tried, "no bytes mean this row"


# Strings and ports


@pytest.mark.parametrize(("row", "variant"), every("INSB", "INSW"))
def test_port_input_strings(row: Row, variant: Variant) -> None:
    size = {"6C": 1, "6D": variant.osize // 8}[row.text[:2]]
    m = Machine()
    m.ports = [0x44332211, 0x88776655]
    if size < 4:
        m.ports = [port & (1 << 8 * size) - 1 for port in m.ports]
    wide = variant.asize == 32
    m["dx"], m["ecx"], m["edi"] = 0x60, 2 if wide else 0x10002, 0x12000 if wide else 0xA2000
    m.seg.limit[Seg.ES] = 0xFFFFF
    count = 2 if variant.rep else 1
    expected = b"".join(port.to_bytes(size, "little") for port in m.ports)[: size * count]
    m.run(code(row, variant, False))
    at = 0x12000 if variant.asize == 32 else 0x2000
    assert m.memory[at : at + 9] == expected.ljust(9, b"\0")
    assert (m["di"], m["edi"] >> 16) == (0x2000 + size * count, 1 if variant.asize == 32 else 0xA)
    assert m["cx"] == (0 if variant.rep else 2)
    assert m.log == [("in", 0x60, size, 2) if variant.rep else ("in", 0x60, size)]


@pytest.mark.parametrize(("row", "variant"), every("OUTSB", "OUTSW"))
def test_port_output_strings(row: Row, variant: Variant) -> None:
    size = {"6E": 1, "6F": variant.osize // 8}[row.text[:2]]
    at = 0x12000 if variant.asize == 32 else 0x2000
    m = Machine()
    m.memory[at : at + 8] = bytes.fromhex("1122334455667788")
    m["dx"], m["ecx"], m["esi"] = 0x60, 2, at if variant.asize == 32 else 0xA2000
    m.seg.limit[Seg.DS] = 0xFFFFF
    m.run(code(row, variant, False))
    count = 2 if variant.rep else 1
    values = [int.from_bytes(m.memory[at + n * size : at + (n + 1) * size], "little") for n in range(count)]
    assert m.log == [("out", 0x60, size, value) for value in values]
    assert (m["si"], m["cx"]) == (0x2000 + size * count, 0 if variant.rep else 2)


@pytest.mark.parametrize("row", [row for row in ROWS if row.mnemonic in ("IN", "OUT")], ids=str)
@pytest.mark.parametrize("osize", [16, 32])
def test_ports_in_both_sizes(row: Row, osize: int) -> None:
    text = code(row, Variant(osize, 16, False), False) + (b"\x71" if "Ib" in row.operands else b"")
    size = 1 if "AL" in row.operands else osize // 8
    port = 0x71 if "Ib" in row.operands else 0x1234
    value = 0x44332211 & (1 << 8 * size) - 1
    m = Machine()
    m["edx"], m["eax"] = 0x99991234, 0xAABBCCDD if row.mnemonic == "IN" else 0x44332211
    if row.mnemonic == "IN":
        m.ports = [value]
        m.run(text)
        assert m["eax"] == 0xAABBCCDD & ~((1 << 8 * size) - 1) | value
        assert m.log == [("in", port, size)]
    else:
        m.run(text)
        assert m.log == [("out", port, size, value)]


# Far pointers and indirect branches


@pytest.mark.parametrize(("row", "variant"), every("LES", "LDS", "LSS", "LFS", "LGS"))
def test_far_pointers_are_loaded_in_every_size(row: Row, variant: Variant) -> None:
    m = Machine()
    size = variant.osize // 8
    m.memory[AT : AT + size + 2] = bytes.fromhex("78563412")[:size] + b"\x34\x12"
    m["ecx"] = 0xAAAAAAAA
    m.run(code(row, variant, False))
    assert m["ecx"] == (0x12345678 if size == 4 else 0xAAAA5678)
    seg = row.mnemonic[1:].lower()
    number = ("es", "cs", "ss", "ds", "fs", "gs").index(seg)
    assert (m[seg], m.seg.base[number]) == (0x1234, 0x12340)


@pytest.mark.parametrize(
    ("row", "variant"),
    [p for p in every("MOV") if "Sw" in p.values[0].operands],  # type: ignore[attr-defined]
)
def test_segment_registers_move_as_words(row: Row, variant: Variant) -> None:
    m = Machine()
    load = row.operands[0] == "Sw"
    m.memory[AT : AT + 4] = b"\x34\x12\xee\xee"
    m["ebx"] = 0xEEEE1234
    m["es"] = 0 if load else 0x4321
    m.run(code(row, variant, False, reg=0))
    if load:
        assert (m["es"], m.seg.base[0]) == (0x1234, 0x12340)
    elif variant.memory:
        assert m.memory[AT : AT + 4] == b"\x21\x43\xee\xee"
    else:
        assert m["ebx"] == (0x4321 if variant.osize == 32 else 0xEEEE4321)


@pytest.mark.parametrize(("row", "variant"), [*every("CALLF", memory=True), *every("JMPF", memory=True)])
def test_far_branches_through_memory(row: Row, variant: Variant) -> None:
    m = Machine()
    size = variant.osize // 8
    m.memory[AT : AT + size + 2] = b"\x78\x56\0\0"[:size] + b"\x34\x12"
    text = code(row, variant, False)
    m.run(text)
    assert (m.eip, m["cs"], m.seg.base[Seg.CS]) == (0x5678, 0x1234, 0x12340)
    call = row.mnemonic == "CALLF"
    assert m["sp"] == 0x7000 - 2 * size * call
    if call:
        assert int.from_bytes(m.memory[m["sp"] : m["sp"] + size], "little") == 0x8000 + len(text)


@pytest.mark.parametrize(("row", "variant"), [*every("CALL", memory=True), *every("JMP", memory=True)])
def test_near_branches_through_memory(row: Row, variant: Variant) -> None:
    m = Machine()
    size = variant.osize // 8
    m.memory[AT : AT + 4] = b"\x78\x56\0\0" if size == 4 else b"\x78\x56\xff\xff"
    text = code(row, variant, False)
    m.run(text)
    call = row.mnemonic == "CALL"
    assert (m.eip, m["sp"]) == (0x5678, 0x7000 - size * call)
    if call:
        assert int.from_bytes(m.memory[m["sp"] : m["sp"] + size], "little") == 0x8000 + len(text)


@pytest.mark.parametrize("text", ["cc", "66cc"])
def test_int3_pushes_words_in_real_mode(text: str) -> None:
    m = System().real_mode()
    m.put(0xC, 0x1234_5678, 4)
    m.set_eflags(2)
    assert m.attempt(bytes.fromhex(text)) is None
    assert (m.eip, m["cs"], m.stack(3, 2)) == (0x5678, 0x1234, [0x8000 + len(text) // 2, 0, 2])


# What x87, MMX and SSE share


def floating(**cells: int) -> Machine:
    """A machine that may use all of it; an operand-size prefix would be a mandatory one, so the code size decides."""
    m = Machine()
    m.code32 = bool(cells.pop("code32", 0))
    m.features = (1 << 64) - 1
    m.cr4 = 1 << 9  # OSFXSR
    for name, value in cells.items():
        setattr(m, name, value)
    return m


@pytest.mark.parametrize(("row", "variant"), every("FXSAVE", "FXRSTOR"))
def test_the_image_moves_in_every_size(row: Row, variant: Variant) -> None:
    m = floating(code32=variant.osize == 32)
    m.features &= ~features.bits("zero_fcs_fds")
    saved = bytes.fromhex("7f03 0038 ff00 1101 1111111111110000 1111111111110000")
    image = b"\x5a" * 512
    if row.mnemonic == "FXSAVE":
        m.fxsave[0:24] = saved
        m.memory[AT : AT + 512] = image
        m.run(code(row, variant, m.code32))
        assert m.memory[AT : AT + 24] == saved
        assert m.memory[AT + 464 : AT + 512] == image[464:]
    else:
        m.memory[AT : AT + 512] = saved + bytes(488)
        m.run(code(row, variant, m.code32))
        assert m.fxsave[0:24] == saved


@pytest.mark.parametrize(("row", "variant"), every("LDMXCSR", "STMXCSR"))
def test_mxcsr_moves_in_every_size(row: Row, variant: Variant) -> None:
    m = floating(code32=variant.osize == 32)
    m.fxsave[24:28] = b"\x80\x1f\0\0"
    m.memory[AT : AT + 4] = b"\xbf\x9f\0\0"
    m.run(code(row, variant, m.code32))
    assert (m.fxsave[24:28], m.memory[AT : AT + 4]) == (
        (b"\xbf\x9f\0\0", b"\xbf\x9f\0\0") if row.mnemonic == "LDMXCSR" else (b"\x80\x1f\0\0", b"\x80\x1f\0\0")
    )


@pytest.mark.parametrize(("row", "variant"), every("LFENCE", "MFENCE", "SFENCE", "CLFLUSH", "EMMS"))
def test_fences_change_nothing(row: Row, variant: Variant) -> None:
    m = floating(code32=variant.osize == 32)
    m.fxsave[4] = 0xFF
    m.memory[AT : AT + 4] = b"abcd"
    before = bytes(m.memory)
    m.run(code(row, variant, m.code32))
    assert (bytes(m.memory), m.gpr32) == (before, Machine().gpr32)
    assert m.log == ([("fence",)] if row.mnemonic == "MFENCE" else [])
    assert m.fxsave[4] == (0 if row.mnemonic == "EMMS" else 0xFF)
    if row.mnemonic == "CLFLUSH":
        m.seg.limit[Seg.DS] = AT - 1
        with pytest.raises(Exception, match="SEGMENT_LIMIT"):
            m.run(code(row, variant, m.code32))


@pytest.mark.parametrize(("row", "variant"), every("MOVNTI"))
def test_movnti_stores_a_doubleword(row: Row, variant: Variant) -> None:
    m = floating(code32=variant.osize == 32)
    execute(code(row, variant, m.code32).hex(), {"ecx": 0x44332211}, {AT: b"\x11\x22\x33\x44"}, m)


def test_a_part_without_x87_lets_escapes_pass() -> None:
    """As the 80286 did (and the recorded vectors show); with CR0.EM they are for software, with CR0.TS they wait."""
    for row, variant in forms(*{row.mnemonic for row in ROWS if not row.map and 0xD8 <= row.opcode <= 0xDF}):
        if row.mnemonic == "X87":
            continue
        m = floating(code32=variant.osize == 32)
        m.features &= ~(1 << list(features.TABLE).index("fpu"))
        execute(code(row, variant, m.code32).hex(), m=m)
        for cr0 in (EM, TS):
            m = floating(code32=variant.osize == 32, cr0=cr0)
            with pytest.raises(Exception, match="#7") as raised:
                m.run(code(row, variant, m.code32))
            assert (raised.value.vector, raised.value.cause) == (NM, "NO_X87")
