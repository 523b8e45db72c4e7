"""Instructions that the native engine runs two at a time leave what they leave one after the other."""

import random
from itertools import islice

import pytest
from guest import CODE, RAM, protected_mode, real_mode

from dm.engine.api import ExitReason
from dm.engine.native import pairs
from dm.engine.native.handlers import Handler, Pair
from dm.microcode import MicrocodeError
from dm.microcode.print_c import Ending

DATA = 0x9000
ALL = list(pairs.pairs())


def encode(r, form, data=DATA):
    """Bytes of one random instruction of this form, for code of its address size."""
    opcode, *rest = form.text.split()
    extension = rest.pop(0) if rest[0].startswith("/") else ""
    operands = rest[1].split(",") if len(rest) > 1 else ["none"]
    code = int(opcode[:2], 16)
    sized = any((o[1:] in ("v", "z") and o[0] in "EGZI") or o == "eAX" for o in operands)
    out = bytearray([0x66] if sized and form.osize != form.asize else [])
    registers = (0, 1, 2, 3, 5, 6, 7)  # the stack pointer comes by PUSH and POP
    if opcode.endswith("+r"):
        out.append(code + r.choice(registers))
    else:
        out.append(code)
    if extension:
        reg = r.choice(registers) if extension == "/r" else int(extension[1])
        if not form.memory:
            out.append(0xC0 | reg << 3 | r.choice(registers))
        elif r.random() < 0.8:
            out.append(reg << 3 | (6 if form.asize == 16 else 5))
            out += (data + r.randrange(0x40)).to_bytes(form.asize // 8, "little")
        else:  # [bx+si+disp] or [ebx+disp]: anywhere
            out.append(0x80 | reg << 3 | (0 if form.asize == 16 else 3))
            out += (data + r.randrange(0x40)).to_bytes(form.asize // 8, "little")
    for operand in operands:
        if operand in ("Ib", "Iz", "Jb", "Jz"):
            out += r.randbytes(1 if operand[1] == "b" else form.osize // 8)
    if operands[0][0] == "J":
        size = 1 if operands[0] == "Jb" else form.osize // 8
        out[-size:] = r.randrange(4).to_bytes(size, "little")
    return bytes(out)


def state_for(r, mode):
    state = real_mode(CODE) if mode == 16 else protected_mode(CODE)
    for n in range(8):
        state.gpr[n] = r.choice((0, 1, 0xFF, 0x8000, 0xFFFF, 0x80000000, r.getrandbits(32), r.getrandbits(32)))
    if r.random() < 0.7:
        state.ebx, state.esi = r.randrange(0x100), r.randrange(0x100)
    state.esp = 0x7000
    state.rflags = 2 | r.getrandbits(12) & 0x8D5
    return state


def same(both, state, code, budgets, memory=()):
    """Run the same on both engines and compare after each part; returns the last exit."""
    seen = []
    for machine in both:
        machine.load(code, state)
        for address, data in memory:
            machine.ram[address : address + len(data)] = data
        log = []
        for budget in budgets:
            end = machine.run(budget=budget)
            log.append((repr(end), repr(machine.engine.get_state())))
            if end.reason is not ExitReason.BUDGET:
                break
        seen.append((log, machine.engine.last_fault, bytes(machine.ram)))
    native, python = seen
    assert native[0] == python[0], code.hex()
    assert native[1:] == python[1:], code.hex()
    return end


@pytest.mark.parametrize("mode", [16, 32])
def test_every_pair_is_what_its_two_instructions_are(both, mode):
    r = random.Random(mode)
    for first, second in ALL:
        if first.asize != mode:
            continue
        for _ in range(3):
            code = encode(r, first) + encode(r, second) + b"\x90" * 4 + b"\xf4" + b"\x90" * 260
            # Together, then stopped between the two: neither engine may tell.
            state = state_for(r, mode)
            same(both, state, code, (100,))
            same(both, state, code, (1, 1, 100))


def loop(r, mode, length):
    """Instructions of pairs' forms and jumps back and forth among them, without an end; and where each begins."""
    body, starts = bytearray(), []
    firsts = [a for a, b in ALL if a.asize == mode]
    followers = {}
    for a, b in ALL:
        if a.asize == mode:
            followers.setdefault(a, []).append(b)
    while len(starts) < length:
        first = r.choice(firsts)
        for form in (first, r.choice(followers[first])):
            if form.text.startswith(("E8", "C3", "E9")):
                continue
            starts.append(len(body))
            body += encode(r, form)
            if form.text[:1] == "7":
                body[-1] = (r.choice(starts) - len(body)) % 256 if r.random() < 0.5 else r.choice((0, 0, 1, 2))
    back = (-len(body) - 2) % 256
    return bytes(body) + (bytes([0xEB, back]) if len(body) < 120 else b"\xf4"), starts


@pytest.mark.parametrize("seed", range(60))
def test_loops_of_pairs_with_every_budget(both, seed):
    r = random.Random(seed)
    mode = r.choice((16, 32))
    code, _ = loop(r, mode, r.randrange(4, 30))
    same(both, state_for(r, mode), code + b"\xf4" * 300, [r.choice((1, 2, 3, 7, 30, 400)) for _ in range(12)])


@pytest.mark.parametrize("seed", range(60))
def test_stores_into_the_pairs_themselves(both, seed):
    """Data lies in the code: a first instruction may change the second, a jump its own condition or distance."""
    r = random.Random(1000 + seed)
    mode = r.choice((16, 32))
    code, starts = loop(r, mode, r.randrange(4, 20))
    store = bytes.fromhex("c606" if mode == 16 else "c605")  # mov byte [place], value
    place = CODE + 5 + (mode == 32) * 2 + r.choice(starts)
    code = store + place.to_bytes(mode // 8, "little") + r.randbytes(1) + code
    same(both, state_for(r, mode), code + b"\xf4" * 300, [r.choice((1, 2, 3, 30, 400)) for _ in range(12)])
    inside = encode_store_before_jump(r, mode)
    same(both, state_for(r, mode), inside + b"\xf4" * 300, (50, 50))


def encode_store_before_jump(r, mode):
    """MOV [the jump behind], CMP or TEST, Jcc, back to the start: the pair is changed while it is chained."""
    form = next(f for f, _ in ALL if f.text.startswith("89 /r") and f.memory and f.asize == mode)
    setter, jump = r.choice([(a, b) for a, b in ALL if b.text[:1] == "7" and a.asize == a.osize == mode])
    length = len(encode(r, form, 0))
    middle, last = encode(r, setter), encode(r, jump)
    target = CODE + length + r.randrange(len(middle) + len(last))
    store = bytearray(encode(r, form))
    store[1] = (r.choice((0, 1, 2, 3)) << 3) | (6 if mode == 16 else 5)
    store[2:] = target.to_bytes(mode // 8, "little")
    body = bytes(store) + middle + last
    return body + bytes([0xEB, (-len(body) - 2) % 256])


@pytest.mark.parametrize("seed", range(40))
def test_limits_page_ends_and_missing_stacks(both, seed):
    """What faults in the second half has the first half done."""
    r = random.Random(2000 + seed)
    mode = r.choice((16, 32))
    state = state_for(r, mode)
    segment = r.choice((state.ds, state.ss, state.cs))
    segment.limit = DATA + r.randrange(0x40) if segment is state.ds else r.choice((0x6FFF, 0x7C20, 0x7C08))
    state.esp = r.choice((0x7000, 0x7000, 2, 1, 0x7001))
    chosen = [ALL[r.randrange(len(ALL))] for _ in range(400)]
    chosen = [(a, b) for a, b in chosen if a.asize == mode][:6]
    at = r.choice((DATA, 0x8FE0, 0x8FFC, 0xFFF8))
    code = b"".join(encode(r, form, min(at, 0xFFBF)) for pair in chosen for form in pair)
    same(both, state, code + b"\xf4" * 300, [r.choice((1, 2, 5, 100)) for _ in range(6)])


@pytest.mark.parametrize("seed", range(40))
def test_breakpoints_and_single_steps(both, seed):
    r = random.Random(3000 + seed)
    mode = r.choice((16, 32))
    code, starts = loop(r, mode, r.randrange(4, 16))
    state = state_for(r, mode)
    if r.random() < 0.5:
        state.dr7, state.dr[0] = 0x402, CODE + r.choice(starts)
    if r.random() < 0.3:
        state.dr7, state.dr[1] = state.dr7 | 0x408 | 0xD << 20, DATA + r.randrange(0x40)
    if r.random() < 0.3:
        state.rflags |= 0x100
    same(both, state, code + b"\xf4" * 300, [r.choice((1, 2, 5, 100)) for _ in range(8)])


def test_a_pair_says_when_a_handler_cannot_come_first():
    next_, jump = (Ending("    ", name, args) for name, args in (("next", ("bail",)), ("jump", ("t0", "bail"))))
    nop, ret = Handler("fast_nop", (next_,), {}), Handler("fast_ret", (jump,), {})
    assert "return then_fast_ret(" in Pair(nop, ret).source()
    segment_load = Handler("fast_pop_ds", (next_,), {"next": "END_NEXT_SEGMENT"})
    for first in (ret, segment_load, Handler("fast_twice", (next_, next_), {})):
        with pytest.raises(MicrocodeError, match=f"{first.name} cannot come first"):
            Pair(first, nop).source()


def test_jumps_that_are_not_made_cost_nothing_behind_them(both):
    """Ten thousand rounds of a loop whose block goes on behind a taken jump: counted exactly, to any budget."""
    native = both[0]
    code = bytes.fromhex("49 83f90a 75fa 40404040404040 f4")  # dec cx; cmp cx,10; jne; inc ax...; hlt
    for budget in range(29990, 30010):
        native.load(code, real_mode(CODE, ecx=10010))
        end = native.run(budget=budget)
        done = 0
        while end.reason is ExitReason.BUDGET:
            done += end.instructions
            assert end.instructions == (budget if done == budget else 1)
            end = native.run(budget=1)
        assert done + end.instructions == 30008
        assert native.state.eax & 0xFFFF == 7


def test_many_blocks_of_other_pages_link_and_unlink(both):
    """Jumps between pages are remembered, and what they lead to is compared with memory each time."""
    native = both[0]
    far = 0xA000
    hops = b"\x40\xe9" + ((CODE - far - 4) & 0xFFFF).to_bytes(2, "little")  # inc ax; jmp CODE
    native.ram[far : far + 4] = hops
    code = b"\x49\x74\x03\xe9" + ((far - CODE - 6) & 0xFFFF).to_bytes(2, "little") + b"\xf4"
    native.load(code, real_mode(CODE, ecx=500))
    assert native.run(budget=900).reason is ExitReason.BUDGET
    counted = native.state.eax & 0xFFFF
    assert counted > 100
    native.ram[far] = 0x43  # from outside: inc bx
    assert native.run(budget=10**6).reason is ExitReason.HALT
    assert native.state.eax & 0xFFFF in (counted, counted + 1)
    assert native.state.eax + native.state.ebx & 0xFFFF == 499


def test_all_pairs_are_listed_once_per_mode():
    for mode in (16, 32):
        assert sum(1 for a, _ in ALL if a.asize == mode) > 700
    assert all(a.asize == b.asize for a, b in islice(ALL, 5000))
    assert RAM > DATA
