"""Messages ``hello`` and ``welcome``: versions, features, limits, taking a session up again."""

import pytest
from harness import Peer

from dm.protocol import schema
from dm.protocol.schema import ErrorClass, Hello, Ok, Welcome


def open_session(live_daemon, **fields):
    with Peer(live_daemon.endpoint) as peer:
        welcome = peer.hello(**fields)
        if isinstance(welcome, Welcome):
            assert isinstance(peer.ask(schema.Bye(seq=2, session=welcome.session)), Ok)
        return welcome


@pytest.mark.parametrize(
    ("low", "high", "version"), [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 3, 3), (1, 99, schema.VERSION), (0, 1, 1)]
)
def test_the_newest_version_of_both_is_used(live_daemon, low, high, version):
    assert open_session(live_daemon, min_version=low, max_version=high).version == version


@pytest.mark.parametrize(("low", "high"), [(schema.VERSION + 1, 99), (0, 0), (2, 1)])
def test_no_common_version_is_refused(live_daemon, low, high):
    error = open_session(live_daemon, min_version=low, max_version=high)
    assert (error.error, error.field) == (ErrorClass.VERSION, "max_version")
    assert error.expected == f"a range that meets {schema.OLDEST} to {schema.VERSION}"


def test_features_are_narrowed_to_those_of_both(live_daemon):
    welcome = open_session(live_daemon, max_version=2, features=["teleport", "ram-fd", "state-ports"])
    assert welcome.features == ["ram-fd", "state-ports"]


def test_a_feature_of_a_later_version_is_not_given_to_an_older_shim(live_daemon):
    welcome = open_session(live_daemon, max_version=1, features=list(schema.FEATURES))
    assert welcome.features == ["ram-fd", "coalesced", "acknowledge", "checkpoint", "explain"]  # and no memory path


def test_limits_are_those_of_the_schema(live_daemon):
    welcome = open_session(live_daemon)
    assert (welcome.max_message, welcome.max_control) == (schema.MAX_MESSAGE, schema.MAX_CONTROL)
    assert (welcome.max_data, welcome.max_regions) == (schema.MAX_DATA, schema.MAX_REGIONS)
    assert welcome.max_vcpus == schema.MAX_VCPUS
    assert welcome.timeout_ms > 0
    assert welcome.engine in ("native", "python")


def test_a_second_hello_on_one_socket_is_refused(live_daemon):
    with Peer(live_daemon.endpoint) as peer:
        welcome = peer.hello()
        assert peer.hello(seq=2).error is ErrorClass.BUSY
        peer.ask(schema.Bye(seq=3, session=welcome.session))


def test_a_session_is_taken_up_by_a_new_socket(live_daemon):
    with Peer(live_daemon.endpoint) as first, Peer(live_daemon.endpoint) as second:
        welcome = first.hello(max_version=3)
        session, mine = welcome.session, {"resume": welcome.session, "secret": welcome.secret}
        assert second.hello(**mine, epoch=1).error is ErrorClass.STALE_EPOCH
        assert second.hello(**mine, epoch=2).session == session
        assert first.ask(schema.Ping(seq=2, session=session)).error is ErrorClass.STALE_EPOCH
        assert isinstance(second.ask(schema.Bye(seq=2, session=session)), Ok)
        assert second.hello(seq=3, **mine, epoch=3).error is ErrorClass.UNKNOWN_SESSION


def test_what_a_hello_lacks_is_said(live_daemon):
    with Peer(live_daemon.endpoint) as peer:
        error = peer.ask(b"\x82\xa4type\xa5hello\xa3seq\x07")
        assert (error.error, error.field, error.seq) == (ErrorClass.BAD_MESSAGE, "min_version", 7)
        assert Hello.NAME in error.text
