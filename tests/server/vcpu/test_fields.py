"""What crosses between Python and C is one table: each row goes there and back, and C has nothing beside them."""

import random

import pytest
from fake_engine import FakeEngine
from harness import flat, groups

from dm.engine.api import CpuConfig, MemoryMap
from dm.protocol.schema import Emulate, Reason, Stop, Until
from dm.server.memory.pages import PageCache
from dm.server.vcpu.core import Core
from dm.server.vcpu.fields import REQUEST, REQUEST_ROWS, RUN, UNDERSTOOD, VCPU, from_c, request_to_c, to_c
from dm.server.vcpu.run import Run

_exchange = pytest.importorskip("dm.server.vcpu._exchange")
ffi = _exchange.ffi


class Owner:
    number, secret, several, memory_lost, state_ports = 1, b"", False, "", ()
    current, pages = MemoryMap(0, ()), PageCache()


def request(**changes):
    return Emulate(session=1, vcpu=0, epoch=1, seq=1, generation=0, state={}, **changes)


def a_run():
    return Run(request(), groups(flat()), 0)


def a_core():
    return Core(Owner(), 0, FakeEngine(CpuConfig()), lambda request: (None, 0))


def value(kind, rng):
    if kind is bool:
        return rng.random() < 0.5
    if isinstance(kind, int):
        return rng.getrandbits(kind) if kind > 0 else rng.getrandbits(-kind - 1) - (1 << -kind - 2)
    return rng.choice(list(kind))


@pytest.mark.parametrize(("rows", "make", "struct"), [(RUN, a_run, "dx_run"), (VCPU, a_core, "dx_kept")])
def test_each_row_goes_to_c_and_back(rows, make, struct):
    rng, c = random.Random(7), ffi.new(f"struct {struct} *")
    for _ in range(50):
        values = {field.path: value(field.kind, rng) for field in rows}
        given, taken = make(), make()
        for path, one in values.items():
            *way, name = path.split(".")
            owner = given
            for step in way:
                owner = getattr(owner, step)
            setattr(owner, name, one)
        to_c(rows, given, c)
        from_c(rows, c, taken)
        for path, one in values.items():
            got = taken
            for step in path.split("."):
                got = getattr(got, step)
            assert (got, type(got)) == (one, type(one)), path


def test_c_has_these_rows_and_no_others():
    def names(struct):
        return {name for name, _ in ffi.typeof(f"struct {struct}").fields}

    assert names("dx_kept") == {field.name for field in VCPU}
    assert names("dx_run") == {field.name for field in RUN} | {"request", "page_count"}
    beside = {f"has_{row.name}" for row in REQUEST_ROWS.values() if row.optional and row.default is None}
    assert names("dx_request") == set(REQUEST) | beside | {"code_size"}


def test_a_request_goes_to_c_whole():
    c = ffi.new("struct dx_request *")
    code = bytes(range(1, 16))
    request_to_c(request(reason=Reason.MMIO, until=Until.VMX, steps=0, mmio=1 << 63, code=code, explain=True), c)
    assert (c.reason, c.until) == (list(Reason).index(Reason.MMIO), list(Until).index(Until.VMX))
    assert (c.has_steps, c.steps, c.has_microseconds, c.has_stop_at) == (1, 0, 0, 0)
    assert (c.has_mmio, c.mmio, c.explain, c.checkpoint) == (1, 1 << 63, 1, 0)
    assert bytes(ffi.buffer(c.code, c.code_size)) == code
    request_to_c(request(), c)
    assert (c.has_steps, c.has_mmio, c.mmio, c.code_size, c.explain) == (0, 0, 0, 0, 0)


def test_fields_that_c_understands_are_fields():
    for message, names in UNDERSTOOD.items():
        assert set(names) <= set(message.__dataclass_fields__)
        assert len(set(names)) == len(names)
    assert {field.kind for field in RUN} > {bool, Stop}
