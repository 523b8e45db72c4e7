"""tcp with CURVE: who has an admitted key is served, and who has none learns nothing."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest
import zmq
from harness import Peer, children, command, environment, eventually, flat, free_port, stop

from dm import keys
from dm.keys import Curve
from dm.protocol import schema
from dm.protocol.schema import DoneReason, ErrorClass, Kind, Region
from dm.shim.client import Shim
from dm.shim.control import ControlSocket
from dm.shim.errors import SessionLost, ShimError

IN60 = b"I\x60\x00\x01"


class Daemon:
    """A daemon on tcp, with keys for itself, two clients it knows and one it does not."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        (folder / "clients").mkdir()
        keys.make_keys(folder / "daemon")
        for name in ("one", "two"):
            public, _ = keys.make_keys(folder / name)
            (folder / "clients" / public.name).write_bytes(public.read_bytes())
        keys.make_keys(folder / "stranger")
        (folder / "memory").mkdir()
        self.log = folder / "log"
        self.process = subprocess.Popen(
            command(
                *("--listen", self.endpoint, "--engine", "fake_engine:create", "--log-file", str(self.log)),
                *("--curve-secret-key", str(folder / "daemon.key_secret"), "--curve-clients", str(folder / "clients")),
                *("--memory-path", str(folder / "memory")),
            ),
            env=environment(),
            stdin=subprocess.DEVNULL,
        )
        self.server = keys.load_public(folder / "daemon.key")

    def curve(self, name):
        return Curve(keys.load_keys(self.folder / f"{name}.key_secret"), self.server)

    def connect(self, name="one", **options):
        return Shim.connect(self.endpoint, name, curve=self.curve(name), **options)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("d"))
    assert served(running)  # before a test starts a second one at its endpoint
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0, running.log.read_text()
    assert {entry.name for entry in running.folder.iterdir() if entry.is_dir()} == {"clients", "memory"}


@contextlib.contextmanager
def with_file(daemon, shim, program, name="vm"):
    path = daemon.folder / "memory" / name
    path.write_bytes(program.ljust(65536, b"\0"))
    shim.set_map([Region(0, 65536, Kind.RAM, shim.add_ram_file(str(path), 65536))])
    yield shim.create_vcpu(0)
    path.unlink()


class TestService:
    def test_a_guest_runs(self, daemon):
        with daemon.connect() as shim, with_file(daemon, shim, IN60 + b"A\x34\x12h") as vcpu:
            assert shim.welcome.ram_socket == ""
            assert "ram-fd" not in shim.welcome.features
            assert vcpu.endpoint.startswith("tcp://127.0.0.1:")
            state = flat()
            asked = []
            done = vcpu.run(state, on_io=lambda io: asked.append(io.address) or b"\x55")
            assert (done.reason, asked, state.rax) == (DoneReason.HALT, [0x60], 0x1234)

    def test_descriptors_are_refused_in_words(self, daemon):
        from dm.shim.ram import Ram

        with daemon.connect() as shim, Ram(4096) as ram, pytest.raises(ShimError, match="accepts no descriptors"):
            shim.add_ram(ram)

    def test_it_can_be_taken_up_again(self, daemon):
        with daemon.connect() as shim, with_file(daemon, shim, b"hh") as vcpu:
            state = flat()
            vcpu.run(state)
            assert shim.reconnect()
            assert vcpu.run(state).reason is DoneReason.HALT
            assert state.rip == 2

    def test_one_client_cannot_have_another_ones_session(self, daemon):
        """Neither its control socket nor its vCPU, though both clients are admitted."""
        with daemon.connect("one") as shim, with_file(daemon, shim, b"h") as vcpu:
            with Secured(daemon, "two", daemon.endpoint) as thief:
                hello = schema.Hello(seq=1, min_version=1, max_version=1, resume=shim.session, epoch=9)
                assert thief.ask(hello).error is ErrorClass.UNKNOWN_SESSION
                assert thief.ask(schema.Ping(seq=1, session=shim.session)).error is ErrorClass.STALE_EPOCH
            with Secured(daemon, "two", vcpu.endpoint) as thief:
                thief.send(schema.Kick(session=shim.session, vcpu=0, epoch=1, seq=1))
                assert thief.silent(0.5)
            assert vcpu.run(flat()).reason is DoneReason.HALT


class Secured(Peer):
    """A bare peer with keys."""

    def __init__(self, daemon, name, endpoint, server=None):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        curve = daemon.curve(name)
        self.socket.curve_serverkey = server or curve.server
        self.socket.curve_publickey, self.socket.curve_secretkey = curve.own.public, curve.own.secret
        self.socket.connect(endpoint)


def served(daemon):
    with daemon.connect("two") as shim:
        return shim.welcome.version > 0


class TestStrangers:
    def test_an_unknown_key_is_refused_without_waiting_for_an_answer(self, daemon):
        with pytest.raises(SessionLost, match="does not know these CURVE keys"):
            daemon.connect("stranger", timeout=3600)
        assert served(daemon)

    def test_an_unknown_key_is_refused_whenever_the_first_request_comes(self, daemon):
        """Before, while and after ZeroMQ takes the connection down: then there is nobody left to send to."""
        for tenths in range(40):
            context = zmq.Context()
            control = ControlSocket(context, daemon.endpoint, daemon.curve("stranger"))
            time.sleep(tenths / 10_000)
            with pytest.raises(SessionLost, match="does not know these CURVE keys"):
                control.request(schema.Hello(seq=0, min_version=1, max_version=1), schema.Welcome, 60)
            control.close()
            context.term()
        assert served(daemon)

    def test_another_daemons_key_is_no_use(self, daemon):
        other, _ = zmq.curve_keypair()
        own = keys.load_keys(daemon.folder / "one.key_secret")
        with pytest.raises(SessionLost, match=r"does not know these CURVE keys|is gone|no daemon answers"):
            Shim.connect(daemon.endpoint, curve=Curve(own, other), timeout=3)
        assert served(daemon)

    def test_a_client_without_keys_is_told_before_it_connects(self, daemon):
        with pytest.raises(ShimError, match="tcp needs CURVE keys"):
            Shim.connect(daemon.endpoint)

    @pytest.mark.parametrize("place", ["control", "vcpu"])
    def test_plain_peers_hear_nothing(self, daemon, place):
        with daemon.connect() as shim, with_file(daemon, shim, b"h") as vcpu:
            endpoint = daemon.endpoint if place == "control" else vcpu.endpoint
            with Peer(endpoint) as peer:
                peer.send(schema.Hello(seq=1, min_version=1, max_version=1))
                peer.send(b"rubbish")
                peer.send(schema.Kick(session=shim.session, vcpu=0, epoch=1, seq=1))
                assert peer.silent(1.0)
            assert vcpu.run(flat()).reason is DoneReason.HALT

    def test_a_bare_connection_gets_the_transports_greeting_only(self, daemon):
        """ZMTP 3's 64 bytes, the same for everybody: signature, version, mechanism (RFC 23/ZMTP)."""
        null = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
        ready = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
        for words in (b"", null, null + ready, b"GET / HTTP/1.1\r\n\r\n".ljust(64), os.urandom(4096)):
            with socket.create_connection(("127.0.0.1", daemon.port), timeout=2) as bare:
                heard = b""
                with contextlib.suppress(ConnectionError, TimeoutError):
                    bare.sendall(words)
                    while chunk := bare.recv(4096):
                        heard += chunk
                assert len(heard) <= 64
                assert b"x86" not in heard
        assert served(daemon)

    def test_strangers_cost_nothing(self, daemon):
        def size():
            with open(f"/proc/{daemon.process.pid}/statm") as file:
                resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
            return resident, len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

        def visit(count):
            for _ in range(count):
                with socket.create_connection(("127.0.0.1", daemon.port), timeout=5) as bare:
                    bare.sendall(os.urandom(200))
            context = zmq.Context()
            for _ in range(count // 10):
                peer = context.socket(zmq.DEALER)
                peer.linger = 0
                peer.connect(daemon.endpoint)
                peer.send(b"x" * 1000)
                peer.close()
            context.term()

        visit(100)
        before = size()
        visit(500)
        assert served(daemon)
        eventually(lambda: size()[1] <= before[1] + 2)
        assert size()[0] - before[0] < 8 << 20

    def test_nothing_of_the_secret_is_shown(self, daemon):
        secret = keys.load_keys(daemon.folder / "daemon.key_secret").secret
        with daemon.connect():
            for pid in (daemon.process.pid, *children(daemon.process.pid)):
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    assert secret not in file.read()
                with open(f"/proc/{pid}/environ", "rb") as file:
                    assert secret not in file.read()
        assert secret.decode() not in daemon.log.read_text()


def refusal(*arguments):
    done = subprocess.run(
        command("--engine", "fake_engine:create", *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode in (1, 2)
    return done.stderr.strip()


class TestRefusals:
    def test_tcp_without_keys(self):
        said = refusal("--listen", "tcp://127.0.0.1:5555")
        assert "tcp needs CURVE keys: --curve-secret-key FILE and --curve-clients DIR" in said

    def test_half_of_them(self, daemon):
        said = refusal("--listen", "tcp://127.0.0.1:5555", "--curve-clients", str(daemon.folder / "clients"))
        assert "tcp needs CURVE keys: --curve-secret-key FILE (" in said

    def test_keys_on_ipc(self, tmp_path):
        said = refusal("--listen", f"ipc://{tmp_path}/c", "--curve-clients", str(tmp_path))
        assert "CURVE keys are for tcp endpoints" in said

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda d: (d / "daemon.key_secret").chmod(0o640), "others may use this secret key (mode 0640)"),
            (lambda d: (d / "daemon.key_secret").write_bytes((d / "daemon.key").read_bytes()), "no secret key in it"),
            (lambda d: (d / "daemon.key_secret").write_text("hello"), "not a key file"),
            (lambda d: (d / "daemon.key_secret").unlink(), "No such file"),
            (lambda d: (d / "clients" / "one.key").unlink(), "nobody could connect"),
            (lambda d: (d / "clients" / "one.key").write_text('public-key = "short"'), "not a key file"),
            (lambda d: (d / "clients" / "one.key").rename(d / "clients" / "one.txt"), "nobody could connect"),
        ],
    )
    def test_useless_files(self, tmp_path, damage, words):
        (tmp_path / "clients").mkdir()
        keys.make_keys(tmp_path / "daemon")
        keys.make_keys(tmp_path / "clients" / "one")
        damage(tmp_path)
        said = refusal(
            *("--listen", f"tcp://127.0.0.1:{free_port()}"),
            *("--curve-secret-key", str(tmp_path / "daemon.key_secret"), "--curve-clients", str(tmp_path / "clients")),
        )
        assert words in said
        assert len(said.splitlines()) == 1

    def test_a_port_in_use(self, daemon):
        said = refusal(
            *("--listen", daemon.endpoint, "--curve-secret-key", str(daemon.folder / "daemon.key_secret")),
            *("--curve-clients", str(daemon.folder / "clients")),
        )
        assert f"cannot bind {daemon.endpoint}: Address already in use" in said
        assert served(daemon)


def test_a_lost_daemon_is_noticed_over_tcp(tmp_path):
    running = Daemon(tmp_path)
    with running.connect() as shim, with_file(running, shim, b"nJ\x01") as vcpu:
        (worker,) = children(running.process.pid)
        stop(worker)
        running.process.kill()
        running.process.wait()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(SessionLost):
            vcpu.run(flat())
