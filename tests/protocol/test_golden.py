"""The golden messages are up to date, complete, and mean what they say; the text's tables are those of the schema."""

import json

import pytest

from dm.engine import api
from dm.protocol import codec, examples, generate, schema

GOLDEN = json.loads(generate.GOLDEN.read_text(encoding="utf-8"))


def test_generated_files_are_up_to_date():
    assert generate.outdated(write=False) == []


def test_every_message_has_a_golden_one():
    assert {one["type"] for one in GOLDEN["good"]} == set(schema.BY_NAME)


def meaning(value, kind):
    """Read a golden field back, without the generator."""
    if value is None:
        return None
    match kind:
        case schema.Blob():
            return bytes.fromhex(value["hex"])
        case schema.ListOf(of, _):
            return [meaning(one, of) for one in value]
        case schema.Record(cls):
            return cls(**{row.name: meaning(value[row.name], row.kind) for row in schema.rows(cls)})
        case schema.Choice(enum):
            return enum(value)
        case schema.StateGroups():
            return {k: [bytes.fromhex(v["hex"]) if isinstance(v, dict) else v for v in vs] for k, vs in value.items()}
    return value


@pytest.mark.parametrize("one", GOLDEN["good"], ids=lambda one: one["what"])
def test_golden_message(one):
    cls = schema.BY_NAME[one["type"]]
    wanted = cls(**{row.name: meaning(one["fields"][row.name], row.kind) for row in schema.rows(cls)})
    assert codec.decode(bytes.fromhex(one["hex"])) == wanted
    assert codec.encode(wanted).hex() == one["hex"]


@pytest.mark.parametrize("one", GOLDEN["bad"], ids=lambda one: one["what"])
def test_golden_mistake(one):
    with pytest.raises(codec.ProtocolError) as caught:
        codec.decode(bytes.fromhex(one["hex"]))
    assert (str(caught.value.error), caught.value.field) == (one["error"], one["field"])
    assert one["text"] in caught.value.text


def test_examples_use_every_optional_field():
    used = {
        (type(message), row.name)
        for _, message in examples.GOOD
        for row in schema.rows(type(message))
        if row.optional and getattr(message, row.name) != row.default
    }
    everything = {(cls, row.name) for cls in schema.MESSAGES for row in schema.rows(cls) if row.optional}
    assert {f"{cls.NAME}.{name}" for cls, name in everything - used} <= {
        "done.tlb_flush",
        "welcome.engine_note",
        "done.detail",
    }


def test_words_are_those_of_the_engine():
    assert schema.Until is api.Until
    reasons = {str(reason) for reason in api.ExitReason}
    questions = {str(reason) for reason in api.QUESTIONS}
    assert reasons - questions == {str(r) for r in schema.DoneReason} - {"stopped"}
    assert questions == {str(kind) for kind in schema.IoKind} - {"interrupt-ack", "report", "memory-read"}
    assert {kind.name for kind in schema.Kind} == {kind.name for kind in api.RegionKind} - {"HOLE"}


def test_rows_are_well_formed():
    for cls in (*schema.MESSAGES, *schema.RECORDS):
        rows = schema.rows(cls)
        assert all(row.doc and 1 <= row.since <= schema.VERSION for row in rows), cls
        if cls in schema.RECORDS:  # arrays: what is optional stands at the end
            assert [row.optional for row in rows] == sorted(row.optional for row in rows), cls


def test_check_says_what_is_out_of_date(monkeypatch, tmp_path, capsys):
    readme, golden = tmp_path / "README.md", tmp_path / "messages.json"
    readme.write_text("text\n<!-- generated from schema.py: do not edit below -->\nold\n")
    monkeypatch.setattr(generate, "README", readme)
    monkeypatch.setattr(generate, "GOLDEN", golden)
    assert generate.main(["--check"]) == 1
    assert "README.md: out of date" in capsys.readouterr().out
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert readme.read_text().startswith("text\n")
    assert json.loads(golden.read_text()) == GOLDEN
