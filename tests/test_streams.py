"""What commands do with standard streams that are closed, full, a pipe whose reader goes away, or ASCII only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

X86_DM = [sys.executable, "-P", "-m", "dm.cli"]
#: A command of each kind: text of cli.py, of argparse, a long one, JSON, one that makes files.
COMMANDS = [
    ["--version"],
    ["--help"],
    ["isa", "--help"],
    ["isa"],
    ["isa", "--json"],
    ["isa", "66", "0f", "20", "c0"],
    ["keygen", "key"],
]


@pytest.fixture
def shell(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Return a function that runs a command with the shell's redirections."""

    def run(words: list[str], redirections: str) -> subprocess.CompletedProcess[str]:
        script = f'"$@" {redirections}'
        return subprocess.run(["sh", "-c", script, "sh", *X86_DM, *words], cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("redirections", "status", "said"),
    [
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 1, "x86-dm: standard output: No space left on device\n"),
        (">/dev/full 2>&1", 1, ""),
        (">/dev/full 2>&-", 1, ""),
    ],
)
def test_output_that_goes_nowhere(shell, words, redirections, status, said):  # type: ignore[no-untyped-def]
    done = shell(words, redirections)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path, words: list[str], both: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*X86_DM, *words], cwd=tmp_path, stdout=writer, stderr=writer if both else subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == 141
    assert not done.stderr


@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-"])
def test_a_message_that_cannot_be_written_changes_no_status(shell, redirections):  # type: ignore[no-untyped-def]
    for words in (["no-such-command"], ["isa", "--no-such-option"], ["boot", "no-such-file"], ["explain", "none"]):
        assert shell(words, redirections).returncode == 2
        assert shell(words, f"{redirections} >/dev/full").returncode == 2


def test_files_get_no_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Its name would otherwise be printed into the key itself."""
    subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *X86_DM, "keygen", "key"], cwd=tmp_path, check=True)
    assert b"public, for" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


#: A boot sector that fills a row with a box, and halts.
BOX = bytes.fromhex("b8dbcd bb0700 b90300 b40e cd10 e2fa fa f4")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_boot_prints_what_ascii_has_not(tmp_path: Path, options: list[str]) -> None:
    image = tmp_path / "box.img"
    image.write_bytes((BOX.ljust(510, b"\0") + b"\x55\xaa").ljust(1474560, b"\0"))
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [*X86_DM, "boot", *options, image], capture_output=True, env=os.environ | environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode("ascii")
        assert (json.loads(text)["screen"][0] if options else text.strip()) == ("███" if options else "???")
