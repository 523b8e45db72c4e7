"""PATH.d: an operator's directory is never emptied nor removed, a daemon's is tidied up."""

from __future__ import annotations

import os
import socket
import stat

import pytest
from harness import Daemon, flat, run, session

from dm.protocol.schema import DoneReason
from dm.server.daemon.directory import Directory


def bare(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def tree(path):
    return {
        str(entry.relative_to(path)): (entry.lstat().st_ino, entry.lstat().st_mode, entry.lstat().st_mtime_ns)
        for entry in path.rglob("*")
    }


@pytest.mark.parametrize("content", ["file", "socket of our name", "directory", "hidden", "link"])
def test_an_operators_directory_stays_as_it_is(tmp_path, content):
    place = tmp_path / "app.d"
    place.mkdir(mode=0o755)
    match content:
        case "file":
            (place / "job").write_text("precious")
        case "socket of our name":
            bare(place / "ram")
        case "directory":
            (place / "sub").mkdir()
            (place / "sub" / "job").write_text("precious")
        case "hidden":
            (place / ".keep").write_text("")
        case _:
            (place / "ram").symlink_to("/etc")
    before = tree(tmp_path)
    out = run("--listen", f"ipc://{tmp_path}/app", "--engine", "fake_engine:create")
    assert out.returncode == 1
    assert "was not made by x86-dm: nothing in it is touched; choose another endpoint, or empty it" in out.stderr
    assert tree(tmp_path) == before


def test_an_empty_directory_is_used_and_stays(tmp_path):
    place = tmp_path / "control.d"
    place.mkdir()
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, b"h") as (_, vcpu):
        assert vcpu.run(flat()).reason is DoneReason.HALT
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert list(place.iterdir()) == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"control.d", "log"}


def test_what_others_put_into_a_daemons_directory_stays(tmp_path):
    with Daemon(tmp_path) as first, session(first.endpoint):
        (tmp_path / "control.d" / "notes").write_text("precious")
        (tmp_path / "control.d" / "vcpu-1-2").mkdir()
        (tmp_path / "control.d" / "vcpu-3-4").symlink_to(tmp_path / "log")
        first.process.kill()
        first.process.wait()
    bare(tmp_path / "control.d" / "vcpu-5-6")
    with Daemon(tmp_path) as second, session(second.endpoint, b"h") as (_, vcpu):
        assert vcpu.run(flat()).reason is DoneReason.HALT
    left = {entry.name for entry in (tmp_path / "control.d").iterdir()}
    assert left == {"notes", "vcpu-1-2", "vcpu-3-4"}


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "app.d").symlink_to(tmp_path / "empty")
    with pytest.raises(OSError, match="is not a directory of ours"):
        Directory(str(tmp_path / "app"))
    assert (tmp_path / "app.d").is_symlink()


def test_a_socket_that_no_daemon_made_stays(tmp_path):
    bare(tmp_path / "control")
    before = tree(tmp_path)
    out = run("--listen", f"ipc://{tmp_path}/control", "--engine", "fake_engine:create")
    assert out.returncode == 1
    assert "is a socket that no daemon has left here" in out.stderr
    assert tree(tmp_path) == before


def test_the_end_of_one_daemon_leaves_the_sockets_of_the_next(tmp_path):
    """Somebody removes the endpoint under a daemon, another starts there, the first one ends."""
    (tmp_path / "first").mkdir()
    with Daemon(tmp_path) as first, session(first.endpoint, b"h") as (_, held):
        os.rename(tmp_path / "control.d", tmp_path / "gone.d")
        os.unlink(tmp_path / "control")
        os.rename(tmp_path / "log", tmp_path / "log.first")
        with Daemon(tmp_path) as second, session(second.endpoint, b"h") as (shim, vcpu):
            before = {name: was[:2] for name, was in tree(tmp_path / "control.d").items()}
            assert {"ram", "x86-dm"} < set(before)
            assert first.stop() == 0
            assert {name: now[:2] for name, now in tree(tmp_path / "control.d").items()} == before
            assert (tmp_path / "control").exists()
            assert vcpu.run(flat()).reason is DoneReason.HALT
            shim.create_vcpu(1)
            del held
    assert not (tmp_path / "control.d").exists()


def test_an_emptied_directory_may_have_another_daemon(tmp_path):
    first = Directory(str(tmp_path / "c"))
    for entry in (tmp_path / "c.d").iterdir():
        entry.unlink()
    second = Directory(str(tmp_path / "c"))
    bare(second.ram)
    first.close()
    assert {entry.name for entry in (tmp_path / "c.d").iterdir()} == {"ram", "x86-dm"}
    second.close()
    assert (tmp_path / "c.d").exists()  # the second did not make it
