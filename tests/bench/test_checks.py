"""Measuring what checks cost: the machine that kernels are called in, the worker, the builds' flags."""

from pathlib import Path

import pytest

from dm.bench import checks
from dm.bench.kernels import KERNELS
from dm.engine import create, native_status
from dm.engine.api import CpuConfig, ExitReason, MemoryMap, Region, RegionKind
from dm.engine.native import build


@pytest.mark.parametrize("name", checks.MEASURED)
def test_a_kernel_returns_to_the_end(name):
    kernel = KERNELS[name]
    engine = create("auto", CpuConfig())
    ram = checks.memory(kernel)
    engine.set_map(MemoryMap(1, (Region(0, len(ram), RegionKind.RAM, ram),)))
    engine.set_state(checks.start(kernel, 1))
    while (end := engine.run()).reason is ExitReason.KICKED:
        pass
    state = engine.get_state()
    engine.close()
    assert (end.reason, state.eip) == (ExitReason.HALT, 0x501)
    assert state.esp == kernel.stack - (0 if kernel.paged else 2)
    assert bool(state.cr0 >> 31) == kernel.paged


def test_flags_name_what_is_left_out():
    assert build.without([]) == []
    assert build.without(["tlb", "smc"]) == ["-DWITHOUT_TLB", "-DWITHOUT_SMC", '-DDM_VARIANT="without tlb,smc: "']
    with pytest.raises(ValueError, match="no check 'tbl' that can be left out; there are limits, tlb"):
        build.without(["tbl"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--without", "tlb"], "--without and --output go together"),
        (["--output", "x"], "--without and --output go together"),
        (["--without", "nothing", "--output", "x"], "no check 'nothing'"),
    ],
)
def test_such_a_build_never_takes_the_products_place(words, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        build.main(words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


class _Scripted(checks.EngineBuild):
    """A variant that takes so many milliseconds a round."""

    def __init__(self, name, factor):
        self.name, self.factor, self.runs = name, factor, []

    def run(self, kernel, rounds):
        self.runs.append(rounds)
        return rounds * 1e-3 * self.factor

    def close(self):
        pass


def test_ratios_are_the_first_ones_time_over_the_others():
    variants = [_Scripted("all", 2), _Scripted("limits", 1), _Scripted("tlb", 4)]
    assert checks.measure(variants, "alu", 5, 0.05) == [1, 2, 0.5]
    assert [len(v.runs) for v in variants[1:]] == [6, 6]
    assert variants[0].runs[-1] == variants[1].runs[-1] == 25


def test_a_worker_times_rounds_on_the_extension_it_is_given():
    if not native_status()[0]:
        pytest.skip(native_status()[1])
    from dm.engine import _native

    variant = checks.EngineBuild("all", Path(_native.__file__))
    try:
        short, long = variant.run("alu", 1), variant.run("alu", 2_000_000)
        assert 0 <= short < long
        with pytest.raises(RuntimeError, match="the engine 'all' failed on nothing"):
            variant.run("nothing", 1)
    finally:
        variant.close()
