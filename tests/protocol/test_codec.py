"""The codec against the schema: round trips, strictness, and that no bytes do more than raise ProtocolError."""

import gc
import sys

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm.machine.state import GROUPS, State, get_group
from dm.protocol import codec, examples, schema
from dm.protocol.codec import ProtocolError, decode, encode
from dm.protocol.schema import ErrorClass


def values(kind):
    match kind:
        case schema.U(bits):
            return st.integers(0, (1 << bits) - 1)
        case schema.Flag():
            return st.booleans()
        case schema.Text(limit):
            return st.text(max_size=min(limit // 4, 20))
        case schema.Blob(limit):
            return st.binary(max_size=min(limit, 40))
        case schema.Choice(enum):
            return st.sampled_from(list(enum))
        case schema.Record(cls):
            return objects(cls)
        case schema.ListOf(of, limit):
            return st.lists(values(of), max_size=min(limit, 4))
        case schema.StateGroups():
            word = st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=16))
            return st.dictionaries(st.text(max_size=8), st.lists(word, max_size=6), max_size=3)


def objects(cls):
    parts = {}
    for row in schema.rows(cls):
        some = values(row.kind)
        parts[row.name] = st.one_of(st.just(None), some) if row.optional and row.default is None else some
    return st.builds(cls, **parts)


@given(st.sampled_from(schema.MESSAGES).flatmap(objects))
def test_any_message_survives_the_round_trip(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_understood(data):
    try:
        message = decode(data)
    except ProtocolError as error:
        assert error.text
    else:
        assert encode(message)


@given(st.sampled_from(examples.GOOD), st.data())
def test_damaged_messages_are_refused_or_understood(example, data):
    packed = bytearray(encode(example[1]))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)))
    for damaged in (bytes(packed), bytes(packed[:cut])):
        try:
            decode(damaged)
        except ProtocolError as error:
            assert len(codec.encode(error.message())) < 2048


def packed(message, **changes):
    raw = msgpack.unpackb(encode(message))
    raw.update(changes)
    return msgpack.packb({key: value for key, value in raw.items() if value is not ...})


PING = schema.Ping(seq=7, session=77)
EMULATE = schema.Emulate(session=77, vcpu=3, epoch=2, seq=9, generation=1, state={})


def test_unknown_fields_are_ignored():
    assert decode(packed(PING, colour="blue", later=[1, {"x": None}])) == PING


def test_values_behind_the_end_of_a_record_are_ignored():
    message = schema.VcpuCreate(seq=1, session=1, vcpu=0, cpuid=[schema.Cpuid(1, 0, 2, 3, 4, 5)])
    assert decode(packed(message, cpuid=[[1, 0, 2, 3, 4, 5, "more", None]])) == message


def test_optional_values_at_the_end_of_a_record_may_be_missing():
    message = schema.MemoryMap(seq=1, session=1, map=schema.Map(1, [schema.Region(0, 4096, schema.Kind.MMIO)], True))
    assert decode(packed(message, map=[1, [[0, 4096, "mmio"]], True])) == message


def test_what_could_be_read_of_a_refused_message_is_kept():
    with pytest.raises(ProtocolError) as caught:
        decode(packed(EMULATE, until="elsewhere"))
    error = caught.value
    assert error.field == "until"
    assert "vmx" in error.expected
    assert error.partial == {"seq": 9, "session": 77, "vcpu": 3, "epoch": 2}
    assert error.message(epoch=5) == schema.Error(
        error=ErrorClass.BAD_MESSAGE,
        text="until is 'elsewhere'",
        expected=error.expected,
        field="until",
        seq=9,
        session=77,
        vcpu=3,
        epoch=5,
    )


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"state": [1]}, "state", "state is list of 1"),
        ({"state": {"general": 5}}, "state.general", "state.general is 5"),
        ({"state": {"general": [0, -1]}}, "state.general[1]", "is -1"),
        ({"state": {"general": [0, 1.5]}}, "state.general[1]", "is 1.5"),
        ({"state": {"general": [True]}}, "state.general[0]", "is True"),
        ({"state": {"general": [0] * 257}}, "state.general", "list of 257"),
        ({"state": {str(n): [] for n in range(33)}}, "state", "dict of 33"),
        ({"state": {"fpu": [bytes(8193)]}}, "state.fpu[0]", "bytes of 8193"),
        ({"inject": [1]}, "inject", "list of 1"),
        ({"inject": [3, 256]}, "inject.vector", "is 256"),
        ({"code": bytes(16)}, "code", "bytes of 16"),
        ({"code": "text"}, "code", "is 'text'"),
        ({"window": 1}, "window", "is 1"),
        ({"seq": ...}, "seq", "emulate.seq is missing"),
        ({"reason": 5}, "reason", "is 5"),
    ],
)
def test_a_refusal_names_field_and_value(changes, field, text):
    with pytest.raises(ProtocolError) as caught:
        decode(packed(EMULATE, **changes))
    assert caught.value.field == field
    assert text in caught.value.text
    assert caught.value.expected
    assert caught.value.error is ErrorClass.BAD_MESSAGE


@pytest.mark.parametrize(("what", "data", "error", "field", "text"), examples.BAD, ids=[bad[0] for bad in examples.BAD])
def test_wrong_messages(what, data, error, field, text):
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(data))
    assert (caught.value.error, caught.value.field) == (error, field)
    assert text in caught.value.text


def test_a_message_above_the_limit_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError) as caught:
        decode(bytes(101), limit=100)
    assert caught.value.error is ErrorClass.TOO_LARGE
    assert "at most 100" in str(caught.value)


def test_encoding_is_as_strict_as_decoding():
    for bad in (-1, 1 << 64, True, 1.0, "1", None):
        with pytest.raises(ProtocolError, match="seq"):
            encode(schema.Ping(seq=bad, session=1))
    with pytest.raises(ProtocolError, match=r"map\.regions\[0\]"):
        encode(schema.MemoryMap(seq=1, session=1, map=schema.Map(1, [(0, 4096)], True)))
    with pytest.raises(ProtocolError) as caught:
        encode(schema.Hello(seq=1, min_version=1, max_version=1, name="x" * 65))
    assert caught.value.field == "name"


def test_text_limits_count_bytes():
    assert encode(schema.Hello(seq=1, min_version=1, max_version=1, name="é" * 32))
    with pytest.raises(ProtocolError):
        encode(schema.Hello(seq=1, min_version=1, max_version=1, name="é" * 33))


def test_deep_nesting_is_refused():
    for deep in (b"\x81\xa1a" + b"\x91" * 100_000, b"\x91" * 100_000 + b"\x00", b"\x81\xa1a" * 50_000):
        with pytest.raises(ProtocolError):
            decode(deep)


def test_lengths_that_promise_more_than_is_there_are_refused():
    for lie in ("ddffffffff", "dfffffffff", "c6ffffffff", "dbffffffff"):
        with pytest.raises(ProtocolError):
            decode(bytes.fromhex(lie))


def test_error_texts_are_clipped():
    error = ProtocolError(ErrorClass.INTERNAL, "é" * 1000, "y" * 1000, "z" * 1000)
    message = error.message(session=1)
    assert (len(message.text.encode()), len(message.expected), len(message.field)) == (512, 512, 128)
    assert decode(encode(message)) == message


def test_the_largest_legal_reports_fit_into_a_message():
    big = (1 << 64) - 1
    io = schema.Io(
        session=(1 << 32) - 1,
        vcpu=(1 << 16) - 1,
        epoch=(1 << 32) - 1,
        seq=big,
        io=(1 << 32) - 1,
        kind=schema.IoKind.MMIO_WRITE,
        address=big,
        size=8,
        count=schema.MAX_DATA // 8,
        data=bytes(schema.MAX_DATA),
        posted=[schema.Posted(big, bytes(schema.MAX_DATA // schema.MAX_POSTED), 8)] * schema.MAX_POSTED,
        pages=[big] * schema.MAX_PAGES,
        checkpoint={group: get_group(State.reset(), group) for group in GROUPS},
    )
    assert len(encode(io)) <= schema.MAX_MESSAGE


def test_encoding_refuses_what_is_too_large():
    posted = [schema.Posted(0, bytes(4096), 4)] * 300
    with pytest.raises(ProtocolError, match="at most 1048576"):
        encode(schema.Io(session=1, vcpu=1, epoch=1, seq=1, io=1, kind=schema.IoKind.REPORT, posted=posted))


def _map(*entries):
    """A MessagePack map of these (key, value) pairs, repeated or not."""
    body = b"".join((key if isinstance(key, bytes) else msgpack.packb(key)) + value for key, value in entries)
    head = bytes([0x80 | len(entries)]) if len(entries) < 16 else b"\xde" + len(entries).to_bytes(2, "big")
    return head + body


def _emulate(*more, state=b"\x80", key: str | bytes = "state"):
    known = {"type": "emulate", "session": 1, "vcpu": 0, "epoch": 1, "seq": 7, "generation": 1}
    return _map(*[(k, msgpack.packb(v)) for k, v in known.items()], *more, (key, state))


_GENERAL = ("general", msgpack.packb([0] * 10))


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (_emulate(("seq", b"\x07")), ""),
        (_emulate(("unknown", b"\x01"), ("unknown", b"\x02")), ""),
        (_emulate(*[(f"x{n}", b"\x01") for n in range(20)], ("x3", b"\x01")), ""),
        (_emulate(("state", b"\x80")), ""),
        (_emulate(state=_map(_GENERAL, _GENERAL)), "state"),
        (_emulate(state=_map(*[_GENERAL] * 20)), "state"),
        (_emulate(state=_map(("new", b"\x90"), _GENERAL, ("new", b"\x90"))), "state"),
        (_emulate(key=b"\xd9\x05state", state=_map(_GENERAL, _GENERAL)), "state"),
    ],
)
def test_repeated_keys_are_refused(data, field):
    with pytest.raises(ProtocolError) as caught:
        decode(data)
    assert (caught.value.error, caught.value.field) == (ErrorClass.BAD_MESSAGE, field)
    assert caught.value.text.endswith("is a map with a repeated key")
    assert "once" in caught.value.expected
    assert caught.value.partial == {"seq": 7, "session": 1, "vcpu": 0, "epoch": 1}


def test_what_an_unknown_field_holds_does_not_matter():
    assert decode(_emulate(("unknown", _map(_GENERAL, _GENERAL)))).seq == 7


needs_fast = pytest.mark.skipif(codec.FAST is None, reason="dm.fast is not built (python -m dm.fast.build)")


@needs_fast
@pytest.mark.parametrize("message", [example[1] for example in examples.GOOD], ids=lambda message: message.NAME)
def test_the_codec_in_c_knows_every_message(message):
    packed = codec.FAST.pack(message)
    assert packed == codec.encode_in_python(message)
    assert codec.FAST.unpack(packed) == codec.decode_in_python(packed) == message


@needs_fast
@given(st.sampled_from(schema.MESSAGES).flatmap(objects))
def test_both_codecs_write_the_same(message):
    assert codec.FAST.pack(message) == codec.encode_in_python(message)


@needs_fast
@given(st.sampled_from(schema.MESSAGES).flatmap(objects), st.data())
def test_what_the_codec_in_c_writes_the_other_would_write(message, data):
    """A field of the wrong type or size is refused, or written by both in the same way."""
    row = data.draw(st.sampled_from(schema.rows(type(message))))
    odd = st.sampled_from(
        [None, True, False, 0, 1, -1, 1 << 64, 0.0, "", "none", b"", [], [0], [True], {}, {"a": [-1]}]
    )
    setattr(message, row.name, data.draw(st.one_of(odd, values(row.kind))))
    packed = codec.FAST.pack(message)
    if packed is not None:
        assert packed == codec.encode_in_python(message)


@needs_fast
@given(st.sampled_from(examples.GOOD), st.data())
def test_what_the_codec_in_c_reads_the_other_reads_alike(example, data):
    packed = bytearray(codec.encode_in_python(example[1]))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(packed) - 1))
        match data.draw(st.sampled_from(["change", "drop", "repeat"])):
            case "change":
                packed[at] = data.draw(st.integers(0, 255))
            case "drop":
                del packed[at : at + data.draw(st.integers(1, 4))]
            case "repeat":
                packed[at:at] = packed[at : at + data.draw(st.integers(1, 16))]
        if not packed:
            break
    message = codec.FAST.unpack(bytes(packed))
    if message is not None:
        assert message == codec.decode_in_python(bytes(packed))
        assert [type(getattr(message, row.name)) for row in schema.rows(type(message))] == [
            type(getattr(codec.decode_in_python(bytes(packed)), row.name)) for row in schema.rows(type(message))
        ]


@needs_fast
def test_what_the_codec_in_c_makes_is_freed():
    message = schema.Done(
        session=1, vcpu=0, epoch=1, seq=1, reason=schema.DoneReason.HALT, state={"general": [1 << 40] * 10}
    )
    packed = encode(message)
    damaged = packed[:-1] + b"\xc1"

    def work():
        for _ in range(2000):
            codec.FAST.unpack(codec.FAST.pack(message))
            codec.FAST.unpack(damaged)
            codec.FAST.unpack(packed[:-1])

    work()
    gc.collect()
    before = sys.getallocatedblocks()
    work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100


@needs_fast
def test_what_is_too_large_is_not_unpacked():
    """A link in C unpacks what has come before anyone has asked for its size."""
    patches = [schema.Patch(1, n << 12, bytes(4096)) for n in range(257)]
    message = schema.Done(session=1, vcpu=0, epoch=1, seq=1, reason=schema.DoneReason.HALT, state={}, patches=patches)
    data = msgpack.packb(codec._DUMPERS[schema.Done](message))
    assert len(data) > schema.MAX_MESSAGE
    assert codec.FAST.unpack(data) is None
    with pytest.raises(ProtocolError) as refused:
        codec.decode(data)
    assert refused.value.error is ErrorClass.TOO_LARGE
    message.patches = patches[:250]
    small = msgpack.packb(codec._DUMPERS[schema.Done](message))
    assert codec.FAST.unpack(small) == message
