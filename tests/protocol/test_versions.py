"""Versions work together: what older ones wrote (``golden/v1``, ``golden/v2``) against this one, both ways round."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import msgpack
import pytest
import session_v1
import zmq
from harness import Peer
from live import Vm

from dm.protocol import codec, generate, schema
from dm.shim import Shim, ShimError
from dm.shim.ram import Ram

OLD = {
    version: json.loads((generate.GOLDEN.parent / f"v{version}" / "messages.json").read_text(encoding="utf-8"))
    for version in (1, 2)
}
GOLDEN = OLD[1]
SESSION = json.loads((generate.GOLDEN.parent / "v1" / "session.json").read_text(encoding="utf-8"))
#: The fields that version 1 knew, by message; its golden messages spell out all of them.
FIELDS = {one["type"]: {"type", *one["fields"]} for one in GOLDEN["good"]}


def messages(sender, at):
    """The recorded messages of one side and endpoint, as maps."""
    chosen = [one for one in SESSION["messages"] if (one["from"], one["at"]) == (sender, at)]
    return [msgpack.unpackb(bytes.fromhex(one["hex"])) for one in chosen]


def plain(value):
    return json.loads(json.dumps(value, default=lambda data: {"hex": data.hex()}))


def test_there_are_the_messages_of_every_older_version():
    assert [old["version"] for old in OLD.values()] == list(range(schema.OLDEST, schema.VERSION))
    assert SESSION["version"] == 1


def old_messages(kind):
    return [
        pytest.param(version, one, id=f"{version}: {one['what']}") for version, old in OLD.items() for one in old[kind]
    ]


@pytest.mark.parametrize(("version", "one"), old_messages("good"))
def test_a_message_of_an_older_version_means_the_same(version, one):
    message = codec.decode(bytes.fromhex(one["hex"]))
    now = generate._plain(message)
    assert {name: now[name] for name in one["fields"]} == one["fields"]
    added = {row.name: row for row in schema.rows(type(message)) if row.name not in one["fields"]}
    for name, row in added.items():
        assert row.since > version
        assert row.optional
        assert getattr(message, name) == row.default
    # and with nothing new to say this version writes the very bytes of the old one
    assert codec.encode(message).hex() == one["hex"]


@pytest.mark.parametrize(("version", "one"), old_messages("bad"))
def test_a_mistake_of_an_older_version_is_refused_likewise(version, one):
    with pytest.raises(codec.ProtocolError) as caught:
        codec.decode(bytes.fromhex(one["hex"]))
    assert (str(caught.value.error), caught.value.field) == (one["error"], one["field"])


def test_nothing_has_been_taken_away():
    for name, fields in FIELDS.items():
        assert fields - {"type"} <= {row.name for row in schema.rows(schema.BY_NAME[name])}


@pytest.mark.parametrize("cls", schema.MESSAGES, ids=lambda cls: cls.NAME)
def test_fields_of_the_next_version_are_ignored(cls):
    """As this version ignores what a later one may add, an older one ignores what this one has added."""
    from dm.protocol import examples

    for _, example in examples.GOOD:
        if type(example) is cls:
            raw = msgpack.unpackb(codec.encode(example))
            raw["added_later"] = {"a": [1, b"2", None]}
            assert codec.decode(msgpack.packb(raw)) == example


class Replay:
    """Sends recorded messages, with the session of today, and compares the answers with the recorded ones."""

    def __init__(self, session):
        self.session = session

    def patch(self, raw):
        return {**raw, **({"session": self.session} if "session" in raw else {})}

    def ask(self, peer, raw, answers):
        peer.send(msgpack.packb(self.patch(raw)))
        peer.socket.poll(10000)
        got = msgpack.unpackb(peer.socket.recv(zmq.NOBLOCK))
        wanted = self.patch(answers.pop(0))
        for name in ("endpoint", "daemon", "engine", "engine_note", "ram_socket"):
            got.pop(name, None), wanted.pop(name, None)
        if got["type"] == "counters":  # bytes depend on the length of the session's number
            got["vcpus"][0][5:7] = wanted["vcpus"][0][5:7]
        assert got == wanted
        assert set(got) <= FIELDS[got["type"]]


def test_a_shim_of_version_1_is_served_as_by_version_1(live_daemon):
    """The recorded session, message by message: every answer is what the daemon of version 1 answered."""
    control, vcpu = messages("shim", "control"), messages("shim", "vcpu")
    answers, done = messages("daemon", "control"), messages("daemon", "vcpu")
    with Peer(live_daemon.endpoint) as peer, Ram(session_v1.SIZE) as ram:
        ram.view[0x7C00 : 0x7C00 + len(session_v1.CODE)] = session_v1.CODE
        ram.view[0x84:0x88] = (0x5000).to_bytes(4, "little")
        ram.view[0x5000 : 0x5000 + len(session_v1.HANDLER)] = session_v1.HANDLER
        welcome = peer.ask(msgpack.packb(control.pop(0)))
        assert (welcome.version, welcome.features) == (1, answers.pop(0)["features"])
        replay = Replay(welcome.session)
        share = Vm.share
        holder = type("Holder", (), {"welcome": welcome, "session": welcome.session})()
        share(holder, 1, ram)
        replay.ask(peer, control.pop(0), answers)  # memory-map
        ready = peer.ask(msgpack.packb(replay.patch(control.pop(0))))
        answers.pop(0)
        with Peer(ready.endpoint) as cpu:
            for raw in vcpu:
                replay.ask(cpu, raw, done)
            assert done == []
            while control:
                replay.ask(peer, control.pop(0), answers)
    assert answers == []


class OldDaemon:
    """A daemon of version 1: answers with what was recorded, and reads what it is sent as version 1 would."""

    def __init__(self, directory):
        self.endpoint = f"ipc://{directory}/control"
        self.path, self.cpu_endpoint = f"{directory}/ram", f"ipc://{directory}/vcpu"
        self.unknown = set()
        self.heard = []
        self._context = zmq.Context()
        self._stop = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._bound.wait()

    def _serve(self):
        control, cpu = self._context.socket(zmq.ROUTER), self._context.socket(zmq.ROUTER)
        control.bind(self.endpoint)
        cpu.bind(self.cpu_endpoint)
        side = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        side.bind(self.path)
        side.listen()
        side.settimeout(0.01)
        self._bound.set()
        left = {control: messages("daemon", "control"), cpu: messages("daemon", "vcpu")}
        poller = zmq.Poller()
        poller.register(control, zmq.POLLIN)
        poller.register(cpu, zmq.POLLIN)
        while not self._stop.is_set():
            for link, _ in poller.poll(10):
                identity, data = link.recv_multipart()
                raw = msgpack.unpackb(data)
                self.heard.append(raw)
                if raw["type"] not in FIELDS:
                    self.unknown.add(raw["type"])
                    answer = {"type": "error", "error": "unknown-message", "text": "unknown", "seq": raw["seq"]}
                else:
                    self.unknown |= set(raw) - FIELDS[raw["type"]]
                    if raw["type"] == "ping":
                        answer = {"type": "ok", "seq": raw["seq"], "session": raw["session"]}
                    else:
                        answer = left[link].pop(0)
                if "seq" in answer and link is control:
                    answer["seq"] = raw["seq"]
                if answer["type"] == "welcome":
                    answer["ram_socket"] = self.path
                if answer["type"] == "vcpu-ready":
                    answer["endpoint"] = self.cpu_endpoint
                link.send_multipart([identity, msgpack.packb(answer)])
            try:
                one, _ = side.accept()
            except TimeoutError:
                continue
            with one:
                data, fds, _, _ = socket.recv_fds(one, 65536, 1)
                for fd in fds:
                    socket.close(fd)
                raw = msgpack.unpackb(data)
                one.send(msgpack.packb({"type": "ok", "seq": raw["seq"], "session": raw["session"]}))
        control.close(0)
        cpu.close(0)
        side.close()
        self._context.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def test_a_daemon_of_version_1_serves_this_client(tmp_path):
    with OldDaemon(tmp_path) as daemon:
        seen = session_v1.play(daemon.endpoint)
        assert plain(seen) == SESSION["seen"]
        assert daemon.unknown == set()  # no field and no message that version 1 does not know
        assert daemon.heard[0]["max_version"] == schema.VERSION


def test_this_client_does_not_ask_an_old_daemon_for_what_is_new(tmp_path):
    with OldDaemon(tmp_path) as daemon, Shim.connect(daemon.endpoint) as shim:
        assert shim.welcome.version == 1
        for ask in (lambda: shim.add_ram_by_messages(bytearray(4096)), lambda: shim.set_state_ports(0x5658)):
            with pytest.raises(ShimError, match="this daemon does not support"):
                ask()
        assert daemon.unknown <= {"features"}
        shim.close(bye=False)


def test_the_same_session_with_this_version_sees_the_same(live_daemon):
    assert plain(session_v1.play(live_daemon.endpoint)) == SESSION["seen"]


def test_the_text_says_which_version_it_is():
    text = Path(generate.README).read_text(encoding="utf-8")
    assert re.search(r"^# The x86-dm wire protocol, version (\d+)$", text, re.MULTILINE)[1] == str(schema.VERSION)
