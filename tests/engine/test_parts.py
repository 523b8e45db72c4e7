"""Named parts: what each shows by CPUID, and what a wrong name is answered with."""

from __future__ import annotations

import pytest

from dm import Emulator, State
from dm.engine.parts import names, part, summary
from dm.isa import features
from dm.isa.parts import DEFAULT_CPUID, PARTS
from dm.machine.state import Segment

ENGINES = ("native", "python")


def guest() -> State:
    """Return real mode at 0:7C00h."""
    state = State.reset()
    state.seg[1], state.rip = Segment(0, 0, 0xFFFF, 0x9B), 0x7C00
    return state


def vendor_of(vm: Emulator) -> bytes:
    """Return what CPUID leaf 0 says to the guest."""
    vm.write(0x7C00, bytes.fromhex("6631c0 0fa2 f4"))  # xor eax, eax; cpuid; hlt
    vm.run()
    return b"".join(register.to_bytes(4, "little") for register in (vm.state.ebx, vm.state.edx, vm.state.ecx))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("cpu", "vendor"),
    [
        ("", b"GenuineIntel"),
        ("intel", b"GenuineIntel"),
        ("P6", b"GenuineIntel"),
        ("amd", b"AuthenticAMD"),
        ("AuthenticAMD", b"AuthenticAMD"),
        ("x86-64", b"GenuineIntel"),
        ("amd-x86-64", b"AuthenticAMD"),
    ],
)
def test_cpuid_says_the_vendor(engine: str, cpu: str, vendor: bytes) -> None:
    with Emulator(1 << 20, guest(), engine=engine, cpu=cpu) as vm:
        assert vendor_of(vm) == vendor


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_keyed_by_its_vendor(name: str) -> None:
    """Its model is one that engines take, and vendors differ by the cell that leaf 0 gives."""
    table = {(row.leaf, row.subleaf): (row.eax, row.ebx, row.ecx, row.edx) for row in part(name).cpuid}
    assert table == PARTS[name].cpuid
    assert part(name).model in features.MODELS
    assert features.vendor(table) == int("amd" in name)


def test_the_vendors_parts_of_a_class_announce_the_same() -> None:
    assert PARTS["amd"].cpuid[1, 0][3] == PARTS["intel"].cpuid[1, 0][3] == DEFAULT_CPUID[1, 0][3]


@pytest.mark.parametrize("engine", ENGINES)
def test_models_go_by_name_too(engine: str) -> None:
    """An 80286 has no operand-size prefix: #UD, whose handler is at 0:1000h."""
    for name, rip in (("80286", 0x1001), ("80386", 0x7C03)):
        with Emulator(1 << 20, guest(), engine=engine, cpu=name) as vm:
            vm.write(0x7C00, b"\x66\x90\xf4")
            vm.write(6 * 4, b"\x00\x10\x00\x00")
            vm.write(0x1000, b"\xf4")
            vm.run()
            assert vm.state.rip == rip


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("intle", "did you mean intel?"), ("amd64", "did you mean amd?"), ("80186", "did you mean 80"), ("z", "one of")],
)
def test_a_wrong_name_is_answered_with_the_right_ones(wrong: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"CPU '{wrong}' is not known") as caught:
        part(wrong)
    assert hint in str(caught.value)
    assert names() in str(caught.value)
    with pytest.raises(ValueError, match="is not known"):
        Emulator(4096, cpu=wrong)


def test_a_name_excludes_a_table_and_a_model() -> None:
    with pytest.raises(ValueError, match="model is given as well: one of them is needed"):
        Emulator(4096, cpu="amd", model="p6")
    with pytest.raises(ValueError, match="cpuid is given as well"):
        Emulator(4096, cpu="amd", cpuid=part("amd").cpuid)
    with pytest.raises(TypeError, match="cpu is int, the name of a CPU model is needed"):
        Emulator(4096, cpu=6)  # type: ignore[arg-type]


def test_every_part_is_explained() -> None:
    assert all(f"{name}: " in summary() for name in PARTS)


def test_no_name_is_the_first_part() -> None:
    assert part() == part("intel") == part(next(iter(PARTS)))
