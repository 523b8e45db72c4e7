"""The commands of README.md, run top to bottom in one shell by a user who is not root, in a home that is empty.

What is not run as it is written stands in INSTEAD, with the reason.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "vectors"))

from test_moo import FULL32, R32, a_test, counted, header, meta, ram, registers

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
#: (language, text) of each block of code.
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
NOBODY = 65534

TCP_BOOT = (
    'x86-dm boot --connect "tcp://$address" --curve-secret-key vm1.key_secret --curve-server-key daemon.key image.iso'
)
#: What stands in for a command: (other commands, why).  $TESTED has the scripts of the installation under test.
INSTEAD = {
    "./run demo": ("", "CI runs it, on a fresh system"),
    "./run test": ("", "this is it"),
    "./run fresh demo": ("", "CI runs it"),
    "pip install 'qemu.qmp[tui]'": ("", "the tests' requirements bring it"),
    'qmp-tui "$sockets/qmp"': ("command -v qmp-tui", "full screen: tests/qmp/test_tui.py uses it"),
    "x86-dm boot image.iso": ("x86-dm boot --expect 'grub>' image.iso", "it waits for its user"),
    'x86-dm boot --connect "ipc://$sockets/control" image.iso': (
        "x86-dm boot --connect \"ipc://$sockets/control\" --expect 'grub>' image.iso",
        "it waits for its user",
    ),
    TCP_BOOT: (f"{TCP_BOOT} --expect 'grub>'", "it waits for its user"),
    "address=127.0.0.1:5555": ("address=$ADDRESS", "the port may be taken"),
    "x86-dm explain --for vmx trace.jsonl": (
        "x86-dm explain --for vmx trace.jsonl && false || test $? = 1",
        "real mode cannot be entered, and the page says what its status is then",
    ),
    "x86-dm bench --quick": ("x86-dm bench --quick --only alu", "all of it takes minutes"),
}
#: The same for the installation, which takes minutes; tests/test_install.py has its parts.
INSTEAD |= {
    "python3 -m venv ~/x86-dm": (
        "python3 -m venv --without-pip ~/x86-dm\n"
        'echo "$PACKAGES" >"$(echo ~/x86-dm/lib/python3*/site-packages)/tested.pth"',
        "the packages under test, with what they need",
    ),
    "pip install .": (
        'ln -s "$TESTED/x86-dm" "$TESTED/qmp-shell" "$TESTED/qmp-tui" ~/x86-dm/bin',
        "the scripts under test",
    ),
}


def commands(text: str) -> list[str]:
    """Return the commands of a block, without comments, continued lines as one."""
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    return [line for raw in lines if (line := re.sub(r"(^|\s+)#.*", "", raw))]


def script() -> str:
    """Return the page as a shell script that ends at the first command that fails."""
    out = ["set -e"]
    for language, text in BLOCKS:
        if language == "python":
            out.append(f"echo '+ python' >&2\npython <<'END'\n{text}END")
            continue
        for command in commands(text):
            out += [f"echo {shlex.quote(command)} >&2", INSTEAD.get(command, (command, ""))[0]]
    return "\n".join(out) + "\n"


def as_somebody() -> list[str]:
    """Return what runs a command as a user who is not root, and may do nothing that such a user may not.

    Where the interpreter lies in root's own home that user may read everything, but still write nothing.
    """
    if os.geteuid():
        return []
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reader = [f"--{which}=-all,+dac_read_search" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    for words in (drop, [*drop, *reader]):
        test = [*words, "sh", "-c", '"$0" -c "import dm.fast, zmq"', sys.executable]
        if subprocess.run(test, cwd="/", capture_output=True, env=os.environ | {"HOME": "/"}).returncode == 0:
            return words
    return []  # a namespace without other users, whose root is none outside


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home with a short path; whoever still runs with it in the end is ended."""
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as place:
        made = Path(place)
        # ~/vectors/80386: one test of one instruction, INC AX and HLT, as SingleStepTests writes them.
        (made / "vectors/80386").mkdir(parents=True)
        (made / "vectors/80386/40.MOO").write_bytes(recorded_test())
        yield made
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"HOME={place}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGTERM)
            except (OSError, ValueError):
                continue


def recorded_test() -> bytes:
    """Return a MOO file: of EAX only the low byte changes, and EIP stands behind HLT."""
    final = registers("RG32", R32, {"eax": FULL32["eax"] + 1, "eip": FULL32["eip"] + 2}) + ram() + counted("QUEU", b"")
    return header() + meta() + a_test(final=final)


def run_page(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the page with ``home`` as home and directory."""
    words = as_somebody()
    if words:
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    names = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH", "XDG_CACHE_HOME", "TMPDIR")
    }
    names.pop("XDG_RUNTIME_DIR", None)
    names |= {"HOME": str(home), "ADDRESS": f"127.0.0.1:{port}", "TERM": "dumb"} | environment
    (home / "page.sh").write_text(script())
    # Files, not pipes: the daemons keep standard error.
    with (home / "out").open("w+") as out, (home / "err").open("w+") as err:
        done = subprocess.run(
            [*words, "sh", "page.sh"],
            cwd=home,
            env=names,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=250,
        )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())


def test_every_command_works_as_written(home: Path) -> None:
    missing = [tool for tool in ("grub-mkrescue", "xorriso", "mformat") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and '.join(missing)} here")
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(sys.executable)
    packages = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    done = run_page(
        home, TESTED=str(Path(sys.executable).parent), PACKAGES=packages,
        PATH=f"{home}/bin:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    assert '"sessions": []' in done.stdout
    assert done.stdout.count("grub>") >= 4
    assert "660f20c0                        mov eax,cr0" in done.stdout
    assert "1 passed, 0 failed" in done.stdout
    assert done.stdout.rstrip().endswith("halt 0x1c"), "the program in Python"
    assert "Traceback" not in done.stderr


def test_the_page_is_what_is_run() -> None:
    every = [command for language, text in BLOCKS if language == "sh" for command in commands(text)]
    assert len(every) > 30
    for command in INSTEAD:
        assert command in every, f"{command} is not on the page any more"
    assert "\n    x86-dm" not in PAGE, "commands stand in blocks with their language"
    assert {language for language, _ in BLOCKS} == {"sh", "python"}
