"""A primitive is declared once: what implements it anywhere has the shape of its declaration."""

from __future__ import annotations

import inspect

import pytest
from machine import Machine
from system_machine import System

from dm.engine.native import macros
from dm.engine.python_engine import machine as python_machine
from dm.engine.python_engine.translate import PER_WIDTH
from dm.isa import ends
from dm.isa import primitives as declared
from dm.isa.primitives import primitives
from dm.microcode import EACH, Does, Field, Microcode, MicrocodeError, Terminator, family
from dm.microcode.print_c import CPrinter, CTarget
from dm.microcode.print_python import PythonPrinter, PythonTarget

PRIMITIVES = list(primitives())
FAST = (macros._HERE / "fast.h").read_text()
SOURCE = "\n".join(path.read_text() for path in sorted(macros._HERE.glob("*.c")))


def parameters(method: object) -> list[str]:
    found = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in found)
    return [p.name for p in found if p.name != "self"]


def test_a_family_is_declared_by_width() -> None:
    made = family("swap", (16, 32), Does.ASK, 1, at=64, old=EACH, new=EACH)
    assert (made[16].name, made[16].args) == ("swap16", (64, 16, 16))
    assert (made[32].family, made[32].size, made[32].result, made[32].aborts) == ("swap", 4, 1, True)
    assert made[32].names == ("at", "old", "new")


def test_names_are_unique_and_all_are_listed() -> None:
    assert len({made.name for made in PRIMITIVES}) == len(PRIMITIVES) > 60
    assert declared.KEEP in PRIMITIVES
    assert declared.LOAD[64] in PRIMITIVES


@pytest.mark.parametrize("made", PRIMITIVES, ids=lambda made: made.name)
def test_the_python_engine_has_it(made) -> None:
    per_width = not made.family or made.family in PER_WIDTH
    method = getattr(python_machine.Machine, made.name if per_width else made.family)
    assert parameters(method) == [*made.names, *([] if per_width else ["size"])]


@pytest.mark.parametrize("machine", [Machine, System])
def test_the_tests_machines_have_nothing_of_another_shape(machine) -> None:
    families = {made.family: made for made in PRIMITIVES if made.family}
    for name in dir(machine):
        if name.startswith("any_"):
            assert name[4:] in families, f"{name}: no such family of primitives"
            assert parameters(getattr(machine, name)) == ["size", *families[name[4:]].names], name
    for made in PRIMITIVES:
        if not made.family and hasattr(machine, made.name):
            assert parameters(getattr(machine, made.name)) == list(made.names), made.name


def test_the_whole_tests_machine_has_every_primitive() -> None:
    missing = [m.name for m in PRIMITIVES if not hasattr(System, f"any_{m.family}" if m.family else m.name)]
    assert missing == []


def test_the_native_engine_has_it() -> None:
    macros.check_functions(SOURCE)
    macros.check_fast_paths(FAST)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("#define FAST_LOAD(", "#define SLOW_LOAD(", "primitive load: FAST_LOAD in fast.h is missing"),
        (
            "FAST_STORE(bits, seg, offset, value, bail)",
            "FAST_STORE(bits, seg, value, bail)",
            r"FAST_STORE .* has \(bits",
        ),
        ("#define FAST_RMW(", "#define FAST_PEEK(bits) 0\n#define FAST_RMW(", "FAST_PEEK in fast.h: no primitive peek"),
    ],
)
def test_a_fast_path_of_another_shape_fails_the_build(old: str, new: str, message: str) -> None:
    assert old in FAST
    with pytest.raises(MicrocodeError, match=message):
        macros.check_fast_paths(FAST.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nvoid commit(struct", "\nvoid commit_it(struct", "primitive commit: no function commit"),
        (
            "\nuint64_t msr_read(struct cpu *cpu, uint32_t number)",
            "\nuint64_t msr_read(struct cpu *cpu)",
            "primitive msr_read: the",
        ),
        ("\nuint64_t msr_read(", "\nuint32_t msr_read(", "the runtime has uint32_t msr_read.*uint64_t msr_read"),
    ],
)
def test_a_function_of_another_shape_fails_the_build(old: str, new: str, message: str) -> None:
    assert old in SOURCE
    with pytest.raises(MicrocodeError, match=message):
        macros.check_functions(SOURCE.replace(old, new))


def test_what_may_leave_the_instruction_says_how() -> None:
    """Whatever could abandon a fast handler without a fast path does so; the rest is called."""
    lines = {line.split("(")[0].removeprefix("#define "): line for line in macros.fast_macros().splitlines()}
    assert lines["PROBE_READ"].endswith(") bail")
    assert lines["COMMIT"].endswith(") bail")
    assert lines["SEGMENT_CHANGED"].endswith(") segment_changed(cpu, seg)")
    assert lines["CPUID_ENTRY"].endswith(") result = cpuid_entry(cpu, leaf, subleaf, which)")
    assert lines["LOAD16"].endswith(") FAST_LOAD(16, result, seg, offset, bail)")
    assert not any(made.name.upper() in lines for made in PRIMITIVES if made.does & Does.OUTSIDE)


def test_every_primitive_prints() -> None:
    cells = {width: Field(f"cell{width}", width) for width in (1, 8, 16, 32, 64)}
    m = Microcode("all")
    for made in PRIMITIVES:
        result = m.call(made, *(m.get(cells[width]) for width in made.args))
        if made.result:
            m.set(cells[made.result], result)
    m.end(ends.NEXT)
    code = m.finish()
    compile(PythonPrinter(PythonTarget()).function(code), "all", "exec")
    exact = macros.exact_macros()
    text = CPrinter(CTarget(), registers=False).function(code)
    for made in PRIMITIVES:
        head = f"{made.name.upper()}("
        given = next(line for line in text.splitlines() if line.strip().startswith(head))
        macro = next(line for line in exact.splitlines() if line.startswith(f"#define {head}"))
        assert given.count(",") == macro[: macro.index(")")].count(","), made.name


def test_every_terminator_has_a_macro_in_both_kinds_of_handlers() -> None:
    exact = (macros._HERE / "exact.h").read_text()
    for end in (value for value in vars(ends).values() if isinstance(value, Terminator)):
        for header in (exact, FAST):
            assert f"#define END_{end.name.upper()}(" in header, end.name
