"""Messages ``query`` and ``counters``, ``ping``, ``bye``, ``ok``, ``error``: the small ones of the control endpoint."""

import msgpack
import pytest
from harness import Peer

from dm.protocol import codec, schema
from dm.protocol.schema import ErrorClass, Ok


def test_counters_say_what_a_vcpu_has_done(vm):
    seen, done = vm.run("e680 40 f3aa f4", None)
    counters = vm.request(schema.Query)
    assert counters.generation == vm.generation
    (row,) = counters.vcpus
    assert (row.vcpu, row.requests, row.io, row.errors) == (0, 1, len(seen), 0)
    assert (row.instructions, row.steps) == (done.instructions, done.steps)
    assert row.bytes_in > 0
    assert row.bytes_out > 0


def test_ping_is_answered(vm):
    answer = vm.request(schema.Ping)
    assert answer == Ok(seq=vm.control_seq, session=vm.session)


def test_bye_ends_the_session(live_daemon):
    with Peer(live_daemon.endpoint) as peer:
        session = peer.hello().session
        assert peer.ask(schema.Bye(seq=2, session=session)) == Ok(seq=2, session=session)
        assert peer.ask(schema.Ping(seq=3, session=session)).error is ErrorClass.UNKNOWN_SESSION
        assert isinstance(peer.hello(seq=4), schema.Welcome)  # the socket is as good as new
        peer.close()


def test_a_session_of_another_socket_is_not_ours(vm, live_daemon):
    with Peer(live_daemon.endpoint) as peer:
        for message in (schema.Ping, schema.Bye, schema.Query, schema.StatePorts):
            assert peer.ask(message(seq=1, session=vm.session)).error is ErrorClass.STALE_EPOCH
    assert isinstance(vm.request(schema.Ping), Ok)


@pytest.mark.parametrize("message", [m for m in schema.MESSAGES if m.SENDER == "daemon" or m.ENDPOINT == "vcpu"])
def test_what_does_not_belong_on_the_control_endpoint_is_refused(vm, message):
    from dm.protocol import examples

    example = next(one for _, one in examples.GOOD if type(one) is message)
    error = vm.control.ask(example)
    assert error.error is ErrorClass.BAD_MESSAGE
    assert message.NAME in error.text


@pytest.mark.parametrize("message", [m for m in schema.MESSAGES if m.SENDER == "daemon" or m.ENDPOINT != "vcpu"])
def test_what_does_not_belong_on_a_vcpus_endpoint_is_refused(vm, message):
    from dm.protocol import examples

    example = next(one for _, one in examples.GOOD if type(one) is message)
    error = vm.vcpu.ask(example)
    assert error.error is ErrorClass.BAD_MESSAGE
    assert message.NAME in error.text


def test_an_error_says_what_where_and_what_would_be_right(vm):
    raw = msgpack.unpackb(codec.encode(schema.Ping(seq=5, session=vm.session)))
    raw["session"] = "seven"
    error = vm.control.ask(msgpack.packb(raw))
    assert (error.error, error.field, error.seq) == (ErrorClass.BAD_MESSAGE, "session", 5)
    assert error.text == "session is 'seven'"
    assert error.expected == "an integer from 0 to 0xffffffff"


def test_unknown_messages_are_named(vm):
    for peer in (vm.control, vm.vcpu):
        error = peer.ask(msgpack.packb({"type": "teleport", "seq": 9}))
        assert (error.error, error.field, error.seq) == (ErrorClass.UNKNOWN_MESSAGE, "type", 9)
        assert "teleport" in error.text
