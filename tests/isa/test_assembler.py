"""The assembler for the small PC's firmware, checked against the disassembler, which is made from the same map."""

import pytest

from dm.isa.map.assembler import assemble
from dm.isa.map.disassembler import listing


def texts(source, origin=0, **symbols):
    return [line.text for line in listing(assemble(source, origin, symbols).code, False, origin)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("push bp", "55"), ("mov bp,sp", "89e5"), ("mov ax,[0x1a]", "a11a00"), ("mov [0x1a],bl", "881e1a00"),
        ("mov cs:[0x8000],ax", "2ea30080"), ("mov byte cs:[0x8002],1", "2ec606028001"), ("and bl,0xef", "80e3ef"),
        ("add cx,5", "83c105"), ("add ax,300", "052c01"), ("add cx,-1", "83c1ff"), ("mul byte [0x4a]", "f6264a00"),
        ("mul si", "f7e6"), ("mov es,[bp-4]", "8e46fc"), ("shl bl,5", "c0e305"), ("shl di,1", "d1e7"),
        ("shr ax,cl", "d3e8"), ("rep movsw", "f3a5"), ("repne scasb", "f2ae"), ("lea sp,[bp-0x10]", "8d66f0"),
        ("out 0x20,al", "e620"), ("in al,dx", "ec"), ("test byte [bp-0x18],2", "f646e802"),
        ("xchg [0x70],al", "86067000"),
        ("mov al,es:[si]", "268a04"), ("cmp [bx+si+0x200],dx", "39900002"), ("push word [si+0x50]", "ff7450"),
        ("mov ax,[bp]", "8b4600"), ("iret", "cf"), ("les bx,[0x78]", "c41e7800"), ("jmp dx", "ffe2"),
        ("db 1,-1", "01ff"),
        ("dw 0x1234", "3412"), ("", ""), ("; nothing", ""), ("int 0x10 ; text", "cd10"), ("push 0x40", "6a40"),
    ],
)  # fmt: skip
def test_encodings(line, code):
    assert assemble(line, 0).code.hex() == code


def test_labels_and_symbols():
    made = assemble("start: jmp end\n nop\nend: mov ax,table\n call start\n jz end+1", 0x100, {"table": 0x1234})
    assert made.labels == {"start": 0x100, "end": 0x103}
    assert [line.text for line in listing(made.code, False, 0x100)] == [
        "jmp 0x103", "nop", "mov ax,0x1234", "call 0x100", "jz 0x104",
    ]  # fmt: skip


@pytest.mark.parametrize(("gap", "size"), [(127, 2), (128, 3)])
def test_jumps_grow_as_far_as_they_must(gap, size):
    made = assemble("jmp end\n" + " nop\n" * gap + "end: nop", 0)
    assert made.labels["end"] == size + gap
    assert texts("jmp end\n" + " nop\n" * gap + "end: nop")[0] == f"jmp {size + gap:#x}"


def test_jumps_that_push_each_other_out_of_reach():
    source = "a: jnz c\n" + " nop\n" * 62 + "b: jz a\n" + " nop\n" * 61 + "c: jmp b\n jmp a"
    made = assemble(source, 0)
    lines = listing(made.code, False)
    assert lines[0].text == f"jnz {made.labels['c']:#x}"
    assert lines[-1].text == "jmp 0x0"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nop\n frob ax", "line 2.*no instruction 'frob'"), ("mov ax,bl", "no such instruction"),
        ("inc [0x10]", "no such instruction"), ("jmp nowhere", "no label nowhere"), ("a: nop\na: nop", "there already"),
        ("mov al,300", "no such instruction"), ("mov ax,[ax]", "no 16-bit address"), ("mov ax,[bx+bp]", "bx.bp is no"),
        ("loop far\n" + " nop\n" * 200 + "far: nop", "line 1.*no such instruction"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(source, complaint):
    with pytest.raises(ValueError, match=complaint):
        assemble(source, 0)
