"""Names of sockets: only who has made one removes it."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from dm.claim import Claim, Inode, remove


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def crash(claim: Claim) -> None:
    """Leave all behind, as after kill -9: the lock goes with its descriptor."""
    os.close(claim._file)


def bare(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


def test_it_is_bound_private_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    claim = Claim(str(path))
    with claim.bind(backlog=1):
        assert names(tmp_path) == ["s", "s.x86-dm"]
        assert {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()} == {0o600}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        claim.close()
        claim.close()
    assert names(tmp_path) == []


def test_a_successor_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Claim(str(path), note="old")
    first.bind().close()
    crash(first)
    second = Claim(str(path), note="new")
    assert second.note == "old"
    assert names(tmp_path) == ["s.x86-dm"]
    second.bind().close()
    second.close()
    assert names(tmp_path) == []


def test_a_name_is_claimed_once(tmp_path: Path) -> None:
    claim = Claim(str(tmp_path / "s"))
    with pytest.raises(BlockingIOError):
        Claim(str(tmp_path / "s"))
    claim.close()


@pytest.mark.parametrize("kind", ["another's socket", "live socket", "file", "directory", "link", "dangling link"])
def test_what_no_server_of_ours_has_made_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    (tmp_path / "target").write_text("precious")
    live = None
    match kind:
        case "another's socket":
            bare(path).close()
        case "live socket":
            live = bare(path)
            live.listen()
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "target")
        case _:
            path.symlink_to(tmp_path / "nothing")
    before, was = names(tmp_path), os.lstat(path)
    with pytest.raises(FileExistsError, match=re.escape(str(path)) + " exists and is "):
        Claim(str(path))
    assert names(tmp_path) == before
    assert os.path.samestat(was, os.lstat(path))
    assert (tmp_path / "target").read_text() == "precious"
    if live is not None:
        live.close()


def test_a_stale_record_gives_no_right_to_a_new_socket(tmp_path: Path) -> None:
    """The record of a killed server names a socket that is not there any more; somebody else's has the name now."""
    path = tmp_path / "s"
    first = Claim(str(path))
    first.bind().close()
    crash(first)
    path.unlink()
    bare(path).close()
    with pytest.raises(FileExistsError, match="a socket that no daemon has left here"):
        Claim(str(path))
    assert stat.S_ISSOCK(path.lstat().st_mode)


@pytest.mark.parametrize("content", ["", "hello", "x86-dm-socket - 1 2", "x86-dm-socket - a b c", "x" * 5000])
def test_a_file_that_is_no_record_stays(tmp_path: Path, content: str) -> None:
    record = tmp_path / "s.x86-dm"
    record.write_text(content)
    with pytest.raises(FileExistsError, match="is no record of a daemon's"):
        Claim(str(tmp_path / "s"))
    assert record.read_text() == content


def test_a_record_is_not_looked_for_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "s.x86-dm").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        Claim(str(tmp_path / "s"))
    assert (tmp_path / "target").read_text() == "precious"


def test_names_that_others_have_taken_meanwhile_stay(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Claim(str(path))
    first.bind().close()
    for entry in tmp_path.iterdir():  # somebody tidies up under the first
        entry.unlink()
    second = Claim(str(path))
    second.bind().close()
    assert not first.held
    first.close()
    assert second.held
    assert names(tmp_path) == ["s", "s.x86-dm"]
    second.close()


def test_the_error_of_a_replacement_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the new socket has its name already, and nothing is left to remove."""
    path, aside = tmp_path / "s", tmp_path / "aside"
    claim, rename = Claim(str(path)), os.rename

    def interrupted(old: str, new: str) -> None:
        rename(old, new)
        raise KeyboardInterrupt

    with claim.bind():
        monkeypatch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            claim.replace(str(aside), backlog=1)
    assert names(tmp_path) == ["s", "s.x86-dm"]
    claim.close()
    assert names(tmp_path) == []


def test_remove_compares_inodes_and_kinds(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    remove(str(path), Inode.of(str(path)))  # ours or not: it is no socket
    assert path.exists()
    remove(str(tmp_path / "nothing"), Inode(1, 2, 3))
