"""What only the Python engine has: generated source, caches, host memory it holds on to."""

import mmap
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from guest import CODE, Machine, real_mode

from dm.engine.api import CpuConfig, ExitReason, MemoryMap, Region, RegionKind, RunRequest
from dm.engine.python_engine import PythonEngine, translate
from dm.engine.python_engine.cells import Cells
from dm.engine.python_engine.host_tsc import host_tsc
from dm.engine.python_engine.translate import RULES
from dm.isa.map.decode import decode, variants
from dm.isa.map.forms import ROWS
from dm.machine.state import State


@pytest.fixture
def machine():
    made = Machine(PythonEngine(CpuConfig()))
    yield made
    made.engine.close()


def test_every_form_of_every_row_compiles():
    forms = [translate.form(row, variant) for row in ROWS for variant in variants(row)]
    assert len(forms) > 2500
    assert all(callable(form.run) for form in forms)


def test_forms_are_compiled_once_and_can_be_read():
    d = decode(bytes.fromhex("01d8"), False)
    form = translate.form(d.row, d.variant)
    assert translate.form(d.row, d.variant) is form
    assert form.source.startswith("def handler(cpu, i):")
    assert "cpu.fc" in form.source
    assert not form.exact


def test_vcpus_of_several_threads_compile_at_once():
    """Printer and names are shared: a handler must never be made of pieces of another."""
    forms = [(row, variant) for row in ROWS for variant in variants(row)][::9]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:  # not through the cache
            made = list(threads.map(lambda one: translate.form.__wrapped__(*one).source, forms))
    finally:
        sys.setswitchinterval(interval)
    assert made == [translate.form(*one).source for one in forms]


@pytest.mark.parametrize(("code", "exact"), [("01d8", False), ("50", False), ("60", True), ("9a00000000", True)])
def test_only_what_can_be_left_half_done_is_a_transaction(code, exact):
    d = decode(bytes.fromhex(code), False)
    assert translate.form(d.row, d.variant).exact == exact


@pytest.mark.parametrize("flags", range(64))
def test_arithmetic_flags_survive_their_lazy_form(flags):
    cells = Cells()
    word = 2 | sum(1 << bit for n, bit in enumerate((0, 2, 4, 6, 7, 11)) if flags >> n & 1)
    RULES.split_eflags(cells, word)
    assert (cells.flags, cells.eflags()) == (0, word)


def test_saving_and_restoring_covers_every_cell():
    cells = Cells()
    cells.load_state(State.reset())
    saved = cells.save()
    cells.gpr32[0] = cells.dr[1] = cells.seg_base[2] = cells.eip = cells.cr0 = cells.fxsave[7] = 77
    cells.restore(saved)
    assert cells.store_state() == State.reset()
    cells.gpr32[0] = 5
    cells.restore(saved)
    assert cells.gpr32[0] == 0


def test_a_map_that_was_replaced_is_let_go(machine):
    memory = mmap.mmap(-1, 0x100000)
    memory[CODE : CODE + 8] = bytes.fromhex("a20080 a10080 ebf8")
    engine = machine.engine
    engine.set_map(MemoryMap(5, (Region(0, 0x100000, RegionKind.RAM, memory),)))
    engine.set_state(real_mode())
    engine.run(RunRequest(budget=10))
    with pytest.raises(BufferError):
        memory.close()
    engine.set_map(MemoryMap(6, ()))
    memory.close()
    assert engine.run(RunRequest(budget=1)).reason is ExitReason.MMIO_READ


def test_closing_lets_go_too():
    memory = mmap.mmap(-1, 0x1000)
    engine = PythonEngine(CpuConfig())
    engine.set_map(MemoryMap(1, (Region(0, 0x1000, RegionKind.RAM, memory),)))
    engine.set_state(real_mode(0))
    engine.run(RunRequest(budget=1))
    engine.close()
    engine.close()
    memory.close()


def test_code_segments_do_not_pile_up(machine):
    machine.load("90" * 16)
    for n in range(300):
        state = real_mode(CODE - 16 * n)
        state.cs.selector, state.cs.base = n, 16 * n
        machine.engine.set_state(state)
        machine.engine.run(RunRequest(budget=2))
    assert 1 < len(machine.engine._fetcher._contexts[0]) <= 64


def test_the_host_counter_goes_forward():
    first = host_tsc()
    time.sleep(0.001)
    assert host_tsc() > first > 0
