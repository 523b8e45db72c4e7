"""Key files, and the command that makes them."""

import json

import pytest

from dm import cli, keys


def test_keygen(tmp_path, capsys):
    assert cli.run(["keygen", str(tmp_path / "daemon")]) == 0
    public, secret = tmp_path / "daemon.key", tmp_path / "daemon.key_secret"
    assert (public.stat().st_mode & 0o777, secret.stat().st_mode & 0o777) == (0o644, 0o600)
    said = capsys.readouterr().out
    assert f"{public}: public" in said
    assert f"{secret}: secret" in said
    pair = keys.load_keys(secret)
    assert pair.public == keys.load_public(public) == keys.load_public(secret)
    assert len(pair.secret) == 40
    assert pair.secret not in public.read_bytes()
    assert repr(pair.secret) not in repr(pair)


def test_no_key_is_overwritten(tmp_path, capsys):
    assert cli.run(["keygen", str(tmp_path / "a")]) == 0
    before = (tmp_path / "a.key_secret").read_bytes()
    assert cli.run(["keygen", str(tmp_path / "a")]) == 1
    assert "a key is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "a.key_secret").read_bytes() == before


def test_a_directory_that_is_not_there(tmp_path, capsys):
    assert cli.run(["keygen", str(tmp_path / "no" / "a")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_clients(tmp_path):
    one, two = (keys.load_public(keys.make_keys(tmp_path / name)[0]) for name in ("one", "two"))
    assert keys.load_clients(tmp_path) == {one, two}
    with pytest.raises(ValueError, match="a directory with the clients' public keys"):
        keys.load_clients(tmp_path / "one.key")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode):
    _, secret = keys.make_keys(tmp_path / "a")
    secret.chmod(mode)
    with pytest.raises(ValueError, match="chmod 600 is needed"):
        keys.load_keys(secret)


def test_halves_that_do_not_belong_together(tmp_path):
    _, secret = keys.make_keys(tmp_path / "a")
    other = keys.load_public(keys.make_keys(tmp_path / "b")[0])
    secret.write_bytes(secret.read_bytes().replace(keys.load_public(secret), other))
    with pytest.raises(ValueError, match="does not belong to its secret key"):
        keys.load_keys(secret)


@pytest.mark.parametrize("text", ["", "hello", "public-key\n", 'public-key = "' + "\u20ac" * 40 + '"'])
def test_not_a_key_file(tmp_path, text):
    path = tmp_path / "x.key"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a key file"):
        keys.load_public(path)


def test_keygen_for_programs(tmp_path, capsys):
    assert cli.run(["keygen", "--json", str(tmp_path / "vm")]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "public": str(tmp_path / "vm.key"),
        "secret": str(tmp_path / "vm.key_secret"),
    }
