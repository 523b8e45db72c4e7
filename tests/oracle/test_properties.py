"""What must hold in every world: how a run is cut, where it is interrupted or taken up again, changes nothing.

Hypothesis draws the worlds (the same ones each time unless ``-m long`` is given) and shrinks a failing one to the
instructions it needs; its name is printed.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import worlds
from worlds import CONFIGS, MODES, Machine, World

from dm.engine import create, native_status
from dm.engine.api import QUESTIONS, ExitReason
from dm.machine.state import EventType, State

SEED = st.integers(0, (1 << 32) - 1)
STEPS = 60
#: How often each property was put to the test.
APPLIED: Counter[str] = Counter()


def world(**fixed: object) -> st.SearchStrategy[World]:
    """Any world, or one with some of its fields fixed."""
    fields = {
        "mode": st.sampled_from(MODES), "seed": SEED, "paging": st.sampled_from(("", "", "32", "pae")),
        "instructions": st.lists(SEED, min_size=1, max_size=14).map(tuple),
    }  # fmt: skip
    return st.builds(World, **(fields | {key: st.just(value) for key, value in fixed.items()}))


def examples(native: int, python: int):  # type: ignore[no-untyped-def]
    """Run a property on both engines, with so many worlds on each; a hundred times as many when ``long``.

    A property returns whether it applied to the world; it must to one in ten.
    """

    def decorate(check):  # type: ignore[no-untyped-def]
        def on(name: str, count: int, *, fixed: bool):  # type: ignore[no-untyped-def]
            @settings(
                max_examples=count, derandomize=fixed, database=None, deadline=None, print_blob=False,
                suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
            )  # fmt: skip
            @given(world=check.worlds, cut=SEED)
            def run(world: World, cut: int) -> None:
                note(f"cut {cut}, {worlds.show(world)}")
                APPLIED[check.__name__] += bool(check(name, world, random.Random(cut)))

            return run

        counts = {"native": native, "python": python}
        marks = {False: (), True: (pytest.mark.long, pytest.mark.timeout(7200))}

        @pytest.mark.parametrize(
            ("name", "long"),
            [pytest.param(name, long, marks=marks[long], id=f"{name}{'-long' * long}")
             for name in counts for long in (False, True)],
        )  # fmt: skip
        def test(name: str, long: bool) -> None:
            if name == "native" and not native_status()[0]:
                pytest.skip(native_status()[1])
            count = counts[name] * (100 if long else 1)
            seen = APPLIED[check.__name__]
            on(name, count, fixed=not long)()
            assert APPLIED[check.__name__] - seen > count / 10, "the property applies to too few worlds"

        test.__doc__ = check.__doc__
        return test

    return decorate


def worlds_of(strategy: st.SearchStrategy[World]):  # type: ignore[no-untyped-def]
    """Say which worlds a property is about."""

    def decorate(check):  # type: ignore[no-untyped-def]
        check.worlds = strategy
        return check

    return decorate


@cache
def _engine(name: str, config: str, which: int):  # type: ignore[no-untyped-def]
    return create(name, CONFIGS[config])


def machines(name: str, world: World, count: int = 2) -> list[Machine]:
    """Machines in the same world, on engines that have run others before."""
    built = worlds.build(world)
    return [Machine(name, world, engine=_engine(name, built.config, n), built=built) for n in range(count)]


def assert_same_end(first: Machine, second: Machine) -> None:
    """Both have made the same number of steps: nothing tells them apart."""
    assert worlds.compare(first.engine.get_state(), second.engine.get_state()) == ""
    assert first.ram == second.ram, (first.changed()[:6], second.changed()[:6])


def assert_same(first: Machine, second: Machine) -> None:
    """As above, and what the outside has seen is the same."""
    assert_same_end(first, second)
    assert first.seen == second.seen
    assert (first.steps, first.instructions) == (second.steps, second.instructions)
    assert first.flushed == second.flushed
    if first.ended or second.ended:
        assert first.ended is not None
        assert second.ended is not None
        assert first.ended.reason is second.ended.reason
        assert first.ended.address == second.ended.address


def meet(first: Machine, second: Machine, target: int) -> bool:
    """Bring both to the same number of steps, from ``target`` on; False when a port string goes past every one."""
    for _ in range(40):
        first.advance(target)
        second.advance(target)
        # Deliveries cost no step: one may be before, one behind.  One that was given up at its question is still due.
        waiting = second.ended is None and second.engine.get_state().inject_type != EventType.NONE
        behind = bool(first.ended) != bool(second.ended)
        if (first.steps == second.steps and not waiting and not behind) or (first.ended and second.ended):
            return True
        if behind and (second if first.ended else first).steps > (first if first.ended else second).steps:
            return True  # one has gone on where the other has ended: they will not be the same
        target = max(first.steps, second.steps) + (waiting or behind)
    return False


@examples(native=500, python=150)
@worlds_of(world())
def test_a_run_may_be_cut_anywhere(name: str, world: World, r: random.Random) -> bool:
    """run(n), then run(m), is run(n + m): state, memory, what devices see, counts, written pages."""
    single, whole = machines(name, world)
    for target in sorted(r.sample(range(1, STEPS + 1), 3)):
        while single.ended is None and single.steps < target:
            single.advance(single.steps + 1)
        if not meet(single, whole, target):
            return False
        assert_same(single, whole)
    changed = {int(line.partition(":")[0], 16) >> 12 for line in whole.changed()}
    assert changed <= whole.written
    assert changed <= single.written
    return True


@examples(native=500, python=150)
@worlds_of(world())
def test_a_run_may_go_on_elsewhere(name: str, world: World, r: random.Random) -> bool:
    """At any exit, questions included: get_state, a new engine, set_state; or set_state of its own state; or kicks."""
    straight, broken = machines(name, world)
    broken.engine = create(name, broken.config)  # restart() closes engines: this machine has its own
    broken.remap()
    broken.engine.set_state(worlds.build(world).state)
    target = r.randint(1, STEPS)
    while broken.ended is None and broken.steps < target:
        pick = r.randrange(5)
        if pick == 0:
            broken.engine.kick()
        end = broken.run(r.choice((0, 1, 1, 2, 7, 20)))
        if end.reason in QUESTIONS:
            if pick < 3 and r.random() < 0.4:  # never answered: the instruction starts over, and asks again
                broken.restart()
                continue
            broken.answer(end)
            if pick == 4 and r.random() < 0.3:  # answered, and given up all the same
                broken.restart()
        else:
            broken.settle(end)
            if broken.ended is None and pick == 1:
                broken.restart()
            elif broken.ended is None and pick == 2:
                broken.engine.set_state(broken.engine.get_state())
    met = meet(straight, broken, target)
    if met:
        assert_same_end(straight, broken)
    broken.close()
    return met


@examples(native=500, python=150)
@worlds_of(world())
def test_answers_may_be_late(name: str, world: World, r: random.Random) -> bool:
    """Between question and answer, and between answer and run: new maps, looks at the state, kicks."""
    prompt, late = machines(name, world)
    target = r.randint(1, STEPS)
    while late.ended is None and (late.steps < target or late.pending):
        end = late.run(max(0, target - late.steps - late.pending))
        if end.reason not in QUESTIONS:
            late.settle(end)
            if r.random() < 0.3:
                late.remap()
            continue
        before = late.engine.get_state()
        for _ in range(r.randrange(3)):
            r.choice((late.remap, late.engine.kick, late.engine.get_state))()
        assert late.engine.get_state() == before
        late.answer(end)
        for _ in range(r.randrange(3)):
            r.choice((late.remap, late.engine.kick))()
        assert late.engine.get_state() == before  # an answer alone changes nothing
    met = meet(prompt, late, target)
    if met:
        assert_same(prompt, late)
    return met


@examples(native=500, python=200)
@worlds_of(world(mode="scrambled"))
def test_no_steps_change_nothing(name: str, world: World, r: random.Random) -> bool:
    """Any state that fits its widths passes through unchanged, and so does memory."""
    (machine,) = machines(name, world, 1)
    state = worlds.build(world).state
    assert worlds.compare(machine.engine.get_state(), state) == ""
    for _ in range(2):
        end = machine.run(0, window=r.random() < 0.5, progress=r.random() < 0.5)
        assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, 0, 0)
        assert worlds.compare(machine.engine.get_state(), state) == ""
    assert machine.ram == machine.first
    return True


def _without_accessed(machine: Machine) -> bytearray:
    """Memory without the bits of page tables that a walk sets, which a faulting instruction may have made."""
    ram = bytearray(machine.ram)
    for start in (worlds.DIRECTORY, worlds.TABLE, worlds.PAE_DIRECTORY, worlds.PAE_TABLE):
        ram[start : start + 4096] = bytes(b & 0x9F for b in ram[start : start + 4096])
    return ram


def _as_event(state: State, fault: tuple[int, int, str, tuple[int, int, int]]) -> State:
    """The state with the fault that its next instruction raises as an event to deliver (SDM vol. 3A, 6.15)."""
    vector, error, _, operands = fault
    waiting = state.copy()
    waiting.inject_type, waiting.inject_vector = int(EventType.EXCEPTION), vector
    waiting.inject_has_error = int(vector in (8, 10, 11, 12, 13, 14, 17) and bool(state.cr0 & 1))
    waiting.inject_error = error
    waiting.rflags |= 1 << 16  # RF in the image: vol. 3B, 17.3.1.1
    if vector == 14:
        waiting.cr2 = operands[0]
    if vector == 1:
        waiting.dr6 |= operands[0]
    return waiting


@examples(native=800, python=150)
@worlds_of(
    st.builds(
        World, mode=st.sampled_from([m for m in MODES if m != "scrambled"]), seed=SEED, sane=st.just(True),
        paging=st.sampled_from(("", "32", "pae")), instructions=st.lists(SEED, min_size=1, max_size=6).map(tuple),
    )
)  # fmt: skip
def test_a_fault_changes_nothing_but_what_its_delivery_does(name: str, world: World, r: random.Random) -> bool:
    """A step that faults leaves what injecting its exception into the state before it leaves."""
    applied = False
    built = worlds.build(world)  # engines of their own, so that their last fault is not an older one
    faulting, injected = (Machine(name, world, built=built) for _ in range(2))
    for _ in range(12):
        before, ram = faulting.engine.get_state(), bytearray(faulting.ram)
        faulting.engine.close()
        faulting.engine = create(name, faulting.config)
        faulting.remap()
        faulting.engine.set_state(before)
        count = faulting.instructions
        steps = faulting.steps
        while faulting.ended is None and faulting.steps == steps:
            faulting.advance(steps + 1)
        fault = faulting.engine.last_fault
        if faulting.ended is not None:
            break
        if not fault[2] or faulting.instructions != count:
            continue
        if faulting.engine.get_state().tr != before.tr:
            break  # a task switch had passed its point of no return: the fault is the new task's (vol. 3A, 7.3)
        injected.ram[:] = ram
        injected.remap()
        injected.engine.close()
        injected.engine = create(name, injected.config)
        injected.remap()
        injected.engine.set_state(_as_event(before, fault))
        injected.ended = None
        injected.steps = 0
        faulting.advance(faulting.steps + 1)  # the handler's first instruction, NOP
        injected.advance(1)
        if injected.engine.last_fault[2]:
            break  # the delivery itself faults
        assert worlds.compare(faulting.engine.get_state(), injected.engine.get_state()) == "", fault
        assert _without_accessed(faulting) == _without_accessed(injected), fault
        applied = True
        break
    for machine in (faulting, injected):
        machine.close()
    return applied


def test_worlds_of_one_seed_are_the_same() -> None:
    for seed in range(20):
        first, second = (worlds.build(World.random(seed)) for _ in range(2))
        assert (first.ram, first.state, first.code) == (second.ram, second.state, second.code)


def test_the_comparison_sees_one_bit() -> None:
    state = worlds.build(World.random(1)).state
    other = state.copy()
    other.seg[3].base ^= 1
    assert "seg" in worlds.compare(state, other)
    assert worlds.compare(state, state.copy()) == ""
