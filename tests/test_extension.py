"""Extension modules: what they were made from, and whether they can be used."""

from __future__ import annotations

import pytest

from dm import extension


def test_a_digest_changes_with_names_and_contents(tmp_path) -> None:
    a, b = tmp_path / "a.c", tmp_path / "sub" / "b.c"
    b.parent.mkdir()
    a.write_text("one")
    b.write_text("two")
    first = extension.digest(tmp_path, [a, b])
    assert first == extension.digest(tmp_path, [b, a])
    b.write_text("2")
    second = extension.digest(tmp_path, [a, b])
    c = b.rename(tmp_path / "sub" / "c.c")
    assert len({first, second, extension.digest(tmp_path, [a, c]), extension.digest(tmp_path, [a])}) == 4
    with pytest.raises(ValueError, match=r"a\.c"):
        extension.digest(b.parent, [a])


def test_what_can_be_used_and_what_not() -> None:
    def missing() -> str:
        raise ImportError("no module")

    def status(made_from, wanted):
        return extension.status("the engine", made_from, wanted, "make it")

    assert status(lambda: "x", lambda: "x") == (True, "built from these sources")
    assert status(lambda: "x", lambda: "y") == (
        False,
        "the engine was built from other sources; to rebuild it: make it",
    )
    assert status(missing, lambda: "x") == (False, "the engine is not built (no module); to build it: make it")


def test_the_compiler_is_a_command_with_words(monkeypatch) -> None:
    monkeypatch.setenv("CC", "ccache 'my gcc' -m64")
    assert extension.compiler() == ["ccache", "my gcc", "-m64"]
    monkeypatch.delenv("CC")
    assert extension.compiler() == ["cc"]


def test_a_module_is_replaced_not_rewritten(tmp_path) -> None:
    fresh, module = tmp_path / "fresh.so", tmp_path / "module.so"
    fresh.write_text("new")
    module.write_text("old")
    with module.open() as running:
        extension.put(fresh, module)
        assert running.read() == "old"
    assert module.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.so", "module.so"]
