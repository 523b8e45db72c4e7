"""Test ROMs and Multiboot kernels, made by hand, under ``x86-dm boot``: output, exit status and traces."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dm.shim.ends import Status

X86_DM = [sys.executable, "-P", "-m", "dm.cli"]

#: Runs in segment F000h.
ROM_CODE = bytes.fromhex(
    "b011 e680"  # mov al,11h; out 80h,al
    "b012 e680 e680"  # mov al,12h; out 80h,al; out 80h,al
    "ba0204"  # mov dx,402h
    "b068 ee b069 ee"  # mov al,'h'; out dx,al; mov al,'i'; out dx,al
    "b0ff e680"  # mov al,0ffh; out 80h,al
    "b010 e6f4"  # mov al,10h; out 0f4h,al
    "fa f4"  # cli; hlt
)
RESET_CODE = bytes.fromhex(
    "2ea0e0ff"  # mov al,cs:[0ffe0h]: through the copy below 4 GiB
    "e680"  # out 80h,al
    "ea000000f0"  # jmp f000:0
)


def rom(size: int = 0x10000) -> bytes:
    image = bytearray(b"\xf4" * size)
    image[-0x10000 : -0x10000 + len(ROM_CODE)] = ROM_CODE
    image[-0x20] = 0x5A
    image[-0x10 : -0x10 + len(RESET_CODE)] = RESET_CODE
    return bytes(image)


#: Entered in 32-bit protected mode with EAX the magic number and EBX the boot information.
KERNEL_CODE = bytes.fromhex(
    "3d02b0ad2b 7401 f4"  # cmp eax,2badb002h; je $+3; hlt
    "8b7310"  # mov esi,[ebx+16]: command line
    "ac 84c0 7404 e6e9 ebf7"  # lodsb; test al,al; jz $+6; out 0e9h,al; jmp $-7
    "8b4308 e6e9 88e0 e6e9"  # mov eax,[ebx+8]: KiB above 1 MiB; out 0e9h,al; mov al,ah; out 0e9h,al
    "66c705 00800b00 4b07"  # mov word [0b8000h],074bh: a K on the screen
    "c605 0000d000 55"  # mov byte [0d00000h],55h
    "a0 0000d000 e6f4"  # mov al,[0d00000h]; out 0f4h,al
    "f4"
)
LOAD = 0x100000


def header(flags: int) -> bytes:
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)


def flat_kernel() -> bytes:
    """Header with load addresses (header, load, end of data, end of BSS, entry), then code."""
    return header(0x10003) + struct.pack("<5I", LOAD, LOAD, 0, LOAD + 0x2000, LOAD + 32) + KERNEL_CODE


def elf_kernel() -> bytes:
    """An ELF-32 file linked at C0100000h and loaded at 100000h."""
    code_at = 96
    body = header(3) + KERNEL_CODE
    ident = b"\x7fELF\1\1\1".ljust(16, b"\0")
    file_header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0xC0000000 + LOAD + 12, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, code_at, 0xC0000000 + LOAD, LOAD, len(body), 0x1000, 7, 4)
    return (ident + file_header + segment).ljust(code_at, b"\0") + body


def boot(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*X86_DM, "boot", *map(str, words)], capture_output=True, text=True, timeout=250)


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest) -> tuple[str, str]:
    return "--engine", request.param


@pytest.mark.parametrize("size", [0x10000, 0x20000])
def test_rom_runs_at_the_reset_vector(tmp_path: Path, engine: tuple[str, str], size: int) -> None:
    file = tmp_path / "rom.bin"
    file.write_bytes(rom(size))
    # nothing is expected: the last text's appearance would end it, too, before or after the ROM does
    done = boot(*engine, "--bios", file, "--debugcon", "0x402", "--exit-port", "0xf4", "--timeout", 200)
    assert done.stdout.splitlines() == ["POST 5A", "POST 11", "POST 12", "hi", "POST FF"]
    assert done.returncode == 0x10 << 1 | 1, done.stderr
    assert "wrote 0x10 to the exit port" in done.stderr


def test_rom_that_exits_before_what_was_expected_fails(tmp_path: Path) -> None:
    file = tmp_path / "rom.bin"
    file.write_bytes(rom())
    done = boot("--bios", file, "--exit-port", "0xf4", "--expect", "POST AA", "--timeout", 200)
    assert done.returncode == 1
    assert "'POST AA' has not appeared" in done.stderr


def test_rom_without_exit_port_halts(tmp_path: Path) -> None:
    file = tmp_path / "rom.bin"
    file.write_bytes(rom())
    done = boot("--bios", file, "--post-port", "0xf4", "--json", "--timeout", 200)
    report = json.loads(done.stdout)
    assert (done.returncode, report["outcome"]) == (0, "halted")
    assert (report["serial"], report["post"], report["exit_value"]) == ("POST 10\n", [0x10], None)
    assert report["stats"]["firmware"] == {}, "there is no built-in firmware"


@pytest.mark.parametrize("image", [flat_kernel(), elf_kernel()], ids=["flat", "elf"])
def test_multiboot_kernel(tmp_path: Path, engine: tuple[str, str], image: bytes) -> None:
    file = tmp_path / "kernel.bin"
    file.write_bytes(image)
    done = boot(
        *engine, file, "--append", "root=x y", "--exit-port", "0xf4", "--memory", 32, "--json", "--timeout", 200
    )
    report = json.loads(done.stdout)
    # 31 MiB above the first: 7C00h KiB.
    assert report["serial"] == "root=x y\0\x7c"[:8] + "\0\x7c"
    assert report["screen"][0][0] == "K"
    assert (report["outcome"], report["exit_value"], done.returncode) == ("exited", 0x55, 0xAB)


def test_multiboot_kernel_that_needs_more_memory(tmp_path: Path) -> None:
    file = tmp_path / "kernel.bin"
    file.write_bytes(flat_kernel().replace(struct.pack("<I", LOAD + 0x2000), struct.pack("<I", LOAD + (80 << 20))))
    done = boot(file)
    assert done.returncode == Status.USAGE
    assert "wants to be loaded at 0x100000 to 0x50fffff; there is memory at" in done.stderr


def trace(path: Path) -> list[tuple[str, dict[str, object]]]:
    return [(entry["instruction"], entry["state"]) for entry in map(json.loads, path.read_text().splitlines())]


def test_trace_is_what_explain_reads(tmp_path: Path) -> None:
    file, out = tmp_path / "rom.bin", tmp_path / "trace.jsonl"
    file.write_bytes(rom())
    boot("--bios", file, "--engine", "native", "--trace", out, "--timeout", 200)
    steps = trace(out)
    assert [words for words, _ in steps[:5]] == [
        "",
        "f000:0000fff0 mov al,cs:0xffe0",
        "f000:0000fff4 out 0x80,al",
        "f000:0000fff6 jmpf 0xf000:0x0",
        "f000:00000000 mov al,0x11",
    ]
    assert steps[1][1]["rax"] == "0x5a"
    assert (steps[2][1]["cs"]["base"], steps[3][1]["cs"]["base"]) == ("0xffff0000", "0xf0000")  # type: ignore[index]
    words = [*X86_DM, "explain", "--for", "protected", "--json", out]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    broken = {row["rule"]: row.get("instruction") for row in json.loads(done.stdout)["failing"]}
    assert (done.returncode, broken) == (1, {"PE": None, "CS_LOADED": "f000:0000fff6 jmpf 0xf000:0x0"})


def test_a_trace_from_an_address_does_not_step_there(tmp_path: Path) -> None:
    image = bytearray(rom())
    image[:16] = bytes.fromhex("66b940420f00 6649 75fc b010 e6f4 f4 90")  # mov ecx,1000000; dec ecx; jnz; exit
    file, out = tmp_path / "rom.bin", tmp_path / "trace.jsonl"
    file.write_bytes(image)
    options = ("--trace", out, "--trace-from", "0xf000a", "--trace-count", 1, "--json")
    done = boot("--bios", file, "--engine", "native", *options, "--exit-port", "0xf4", "--timeout", 60)
    stats = json.loads(done.stdout)["stats"]
    assert stats["instructions"] > 2_000_000
    assert stats["runs"] < 20_000
    assert stats["ends"]["debug"] == 1
    assert [words for words, _ in trace(out)] == ["", "f000:0000000a mov al,0x10"]


def test_trace_from_an_address_ends_after_its_count(tmp_path: Path) -> None:
    file, out = tmp_path / "rom.bin", tmp_path / "trace.jsonl"
    file.write_bytes(rom())
    options = ("--trace", out, "--trace-from", "0xf0004", "--trace-count", 2)
    done = boot("--bios", file, "--engine", "native", *options, "--exit-port", "0xf4", "--timeout", 200)
    assert done.returncode == 0x21, "the rest runs on without being traced"
    assert [words for words, _ in trace(out)] == ["", "f000:00000004 mov al,0x12", "f000:00000006 out 0x80,al"]
