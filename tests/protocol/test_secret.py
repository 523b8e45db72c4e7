"""Sessions are held by a secret: another process of the same user, which sees all numbers, gets none of them."""

import socket

import pytest
from harness import Peer, groups
from live import Vm, real_mode

from dm.protocol import codec, schema
from dm.protocol.schema import Done, Emulate, Error, ErrorClass, Io, Kick, Ok
from dm.shim.ram import Ram

WRONG = [b"", b"\0" * 32, b"x" * 64]


def old(endpoint, version, **fields):
    peer = Peer(endpoint)
    return peer, peer.hello(max_version=version, features=list(schema.FEATURES), **fields)


def test_each_session_has_its_own(live_daemon):
    secrets = set()
    for _ in range(2):
        with Peer(live_daemon.endpoint) as peer:
            welcome = peer.hello(max_version=3)
            secrets.add(welcome.secret)
            peer.ask(schema.Bye(seq=2, session=welcome.session))
    assert {len(secret) for secret in secrets} == {32}
    assert len(secrets) == 2


@pytest.mark.parametrize("secret", WRONG)
def test_nobody_takes_up_anothers_session(vm, live_daemon, secret):
    with Peer(live_daemon.endpoint) as thief:
        for version in (3, 2, 1):
            error = thief.hello(max_version=version, resume=vm.session, epoch=99, secret=secret)
            assert (error.error, error.field) == (ErrorClass.UNKNOWN_SESSION, "resume")
    assert isinstance(vm.request(schema.Ping), Ok)


@pytest.mark.parametrize("secret", WRONG)
def test_nobody_takes_anothers_vcpu(vm, secret):
    vm.load("e460 f4")  # in al, 60h; hlt
    question = vm.emulate()
    assert isinstance(question, Io)
    ids = {"session": vm.session, "vcpu": 0}
    with Peer(vm.endpoint) as thief:
        for epoch in (2, 0xFFFFFFFF):
            run = Emulate(**ids, epoch=epoch, seq=9, generation=1, state=groups(real_mode()), secret=secret)
            error = thief.ask(run)
            assert (error.error, error.field) == (ErrorClass.STALE_EPOCH, "secret")
            assert vm.welcome.secret not in codec.encode(error)
        for message in (
            Kick(**ids, epoch=1, seq=1),
            schema.IoAnswer(**ids, epoch=1, seq=1, io=1, data=b"x"),
            Emulate(**ids, epoch=1, seq=1, generation=1, state={}, secret=secret),
        ):
            assert thief.ask(message).error is ErrorClass.STALE_EPOCH
        done = vm.answer(question, data=b"\x42")
        assert isinstance(done, Done)
        assert done.state["general"][0] & 0xFF == 0x42
        assert thief.silent()


@pytest.mark.parametrize("secret", WRONG)
def test_nobody_begins_with_anothers_vcpu(vm, secret):
    vm.load("f4")
    with Peer(vm.endpoint) as thief:
        run = Emulate(
            session=vm.session, vcpu=0, epoch=1, seq=1, generation=1, state=groups(real_mode()), secret=secret
        )
        assert thief.ask(run).error is ErrorClass.STALE_EPOCH
    assert isinstance(vm.emulate(), Done)


@pytest.mark.parametrize("secret", WRONG)
def test_nobody_gives_anothers_session_ram(vm, secret):
    with Ram(4096) as ram, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as side:
        side.settimeout(100)
        side.connect(vm.welcome.ram_socket)
        message = schema.Ram(seq=1, session=vm.session, ram=9, size=4096, secret=secret)
        socket.send_fds(side, [codec.encode(message)], [ram.fd])
        answer = codec.decode(side.recv(65536))
    assert isinstance(answer, Error)
    assert answer.error is ErrorClass.UNKNOWN_SESSION
    assert isinstance(vm.request(schema.RamRemove, ram=9), Error)  # there is none


def test_a_socket_that_has_shown_it_need_not_again(vm):
    vm.load("f4")
    assert isinstance(vm.emulate(), Done)
    assert isinstance(vm.emulate(secret=b""), Done)
    assert isinstance(vm.emulate(secret=b"wrong"), Done)  # nobody looks: the connection is the proof
    vm.epoch = 2
    with Peer(vm.endpoint) as new:
        vm.vcpu, before = new, vm.vcpu
        assert vm.emulate(secret=b"").error is ErrorClass.STALE_EPOCH
        assert isinstance(vm.emulate(secret=vm.welcome.secret), Done)
        vm.vcpu = before
        assert vm.emulate(secret=vm.welcome.secret, epoch=1).error is ErrorClass.STALE_EPOCH


@pytest.mark.parametrize("version", [1, 2])
def test_a_session_without_one_stays_with_its_sockets(live_daemon, version):
    peer, welcome = old(live_daemon.endpoint, version)
    with peer, Ram(1 << 16) as ram:
        assert welcome.secret == b""
        ram.view[0x7C00] = 0xF4
        holder = type("Holder", (), {"welcome": welcome, "session": welcome.session})()
        Vm.share(holder, 1, ram)
        new_map = schema.Map(1, [schema.Region(0, 1 << 16, schema.Kind.RAM, 1)], True)
        assert isinstance(peer.ask(schema.MemoryMap(seq=2, session=welcome.session, map=new_map)), Ok)
        ready = peer.ask(schema.VcpuCreate(seq=3, session=welcome.session, vcpu=0))
        run = {"session": welcome.session, "vcpu": 0, "generation": 1, "state": groups(real_mode())}
        with Peer(ready.endpoint) as cpu, Peer(ready.endpoint) as thief:
            assert isinstance(cpu.ask(Emulate(**run, epoch=1, seq=1)), Done)
            assert thief.ask(Emulate(**run, epoch=2, seq=2)).error is ErrorClass.STALE_EPOCH
            assert isinstance(cpu.ask(Emulate(**run, epoch=2, seq=2)), Done)
        with Peer(live_daemon.endpoint) as thief:
            error = thief.hello(max_version=3, resume=welcome.session, epoch=9)
            assert error.error is ErrorClass.UNKNOWN_SESSION
        peer.ask(schema.Bye(seq=4, session=welcome.session))
