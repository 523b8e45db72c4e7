"""What is the native engine's own: its build, its decoder, its stack, atomic accesses."""

import os
import platform
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from guest import Machine, make_engine

import dm.engine
from dm.engine.api import CpuConfig, ExitReason, MemoryMap, Region, RegionKind
from dm.engine.native import build, generate, macros, structures
from dm.isa.map import decode
from dm.machine.header import header, words_header
from dm.machine.state import State

ROOT = Path(__file__).parents[2]
CODE = 0x7C00


@pytest.fixture(scope="module", autouse=True)
def _native():
    usable, why = dm.engine.native_status()
    if not usable:
        pytest.skip(why)


def real_mode(**registers):
    s = State.reset()
    s.cs.selector, s.cs.base, s.rip, s.sp = 0, 0, CODE, 0x7000
    for name, value in registers.items():
        setattr(s, name, value)
    return s


def machine(code, ram=None, **registers):
    engine = dm.engine.create("native")
    ram = bytearray(0x100000) if ram is None else ram
    ram[CODE : CODE + len(code)] = code
    engine.set_map(MemoryMap(1, (Region(0, len(ram), RegionKind.RAM, ram),)))
    engine.set_state(real_mode(**registers))
    return engine, ram


def test_it_is_the_engine_in_use():
    name, why = dm.engine.engine_in_use()
    assert (name, dm.engine.engine_name()) == ("native", "native")
    assert why
    assert dm.engine.create().name == "native"


def test_unknown_names_and_models_are_refused():
    with pytest.raises(ValueError, match="native, python"):
        dm.engine.create("nativ")
    with pytest.raises(ValueError, match="80286"):
        dm.engine.create("native", CpuConfig(model="8086"))


def test_an_extension_of_other_sources_is_refused(monkeypatch):
    import dm.engine.native.digest

    monkeypatch.setattr(dm.engine.native.digest, "digest", lambda: "0" * 64)
    dm.engine.native_status.cache_clear()
    try:
        assert dm.engine.engine_name() == "python"
        with pytest.raises(RuntimeError, match="rebuild it: python -m dm"):
            dm.engine.create("native")
    finally:
        dm.engine.native_status.cache_clear()


def _random_code(rng):
    prefixes = bytes(
        rng.choice(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3") for _ in range(rng.choice((0, 0, 1, 2, 12)))
    )
    vex = bytes(
        [0xC4, rng.choice((0xE2, 0xC3, 0xE2, 0xE1)), rng.getrandbits(8), rng.choice(b"\xf0\xf2\xf3\xf5\xf6\xf7")]
    )
    escape = rng.choice((b"", b"", b"\x0f", b"\x0f\x38", vex))
    return prefixes + escape + rng.randbytes(rng.randrange(12))


def _register(row, field, number, *, memory=False):
    """What a record has for a register: its number, for byte registers which byte of the general ones it is.

    Where ``memory`` is the operand, ``rm`` is the whole ModRM byte.
    """
    form = None if memory and field == "rm" else row.register(field)
    return (number & 3) * 8 + (number >> 2) if form and form.is_byte_register else number


def test_decoder_agrees_with_the_reference():
    from dm.engine import _native
    from dm.engine.native.handlers import Handlers
    from dm.isa.map.forms import ROWS

    handlers = Handlers()
    rng = random.Random(7)
    out = _native.ffi.new("struct dm_decoded *")
    seen = set()
    for _ in range(60000):
        code, code32 = _random_code(rng), rng.random() < 0.5
        length = _native.lib.dm_decode(code, len(code), code32, out)
        try:
            known = decode.decode(code, code32)
        except decode.NeedMore:
            assert length == 0, code.hex()
            continue
        except decode.TooLong:
            assert length == -1, code.hex()
            continue
        assert length == known.length, code.hex()
        if known.row is None:
            assert out.form == 0, code.hex()
            continue
        form = handlers.forms[out.form - 1]
        row = ROWS[form.row]
        assert (row, form.variant) == (known.row, known.variant), code.hex()
        seen.add(out.form)
        assert out.seg == known.seg, code.hex()
        assert (out.base, out.index, out.scale) == (known.base, known.index, known.scale), code.hex()
        assert (out.reg, out.rm) == (
            _register(row, "reg", known.reg),
            _register(row, "rm", known.rm, memory=known.variant.memory),
        ), code.hex()
        assert (out.disp, out.imm) == (known.disp, known.imm), code.hex()
        assert out.imm2 == known.imm2, code.hex()
    assert len(seen) > 1000
    assert {row.text for row in ROWS if row.vex} <= {ROWS[handlers.forms[form - 1].row].text for form in seen}


def test_a_hundred_million_instructions_on_a_small_stack():
    """One stack frame per instruction, or per block, would need gigabytes."""
    # mov ecx,20M; l: add eax,ecx; push ax; pop bx; dec ecx; jnz l; hlt
    engine, _ = machine(bytes.fromhex("66b9002d3101 6601c8 50 5b 6649 75f7 f4"))
    ends = []
    old = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: ends.append(engine.run()))
        thread.start()
    finally:
        threading.stack_size(old)
    thread.join()
    assert ends[0].reason is ExitReason.HALT
    assert ends[0].instructions == 20_000_000 * 5 + 2


@pytest.mark.parametrize(
    "body",
    ["66f0ff060020", "66f083060020 01", "66b801000000 66f00fc1060020"],
    ids=["lock inc", "lock add", "lock xadd"],
)
def test_locked_instructions_are_atomic_between_cpus(body):
    """Two engines count in the same doubleword."""
    loop = bytes.fromhex(body) + b"\x66\x49"  # ...; dec ecx; jnz
    program = b"\x66\xb9" + (1_000_000).to_bytes(4, "little") + loop
    program += b"\x75" + (-len(loop) - 2).to_bytes(1, "little", signed=True) + b"\xf4"
    ram = bytearray(0x100000)
    engines = [machine(program, ram)[0] for _ in range(2)]
    ends = []
    threads = [threading.Thread(target=lambda e=e: ends.append(e.run())) for e in engines]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [end.reason for end in ends] == [ExitReason.HALT] * 2
    assert int.from_bytes(ram[0x2000:0x2004], "little") == 2_000_000


def _run_tests_with(tmp_path, flags, environment):
    """Build a copy of the tree with extra flags and run the engine tests there."""
    for name in ("dm", "protocol", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("*.so", "__pycache__")
            )
        else:
            shutil.copy2(source, tmp_path / name)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    build = [sys.executable, "-m", "dm.engine.native.build", "--out", str(tmp_path / "out")]
    subprocess.run([*build, *(f"--cflag={flag}" for flag in flags)], check=True, cwd=tmp_path, env=env)
    tests = [str(tmp_path / "tests/engine/test_contract.py"), "-k", "native", "-q", "-p", "no:cacheprovider"]
    run = [str(Path(sys.executable).with_name("pytest")), *tests]
    done = subprocess.run(run, cwd=tmp_path, env={**env, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_contract_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    library = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1"]
    environment = {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    _run_tests_with(tmp_path, flags, environment)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_contract_with_the_dispatch_loop(tmp_path):
    _run_tests_with(tmp_path, ["-DDM_THREADED=0", "-O0"], {})


@pytest.mark.parametrize("flag", ["-O0", "-DDM_THREADED=0", "-fsanitize=address"])
def test_only_threaded_handlers_may_use_registers_without_saving_them(flag, tmp_path):
    """A dispatch loop keeps its own values there."""
    if shutil.which("gcc") is None or platform.machine() != "x86_64":
        pytest.skip("no gcc for x86-64")
    (tmp_path / "fields.h").write_text(structures.fields_header())
    (tmp_path / "architecture.h").write_text(header())
    (tmp_path / "primitives.h").write_text(macros.prototypes())
    (tmp_path / "words.h").write_text(words_header())
    flags = [*build.COMPILE_ARGS, f"-I{tmp_path}", f"-I{build.HERE}"]
    assert "-fcall-used-rbx" in build.scratch_args(flags)
    assert build.scratch_args([*flags, flag]) == []


def test_generating_leaves_what_is_in_the_directory_alone(tmp_path):
    stranger = tmp_path / "notes.h"
    stranger.write_text("mine")
    assert generate.generate(tmp_path)
    assert stranger.read_text() == "mine"


def test_a_refused_argument_leaves_nothing_for_the_next_run():
    machine = Machine(make_engine("native"))
    machine.load("90" * 16 + "f4")
    assert machine.run(budget=1).steps == 1
    with pytest.raises(ValueError, match="mmio is 0x10000000000000000, an address of 64 bits"):
        machine.run(budget=5, mmio=1 << 64)
    with pytest.raises(TypeError):
        machine.run(budget=5, window="no")
    assert machine.run(budget=1).steps == 1
    machine.engine.close()
