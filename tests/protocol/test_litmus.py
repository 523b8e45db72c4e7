"""Two vCPUs on shared RAM, through the daemon: atomic counters, locks, store buffering, message passing.

The programs are 32-bit flat code.  Results of the litmus tests are those the manual forbids (SDM vol. 3A, 8.2.3).
"""

from __future__ import annotations

import threading

import pytest
from live import real_mode

from dm.isa.parts import DEFAULT_CPUID
from dm.protocol.schema import Cpuid, DoneReason, Kind, Region
from dm.shim import Ram, Shim

#: The usual part with SSE2, for MFENCE.
CPUID = [
    Cpuid(leaf, subleaf, eax, ebx, ecx, edx | (leaf == 1) << 26)
    for (leaf, subleaf), (eax, ebx, ecx, edx) in DEFAULT_CPUID.items()
]
SIZE = 8 << 20
CODE = 0x1000
X, Y, SEEN = 0x100000, 0x200000, (0x300000, 0x380000)
#: lock inc [8000h]; lock add [8040h], 3; mov eax, 1; lock xadd [8080h], eax; dec ecx; jnz; hlt
COUNT = "f0ff0500800000 f083054080000003 b801000000 f00fc10580800000 49 75e1 f4"
#: mov eax, [8000h]; 2: lea edx, [eax+1]; lock cmpxchg [8000h], edx; jne 2b; dec ecx; jnz; hlt
COMPARE = "a100800000 8d5001 f00fb11500800000 75f3 49 75eb f4"
#: spin on xchg [8000h]; inc [8040h]; [8044h] += 1 in three steps; mov [8000h], 0; dec ecx; jnz; hlt
LOCK = "b801000000 870500800000 85c0 75f1 ff0540800000 a144800000 40 a344800000 c7050080000000000000 49 75d3 f4"
#: both wait for each other at [7000h]
MEET = "f0ff0500700000 833d0070000002 75f7"
#: then: store 1 to [esi], a barrier, load [edi] to [ebp]; esi, edi += 64, ebp += 4; dec ecx; jnz; hlt
BUFFER = {
    "xchg": MEET + "b801000000 8706 8b07 894500 83c640 83c740 83c504 49 75e8 f4",
    "mfence": MEET + "c70601000000 0faef0 8b07 894500 83c640 83c740 83c504 49 75e6 f4",
    "locked or": MEET + "c70601000000 f0830c2400 8b07 894500 83c640 83c740 83c504 49 75e4 f4",
}
#: inc eax; mov [8000h], eax (the data); mov [8040h], eax (the flag); dec ecx; jnz; hlt
SEND = "40 a300800000 a340800000 49 75f2 f4"
#: mov eax, [8040h]; mov edx, [8000h]; ebx counts data older than the flag; until the flag is ecx; hlt
RECEIVE = "a140800000 8b1500800000 39c2 7301 43 46 39c8 75eb f4"


def flat(code_at, **registers):
    state = real_mode(code_at, **registers)
    state.cr0 = 0x11
    for n, seg in enumerate(state.seg[:6]):
        seg.selector, seg.base, seg.limit, seg.attributes = 8 * n + 8, 0, 0xFFFFFFFF, 0xC093
    state.cs.attributes = 0xC09B
    return state


@pytest.fixture
def pair(live_daemon):
    """Runs two programs at once, each on a vCPU of its own; returns the states at their ends, and RAM."""
    with Shim.connect(live_daemon.endpoint, "litmus") as shim, Ram(SIZE) as ram:
        shim.set_map([Region(0, SIZE, Kind.RAM, shim.add_ram(ram))])
        vcpus = [shim.create_vcpu(n, CPUID) for n in range(2)]

        def run(programs, registers):
            states, reasons = [], [None, None]
            for n, (code, given) in enumerate(zip(programs, registers, strict=True)):
                data = bytes.fromhex(code)
                at = CODE + n * 0x800
                ram.view[at : at + len(data)] = data
                states.append(flat(at, **{"esp": 0x6000 + n * 0x400, **given}))

            def work(n):
                reasons[n] = vcpus[n].run(states[n], microseconds=60_000_000).reason

            threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            assert reasons == [DoneReason.HALT] * 2
            return states, ram.view

        yield run


def word(view, at):
    return int.from_bytes(view[at : at + 4], "little")


def test_locked_counters_lose_nothing(pair):
    _, view = pair([COUNT, COUNT], [{"ecx": 300_000}] * 2)
    assert [word(view, at) for at in (0x8000, 0x8040, 0x8080)] == [600_000, 1_800_000, 600_000]


def test_compare_and_exchange_loses_nothing(pair):
    _, view = pair([COMPARE, COMPARE], [{"ecx": 200_000}] * 2)
    assert word(view, 0x8000) == 400_000


def test_a_lock_made_of_xchg_protects_what_is_no_atomic_access(pair):
    _, view = pair([LOCK, LOCK], [{"ecx": 20_000}] * 2)
    assert (word(view, 0x8040), word(view, 0x8044), word(view, 0x8000)) == (40_000, 40_000, 0)


@pytest.mark.parametrize("barrier", BUFFER)
def test_store_buffering_is_not_seen_past_a_barrier(pair, barrier):
    """Not both may load 0: one of the two stores came first."""
    rounds = 8_000
    first = {"ecx": rounds, "esi": X, "edi": Y, "ebp": SEEN[0]}
    second = {"ecx": rounds, "esi": Y, "edi": X, "ebp": SEEN[1]}
    _, view = pair([BUFFER[barrier]] * 2, [first, second])
    results = [(word(view, SEEN[0] + 4 * n), word(view, SEEN[1] + 4 * n)) for n in range(rounds)]
    assert results.count((0, 0)) == 0
    assert set(results) <= {(0, 1), (1, 0), (1, 1)}
    assert [word(view, X + 64 * n) for n in (0, rounds - 1)] == [1, 1]


def test_a_message_is_there_when_its_flag_is(pair):
    rounds = 500_000
    (_, reader), _ = pair([SEND, RECEIVE], [{"ecx": rounds, "eax": 0}, {"ecx": rounds, "ebx": 0, "esi": 0}])
    assert reader.ebx == 0
    assert reader.esi > 0
