"""The form of the series for QEMU: its style, and that the tree builds at each of its patches."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from qemu_machine import BUILD, Daemon, Qemu

from dm.version import VERSION

SERIES = sorted(BUILD.parent.glob("[0-9]*.patch"))
OTHERS = sorted(BUILD.parent.glob("10.2.2/[0-9]*.patch"))
CLIENT = BUILD.parent.parent / "protocol" / "x86-dm.pc"

pytestmark = pytest.mark.timeout(7200)


def build(*options: str) -> str:
    """Run build.sh; skip where its packages cannot be installed."""
    done = subprocess.run([BUILD, *options], capture_output=True, text=True)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_patches_are_numbered_and_described() -> None:
    for number, patch in enumerate(SERIES, 1):
        text = patch.read_text()
        assert patch.name.startswith(f"{number:04}-")
        assert f"[PATCH {number:02}/{len(SERIES)}]" in text
        assert "\nSigned-off-by: " in text


def test_readme_names_every_patch() -> None:
    """Its table has rows such as `| 4, 5 | ...` and `| 9 to 11 | ...`."""
    named: set[int] = set()
    table = (BUILD.parent / "README.md").read_text().split("\n## The series\n")[1]
    for cell in re.findall(r"^\| (\d+(?:(?:, | to )\d+)*) \|", table, re.M):
        ends = [int(number) for number in re.findall(r"\d+", cell)]
        named.update(range(ends[0], ends[-1] + 1))
    assert named == set(range(1, len(SERIES) + 1))


def test_client_is_found_as_a_system_library_is() -> None:
    assert f"\nVersion: {VERSION}\n" in CLIENT.read_text()
    words = ["pkg-config", "--cflags", "x86-dm"]
    where = {**os.environ, "PKG_CONFIG_PATH": str(CLIENT.parent)}
    done = subprocess.run(words, capture_output=True, text=True, env=where)
    assert f"-I{CLIENT.parent}" in done.stdout.split(), done.stderr


def test_unknown_version_is_refused() -> None:
    done = subprocess.run([BUILD, "--qemu", "9.0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "10.0.13" in done.stderr


def test_checkpatch_has_nothing_to_say() -> None:
    tree = Path(build("--source").strip())
    for patch in (*SERIES, *OTHERS):
        words = [tree / "scripts" / "checkpatch.pl", "--no-tree", "-q", patch]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tree)
        assert (done.returncode, done.stdout) == (0, ""), patch.name


@pytest.mark.long
def test_tree_builds_at_each_patch() -> None:
    assert build("--each").split() == [patch.name for patch in SERIES]


@pytest.mark.long
def test_newer_qemu_builds_and_boots(daemon: Daemon, short_path: Path) -> None:
    daemon.start()
    vm = Qemu(build("--qemu", "10.2.2").strip(), short_path, daemon.endpoint, "real")
    try:
        assert vm.command("query-version")["qemu"]["minor"] == 2
        vm.wait_for("No bootable device.")
        assert vm.total("instructions") > 100_000
    finally:
        vm.close()
