"""The disassembler, the listing of the map, and both against objdump."""

import argparse
import itertools
import json
import shutil

import pytest
from encode import vex

from dm import cli
from dm.commands import isa as command
from dm.isa.lineage import Lineage
from dm.isa.map import objdump
from dm.isa.map.decode import NeedMore
from dm.isa.map.disassembler import disassemble, listing
from dm.isa.map.forms import MAPS, ROWS
from dm.isa.map.objdump import InsnText


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("0010", "add byte ptr [bx+si],dl"),
        ("004612", "add byte ptr [bp+0x12],al"),
        ("8a867fff", "mov al,byte ptr [bp-0x81]"),
        ("8b0e3412", "mov cx,word ptr ds:0x1234"),
        ("26668b0e3412", "mov ecx,dword ptr es:0x1234"),
        ("2e8a07", "mov al,byte ptr cs:[bx]"),
        ("36ff30", "push word ptr ss:[bx+si]"),
        ("678b448b08", "mov ax,word ptr [ebx+ecx*4+0x8]"),
        ("678b0c8d00000000", "mov cx,word ptr [ecx*4]"),
        ("678a042410", "mov al,byte ptr [esp]"),
        ("f0fe00", "lock inc byte ptr [bx+si]"),
        ("f3a4", "rep movsb byte ptr es:[di],byte ptr ds:[si]"),
        ("6466f2a7", "repne cmpsd dword ptr fs:[si],dword ptr es:[di]"),
        ("67ac", "lodsb al,byte ptr ds:[esi]"),
        ("26d7", "xlat byte ptr es:[bx]"),
        ("eafe00c007", "jmpf 0x7c0:0xfe"),
        ("ff2f", "jmpf dword ptr [bx]"),
        ("66ff2f", "jmpf fword ptr [bx]"),
        ("66c507", "lds eax,fword ptr [bx]"),
        ("c80010ff", "enter 0x1000,0xff"),
        ("83c0fe", "add ax,0xfffe"),
        ("6683c0fe", "add eax,0xfffffffe"),
        ("f7f1", "div cx"),
        ("69c23412", "imul ax,dx,0x1234"),
        ("8cc8", "mov ax,cs"),
        ("668c08", "mov word ptr [bx+si],cs"),
        ("0f22c0", "mov cr0,eax"),
        ("0f0117", "lgdt [bx]"),
        ("0faef0", "mfence"),
        ("66e303", "jcxz 0x5006"),
        ("67e303", "jecxz 0x5006"),
        ("e9fdaf", "jmp 0x0"),
        ("a03412", "mov al,ds:0x1234"),
        ("ec", "in al,dx"),
        ("d1e0", "shl ax,1"),
        ("0fa5c8", "shld ax,cx,cl"),
        ("6690", "xchg eax,eax"),
        ("d9c1", "fld st(1)"),
        ("d8c0", "fadd st,st(0)"),
        ("dcea", "fsub st(2),st"),
        ("dd5e02", "fstp qword ptr [bp+0x2]"),
        ("db2f", "fld tbyte ptr [bx]"),
        ("66dd37", "fnsave [bx]"),
        ("dfe0", "fnstsw ax"),
        ("d9d1", "x87 d9/2,1"),
        ("0f6ec8", "movd mm1,eax"),
        ("660f6ec8", "movd xmm1,eax"),
        ("0f600f", "punpcklbw mm1,dword ptr [bx]"),
        ("f30f1007", "movss xmm0,dword ptr [bx]"),
        ("f20f58ca", "addsd xmm1,xmm2"),
        ("660fc4c801", "pinsrw xmm1,eax,0x1"),
        ("0fc40f01", "pinsrw mm1,word ptr [bx],0x1"),
        ("660f3a14c802", "pextrb eax,xmm1,0x2"),
        ("660f3814ca", "blendvps xmm1,xmm2,xmm0"),
        ("0f1217", "movlps xmm2,qword ptr [bx]"),
        ("0f12d1", "movhlps xmm2,xmm1"),
        ("0f38cbca", "sha256rnds2 xmm1,xmm2,xmm0"),
        ("0fae07", "fxsave [bx]"),
        ("f090", "(bad)"),
        ("0f04", "(bad)"),
        ("26" * 15, "(too long)"),
    ],
)
def test_text(code, text):
    code = bytes.fromhex(code)
    line = disassemble(code, False, 0x5000)
    assert line.text == text
    assert line.code == code or text == "mov al,byte ptr [esp]"
    assert (line.row is None) == text.startswith("(")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("0010", "add byte ptr [eax],dl"),
        ("668b0e", "mov cx,word ptr [esi]"),
        ("678b0e3412", "mov ecx,dword ptr ds:0x1234"),
        ("60", "pushad"),
        ("6660", "pusha"),
        ("e9fbffffff", "jmp 0x80000000"),
        ("66e9fcff", "jmp 0x0"),
        ("8a4500", "mov al,byte ptr [ebp]"),
        ("3e8a4500", "mov al,byte ptr ds:[ebp]"),
        ("9a785634121000", "callf 0x10:0x12345678"),
        ("c4e260f2c1", "andn eax,ebx,ecx"),
        ("26c4c2a0f2442410", "andn eax,ebx,dword ptr es:[esp+0x10]"),
        ("c4e278f30e", "blsr eax,dword ptr [esi]"),
        ("c4e263f6c1", "mulx eax,ebx,ecx"),
        ("c4e262f5c1", "pext eax,ebx,ecx"),
        ("c4e262f7c1", "sarx eax,ecx,ebx"),
        ("c4e37bf0c11f", "rorx eax,ecx,0x1f"),
        ("c4e264f2c1", "(bad)"),
        ("66c4e260f2c1", "(bad)"),
        ("c4e373f0c11f", "(bad)"),
    ],
)
def test_text_of_32_bit_code(code, text):
    assert disassemble(bytes.fromhex(code), True, 0x80000000).text == text


def test_bytes_that_end_too_soon():
    with pytest.raises(NeedMore):
        disassemble(b"\xb8\x01", False)


def test_a_listing_covers_every_byte():
    code = bytes.fromhex("b83412 0f04 90 b8")
    lines = listing(code, False)
    assert [line.text for line in lines] == ["mov ax,0x1234", "(bad)", "nop", "(incomplete)"]
    assert b"".join(line.code for line in lines) == code


def test_every_form_of_every_row_has_a_text():
    seen = set()
    for row in ROWS:
        opcodes = range(row.opcode, row.last + 1)
        prefixes = (
            ("", "66", "f3", "f2")
            if "undefined" in row.attributes
            else ({"NP": "", "NFx": ""}.get(row.prefix, row.prefix),)
        )
        for opcode, prefix in itertools.product(opcodes, prefixes):
            for modrm in range(256) if row.mod else (0,):
                escape = vex(row, 0x50) if row.vex else bytes.fromhex(prefix + MAPS[row.map])
                code = escape + bytes([opcode, modrm]) + bytes(11)
                for code32 in (False, True):
                    line = disassemble(code, code32)
                    if line.row is row:
                        seen.add(row.text)
                        assert line.text.startswith(tuple(name.lower() for name in (*row.names, "j")))
    # Rows of old parts and of one vendor's are not in the map that text is made from.
    assert {row.text for row in ROWS if row.on(Lineage.INTEL)} - seen == set()


def run(capsys, *words):
    status = cli.run(["isa", *words])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_command_lists_and_disassembles(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    assert "0F A2         CPUID" in out
    status, out, _ = run(capsys, "--bits", "32", "--address", "0x7c00", "ea 00000000 0800", "f4")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["7c00", "7c07"]
    assert "jmpf 0x8:0x0" in out


@pytest.mark.parametrize(
    ("words", "said"), [(["9"], "two digits"), (["xy"], "'xy'"), (["--address=0x100000000", "90"], "0xffffffff")]
)
def test_bad_input_is_named(capsys, words, said):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert said in err


needs_objdump = pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils are not installed")


@needs_objdump
@pytest.mark.parametrize("code32", [False, True])
def test_objdump_agrees_or_the_difference_is_reviewed(code32):
    """A sample; ``x86-dm isa --check`` compares all."""
    result = objdump.compare(list(objdump.cases())[::7], code32)
    assert result.compared > 15000
    assert result.errors == []


@pytest.mark.long
@needs_objdump
def test_objdump_agrees_on_everything_and_every_reason_is_needed():
    seen = set()
    for code32 in (False, True):
        result = objdump.compare(objdump.cases(), code32)
        assert result.errors == []
        seen |= set(result.reviewed)
    assert seen == {row.reason for row in objdump.REVIEWED if row.since <= objdump.version()}


@needs_objdump
def test_check_reports_and_fails_on_what_is_not_reviewed(monkeypatch, capsys):
    some = [bytes.fromhex(code) for code in ("01d8", "f001d8", "dfc8")]
    monkeypatch.setattr(objdump, "cases", lambda: some)
    status, out, _ = run(capsys, "--check")
    assert status == 0
    assert "16-bit code: 3 instructions compared, 1 agree" in out
    assert "LOCK is #UD here" in out
    monkeypatch.setattr(objdump, "REVIEWED", ())
    status, out, _ = run(capsys, "--check", "--verbose")
    assert status == 1
    assert out.count("NOT REVIEWED") == 4


@needs_objdump
def test_the_comparison_sees_differences(monkeypatch):
    monkeypatch.setattr(objdump, "disassemble", lambda code, code32, at: disassemble(b"\x90" + code[1:], code32, at))
    result = objdump.compare([bytes.fromhex("01d8"), bytes.fromhex("90")], False)
    assert (result.compared, len(result.errors)) == (2, 1)
    assert "nop" in result.errors[0]
    assert "add" in result.errors[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (InsnText(2, "add", "al,bl"), InsnText(2, "add", "al,bl"), True),
        (InsnText(2, "lgdt", "[bx]"), InsnText(2, "lgdtw", "[bx]"), True),
        (InsnText(2, "pushad", ""), InsnText(2, "pusha", ""), True),
        (InsnText(2, "add", "al,bl"), InsnText(3, "add", "al,bl"), False),
        (InsnText(2, "add", "al,bl"), InsnText(2, "add", "al,cl"), False),
        (InsnText(2, "add", "al,bl"), InsnText(2, "adc", "al,bl"), False),
        (InsnText(2, "", ""), InsnText(5, "", ""), True),
        (InsnText(2, "", ""), InsnText(2, "nop", ""), False),
        (InsnText(2, "jmp", "0x10"), InsnText(2, "jmp", "0x20010"), True),
    ],
)
def test_sameness(ours, theirs, same):
    assert objdump.same(ours, theirs) == same


def test_no_objdump_is_said(monkeypatch, capsys):
    monkeypatch.setattr(objdump.shutil, "which", lambda name: None)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.main(parser.parse_args(["--check"])) == 2
    assert "binutils" in capsys.readouterr().err


def test_instructions_for_programs(capsys):
    assert cli.run(["isa", "--json", "--bits", "32", "--address", "0x1000", "40 c3"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"address": 0x1000, "bytes": "40", "text": "inc eax"},
        {"address": 0x1001, "bytes": "c3", "text": "ret"},
    ]


@pytest.mark.parametrize("address", ["x", "1.5", ""])
def test_an_impossible_address(capsys, address):
    with pytest.raises(SystemExit):
        cli.run(["isa", f"--address={address}", "90"])
    assert f"argument --address: {address}: an address from 0 to 0xffffffff is needed" in capsys.readouterr().err
